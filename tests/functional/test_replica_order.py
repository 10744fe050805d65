"""The order of versions and records is one, in Python and in Lua, whatever the server's locale."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from replicas.record import Record, decode_record
from replicas.version import ZERO_VERSION
from tests.support.replica_records import sealed, version_at
from tests.support.replica_subjects import ServerSubject
from tests.support.servers import ServerFailed, installed, start_redis, start_valkey, stopped_after

LUA_PARTS = Path(__file__).parents[2] / "replicas" / "scripts" / "lib"
RECORD_LUA = (LUA_PARTS / "record.lua").read_bytes()

# One call judges a whole batch. Keys are none; the arguments come in pairs.
ABOVE = (
    RECORD_LUA
    + b"""
local out = {}
for i = 1, #ARGV, 2 do out[#out + 1] = above(ARGV[i], ARGV[i + 1]) and 1 or 0 end
return out
"""
)
READ = (
    RECORD_LUA
    + b"""
local version, kind, expires_at_ms, linearizable = read_record(ARGV[1])
if not version then return false end
return { version, kind, string.format('%.0f', expires_at_ms), linearizable and 1 or 0,
  string.format('%.0f', version_ms(version)), tiebreak(ARGV[1], kind) }
"""
)

edges = st.sampled_from([0, 1, 255, 256, (1 << 53) - 1, 1 << 53, (1 << 53) + 1, (1 << 64) - 1])
clocks = edges | st.integers(0, (1 << 64) - 1)
writers = st.sampled_from([b"node-B\x00\x00", b"node_a\x00\x00", b"NODE_a\x00\x00"]) | st.binary(
    min_size=8, max_size=8
)
versions = st.builds(lambda clock, writer: clock.to_bytes(8, "big") + writer, clocks, writers)


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the locale en_US.UTF-8, compiled here so that no system setting is needed."""
    folder = tmp_path_factory.mktemp("locales")
    command = [installed("localedef"), "-i", "en_US", "-f", "UTF-8", str(folder / "en_US.UTF-8")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    # Warnings give status 1; what counts is the result.
    if not (folder / "en_US.UTF-8" / "LC_COLLATE").exists():
        raise ServerFailed(
            f"the locale en_US.UTF-8 can not be made: {done.stderr.strip()}. Its sources come with"
            " Debian's package locales. Install it: make peers"
        )
    return folder


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((program, locale), id=f"{program}-{locale}", marks=marks)
        for program, marks in (("valkey", ()), ("redis", (pytest.mark.peers,)))
        for locale in ("C", "en_US.UTF-8")
    ],
)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, english: Path
) -> Iterator[ServerSubject]:
    program, locale = request.param
    start = start_valkey if program == "valkey" else start_redis
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LOCPATH", str(english))
        environment.setenv("LC_ALL", locale)
        running = start(tmp_path_factory.mktemp(program))
    with stopped_after(running):
        connected = ServerSubject(running)
        yield connected
        connected.close()


@pytest.mark.slow
@pytest.mark.peers
def test_the_locale_does_change_how_lua_compares_strings(
    english: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCPATH", str(english))
    answers = {}
    for locale in ("C", "en_US.UTF-8"):
        monkeypatch.setenv("LC_ALL", locale)
        with stopped_after(start_redis(tmp_path_factory.mktemp("redis"))) as running:
            subject = ServerSubject(running)
            answers[locale] = subject.call(b"EVAL", b"return 'node-B' < 'node_a' and 1 or 0", b"0")
            subject.close()
    assert answers["C"] != answers["en_US.UTF-8"]


@pytest.mark.slow
@given(pairs=st.lists(st.tuples(versions, versions), min_size=1, max_size=50))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(pairs=[(version_at(1, 0, b"node-B\0\0"), version_at(1, 0, b"node_a\0\0"))])
@example(pairs=[((1 << 53).to_bytes(8, "big") * 2, ((1 << 53) + 1).to_bytes(8, "big") * 2)])
@example(pairs=[(ZERO_VERSION, ZERO_VERSION)])
def test_versions_order_in_lua_as_in_python(
    server: ServerSubject, pairs: list[tuple[bytes, bytes]]
) -> None:
    both_ways = pairs + [(b, a) for a, b in pairs]
    flat = [version for pair in both_ways for version in pair]
    assert server.call(b"EVAL", ABOVE, b"0", *flat) == [int(a > b) for a, b in both_ways]


bodies = st.builds(
    lambda version, flags, expiry, rest: version + bytes([flags]) + expiry + rest,
    versions,
    st.integers(0, 17),
    st.sampled_from([b"", bytes(8), b"\0\0\x7f" + b"\xff" * 5, b"\0\1" + bytes(6)])
    | st.binary(min_size=8, max_size=8),
    st.binary(max_size=4),
)


@pytest.mark.slow
@given(raw=bodies.map(sealed) | st.binary(max_size=40))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(raw=b"")
@example(raw=sealed(bytes(16)))
def test_lua_reads_from_a_record_what_python_reads(server: ServerSubject, raw: bytes) -> None:
    reply = server.call(b"EVAL", READ, b"0", raw)
    record = decode_record(raw)
    assert reply == (None if record is None else as_lua_reads_it(record))


def as_lua_reads_it(record: Record) -> list[object]:
    return [
        record.version,
        record.flags & 7,
        b"%d" % record.expires_at_ms,
        record.flags >> 3,
        b"%d" % int.from_bytes(record.version[:6], "big"),
        record.order[16:],
    ]
