import pytest
from hiredis import Reader

from replicas.commands import (
    entry_command,
    pack_command,
    pack_limits,
    read_command,
    read_prefix,
    split_write_suffix,
    write_prefix,
    write_suffix,
)
from replicas.layout import bucket_keys
from replicas.scripts import SCRIPTS

KEYS = bucket_keys("places", 17)
EVERY_KIND_OF_KEY = [b"k", b"mumbai", b"\x00\r\n$5\r\n", b"\xff" * 1024]


def parsed(command: bytes) -> object:
    reader = Reader()
    reader.feed(command)
    arguments = reader.gets()
    assert reader.gets() is False, "more than one command"
    return arguments


@pytest.mark.parametrize("key", EVERY_KIND_OF_KEY)
def test_a_read_asks_for_fence_and_record(key: bytes) -> None:
    command = read_command(read_prefix(KEYS), key)
    assert parsed(command) == [b"HMGET", KEYS.data, b"f", b"k" + key]


@pytest.mark.parametrize("key", EVERY_KIND_OF_KEY)
def test_a_write_runs_the_script_with_its_arguments(key: bytes) -> None:
    limits = pack_limits(500, 1 << 20)
    command = write_prefix(KEYS, 5, 9) + write_suffix(key, b"record\r\n", limits)
    assert parsed(command) == [
        *(b"EVALSHA", SCRIPTS["write"].sha, b"2", KEYS.data, KEYS.log),
        *(bytes(7) + b"\x05", bytes(7) + b"\x09", b"k" + key, b"record\r\n"),
        b"\x00\x00\x01\xf4\x00\x10\x00\x00",
    ]


@pytest.mark.parametrize("key", EVERY_KIND_OF_KEY)
@pytest.mark.parametrize("record", [b"", b"record\r\n$3\r\n", bytes(100_000)])
def test_key_and_record_are_found_again_in_what_was_sent(key: bytes, record: bytes) -> None:
    suffix = write_suffix(key, record, pack_limits(500, 1 << 20))
    assert split_write_suffix(suffix) == (key, record)


def test_limits_beyond_32_bits_are_capped() -> None:
    command = write_prefix(KEYS, 5, 9) + write_suffix(b"k", b"", pack_limits(1 << 40, 1 << 40))
    arguments = parsed(command)
    assert isinstance(arguments, list)
    assert arguments[-1] == b"\xff" * 8


def test_the_map_entry_is_read_with_its_fence() -> None:
    assert parsed(entry_command(KEYS)) == [b"HMGET", KEYS.data, b"f", b"m"]


def test_any_command_can_be_packed() -> None:
    assert parsed(pack_command(b"SET", b"", b"\r\n")) == [b"SET", b"", b"\r\n"]
