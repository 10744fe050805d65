"""Get without protobuf's classes: the same as with them, or not at all."""

from random import Random

import pytest

from protos.dabbawala.v1 import data_pb2 as pb
from replicas.record import encode_record
from sidecar.net.get_messages import LEARN_EACH, GetForms, encode_get_response, encode_level
from sidecar.net.get_service import level_reached

VERSION = bytes(range(16))
SEED = 7
QUORUM = pb.GetRequest(consistency=pb.CONSISTENCY_QUORUM).SerializeToString()


def learned(*requests: pb.GetRequest) -> GetForms:
    """After enough of each."""
    forms = GetForms()
    for request in requests:
        for _ in range(LEARN_EACH):
            forms.learn(request.SerializeToString(), request)
    return forms


USUAL = (
    pb.GetRequest(key=b"k"),
    pb.GetRequest(keyspace="orders", key=b"key:1", consistency=pb.CONSISTENCY_QUORUM),
    pb.GetRequest(keyspace="w\u00e4hrung", key=b"k", timeout_ms=250),
    pb.GetRequest(key=b"k", consistency=pb.CONSISTENCY_ONE, timeout_ms=100_000),
)


@pytest.mark.parametrize("request_", USUAL, ids=str)
def test_what_was_seen_is_read_whatever_the_key(request_: pb.GetRequest) -> None:
    forms = learned(request_)
    for key in (b"k", b"\x12\x01\x18\n", b"x" * 127):
        request_.key = key
        assert forms.read(request_.SerializeToString()) == (
            request_.keyspace,
            key,
            request_.consistency,
            request_.timeout_ms,
        )


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\n",
        b"\n\x01",
        b"\x12",
        pb.GetRequest(key=b"x" * 128).SerializeToString(),
        pb.GetRequest(key=b"k", session=b"new").SerializeToString(),
        pb.GetRequest(key=b"k", max_staleness_ms=1).SerializeToString(),
        pb.GetRequest(keyspace="k" * 200, key=b"k").SerializeToString(),
        b"\x12\x01k\x12\x01l",
        b"\x12\x01k\n\x01q",
        b"\n\x01q\n\x01r\x12\x01k",
        b"\n\x00\x12\x01k",
        b"\x12\x01k\x18\x00",
        b"\x12\x01k\x18\x83\x00",
        b"\x12\x01k\x20\x05\x18\x03",
    ],
)
def test_what_protobuf_would_not_write_so_is_left_to_it(message: bytes) -> None:
    forms = learned(*USUAL)
    for _ in range(2 * LEARN_EACH):
        assert forms.read(message) is None
        if message not in (b"\n", b"\n\x01", b"\x12"):  # those are no messages
            forms.learn(message, pb.GetRequest.FromString(message))


@pytest.mark.parametrize(
    "message",
    [
        b"\x12\x05k",
        b"\n\x06orders\x12\x05k" + QUORUM,
        b"\x12\x80\x01" + b"k" * 128,
        b"\n\x06orders\x12\x82\x01" + b"k" * 129 + QUORUM,
    ],
)
def test_a_message_cut_short_or_a_long_length_is_left_to_protobuf(message: bytes) -> None:
    assert learned(*USUAL).read(message) is None


def test_no_mutation_means_something_else_to_protobuf() -> None:
    dice = Random(SEED)
    forms = learned(*USUAL)
    read = 0
    for _ in range(20_000):
        message = bytearray(dice.choice(USUAL).SerializeToString())
        for _ in range(dice.randint(0, 2)):
            at = dice.randrange(len(message) + 1)
            message[at : at + dice.randint(0, 1)] = dice.choice(
                (b"", b"\x12", b"\n", b"\x18\x03", b"\x01k", dice.randbytes(1))
            )
        found = forms.read(bytes(message))
        if found is not None:
            read += 1
            keyspace, key, level, timeout_ms = found
            assert pb.GetRequest.FromString(bytes(message)) == pb.GetRequest(
                keyspace=keyspace, key=key, consistency=level_reached(level), timeout_ms=timeout_ms
            )
    assert read > 1000


def test_clients_that_never_repeat_themselves_fill_nothing() -> None:
    forms = GetForms()
    for number in range(100 * LEARN_EACH):
        request = pb.GetRequest(keyspace=f"k{number}", key=b"k", timeout_ms=number)
        forms.learn(request.SerializeToString(), request)
    usual = USUAL[1]
    for _ in range(LEARN_EACH):
        forms.learn(usual.SerializeToString(), usual)
    assert forms.read(usual.SerializeToString()) is not None
    assert forms.count <= 256


@pytest.mark.parametrize("size", [0, 1, 127, 128, 20_000])
@pytest.mark.parametrize("expires_at_ms", [0, 1_763_700_000_000])
def test_a_response_is_what_protobuf_writes(size: int, expires_at_ms: int) -> None:
    value = b"v" * size
    raw = encode_record(VERSION, value, expires_at_ms=expires_at_ms)
    response = pb.GetResponse(
        found=True,
        value=value,
        version=VERSION,
        consistency=pb.CONSISTENCY_QUORUM,
        expires_at_ms=expires_at_ms,
    )
    level = encode_level(pb.CONSISTENCY_QUORUM)
    assert encode_get_response(raw, value, level) == response.SerializeToString()


def test_so_is_that_of_a_tombstone_and_of_nothing() -> None:
    level = encode_level(pb.CONSISTENCY_ALL)
    raw = encode_record(VERSION, b"", tombstone=True)
    deleted = pb.GetResponse(version=VERSION, consistency=pb.CONSISTENCY_ALL)
    assert encode_get_response(raw, None, level) == deleted.SerializeToString()
    never = pb.GetResponse(consistency=pb.CONSISTENCY_ALL)
    assert encode_get_response(None, None, level) == never.SerializeToString()
