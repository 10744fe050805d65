"""The order of versions and records is one, in Python and in Lua, whatever the server's locale."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from buckets.bucket_map import Consistency
from replicas.record import Record, decode_record
from replicas.version import ZERO_VERSION
from tests.support.fake_cluster import KEYS, FakeCluster
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


# --- eight sidecars, one millisecond

SIDECARS = 8
SHARED_KEYS = [b"key-%d" % number for number in range(5)]
MISS_TURNS = 40


class RealReplica:
    """A real server in the place of a simulated one."""

    def __init__(self, subject: ServerSubject, run_id: bytes) -> None:
        self.run_id = run_id
        self.subject = subject

    def execute(self, command: bytes, _now_ms: int) -> object:
        return self.subject.execute(command)


@pytest.fixture
def mixed(tmp_path: Path, english: Path) -> Iterator[FakeCluster]:
    """Three servers, in two locales and of two makes, that own one bucket."""
    cluster = FakeCluster()
    kinds = ((start_valkey, "C"), (start_valkey, "en_US.UTF-8"), (start_redis, "en_US.UTF-8"))
    with ExitStack() as stack:
        for number, (start, locale) in enumerate(kinds, 1):
            folder = tmp_path / str(number)
            folder.mkdir()
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv("LOCPATH", str(english))
                environment.setenv("LC_ALL", locale)
                subject = ServerSubject(stack.enter_context(stopped_after(start(folder))))
            stack.callback(subject.close)
            real = RealReplica(subject, cluster.replicas[number].run_id)
            cluster.replicas[number] = real  # type: ignore[assignment]
            cluster.fence_created(number)
        yield cluster


def contents(cluster: FakeCluster, number: int) -> dict[bytes, bytes]:
    replica = cluster.replicas[number]
    assert isinstance(replica, RealReplica)
    fields = replica.subject.fields(KEYS.data)
    return {field: raw for field, raw in fields.items() if field.startswith(b"k")}


@pytest.mark.slow
@pytest.mark.peers
@pytest.mark.parametrize("seed", range(3))
def test_eight_sidecars_that_write_the_same_keys_in_one_millisecond_leave_replicas_identical(
    mixed: FakeCluster, seed: int
) -> None:
    """The clock stands still, so counters and writers alone decide; what arrives when is random."""
    chance = Random(seed)
    sidecars = [mixed.sidecar, *(mixed.new_sidecar() for _ in range(SIDECARS - 1))]
    asked = []
    for turn in range(400):
        writer = chance.choice(sidecars)
        key, value = chance.choice(SHARED_KEYS), b"%d" % turn
        asked.append(writer.put(key, value, Consistency.ONE))
        if turn % MISS_TURNS == 0:  # a link breaks under what is on its way
            number = chance.choice((1, 2, 3))
            writer.links[number].cut()
            writer.connect(number)
        for _ in range(chance.randrange(6)):
            link = chance.choice(list(chance.choice(sidecars).links.values()))
            link.deliver(chance.randint(0, len(link.commands)))
            link.answer(chance.randint(0, len(link.replies)))
    mixed.flow()
    assert len({one.write.version[:6] for one in asked}) == 1  # one millisecond
    assert len({one.write.version for one in asked}) == len(asked)
    for key in SHARED_KEYS:
        mixed.sidecar.get(key, Consistency.ALL)  # repairs what differs
        mixed.flow()
    first, *others = [contents(mixed, number) for number in (1, 2, 3)]
    assert set(first) == {b"k" + key for key in SHARED_KEYS}
    assert others == [first, first]
