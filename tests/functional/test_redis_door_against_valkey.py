"""The same commands to a real Valkey and to the door of a whole cluster: the same bytes.

What stands behind the door here are scripts and registers on replicas, and a clock that goes on.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import orjson
import pytest

from tests.functional.test_redis_against_valkey import ALIKE, MODIFYING
from tests.functional.test_redis_generated import same
from tests.support import redis_cases as cases
from tests.support.client_days import LEDGER_DATABASE, working_cluster
from tests.support.conversation import packed
from tests.support.local_cluster import second_sidecar, wait_until
from tests.support.servers import Server, start_valkey, stopped_after
from tests.support.valkey_peer import Address, Command, Peer

pytestmark = pytest.mark.slow

Cases = Callable[[], Iterator[Command]]
FREE = "127.0.0.1:0"
TUNABLE, LEDGER = 0, LEDGER_DATABASE
READ_FIRST = (cases.set_options, cases.getex_options, cases.integers, cases.parts)
EVERY_KEY = sorted(
    {
        word
        for case in (*cases.TUNABLE, *READ_FIRST)
        for command in case()
        for word in command[1:]
        if len(word) <= 1024 and word
    }
    | {str(command[1]) for command in (*ALIKE, *MODIFYING) if len(command) > 1 and command[1]},
    key=str,
)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Address]]:
    """A Valkey, and a door that waits longer than a busy machine stands still."""
    folder = tmp_path_factory.mktemp("valkey")
    with stopped_after(start_valkey(folder)) as valkey, working_cluster() as cluster:
        part = second_sidecar(
            cluster,
            "a",
            default_timeout_ms=30_000,
            **dict.fromkeys(("grpc", "redis", "admin"), FREE),
        )
        ports = orjson.loads((cluster.folder / part.name / "ports.json").read_bytes())
        door = Address("127.0.0.1", int(ports["redis"].rpartition(":")[2]))
        with closing(Peer(door)) as peer:
            wait_until(lambda: peer.send("SELECT", str(LEDGER)) == b"+OK\r\n", "it has a map")
        yield valkey, door


@pytest.fixture
def door(beside: tuple[Server, Address]) -> "Door":
    return Door(*beside)


class Door:
    """The door beside a Valkey, both without a key."""

    def __init__(self, valkey: Server, door: Address) -> None:
        self.valkey = valkey
        self._door = door
        with closing(Peer(valkey)) as peer:
            peer.send("FLUSHALL")

    def connect(self, database: int, version: int = 3) -> tuple[Peer, Peer]:
        """Theirs and ours."""
        theirs, ours = Peer(self.valkey), Peer(self._door)
        for peer in (theirs, ours):
            assert not peer.send("HELLO", str(version)).startswith(b"-")
        assert ours.send("SELECT", str(database)) == b"+OK\r\n"
        return theirs, ours

    def differences(
        self, database: int, version: int, commands: list[Command]
    ) -> list[tuple[list[Command], bytes, bytes]]:
        theirs, ours = self.connect(database, version)
        with closing(theirs), closing(ours):
            for first in range(0, len(EVERY_KEY), 1000):
                ours.send("DEL", *EVERY_KEY[first : first + 1000])
            said = [theirs.send_all(commands), ours.send_all(commands)]
        return [
            (commands[max(0, at - 3) : at + 1], *answers)
            for at, answers in enumerate(zip(*said, strict=True))
            if not (same(commands[at], *answers) or same(commands[at], *reversed(answers)))
        ]


@pytest.mark.parametrize(
    ("database", "version"), [(TUNABLE, 2), (TUNABLE, 3), (LEDGER, 3)], ids=str
)
@pytest.mark.parametrize("case", cases.TUNABLE, ids=lambda case: case.__name__)
def test_commands_that_read_nothing_first(
    door: Door, case: Cases, database: int, version: int
) -> None:
    assert door.differences(database, version, list(case())) == []


@pytest.mark.parametrize("case", READ_FIRST, ids=lambda case: case.__name__)
def test_commands_that_read_before_they_write(door: Door, case: Cases) -> None:
    assert door.differences(LEDGER, 3, list(case())) == []


@pytest.mark.parametrize("version", [2, 3])
def test_a_list_of_everything(door: Door, version: int) -> None:
    assert door.differences(TUNABLE, version, list(ALIKE)) == []
    assert door.differences(LEDGER, version, list(MODIFYING)) == []


@pytest.mark.parametrize("database", [TUNABLE, LEDGER], ids=["tunable", "linearizable"])
def test_what_has_expired_is_gone_for_every_command(door: Door, database: int) -> None:
    theirs, ours = door.connect(database)
    asked: list[Command] = [
        *((name, "soon") for name in ("GET", "STRLEN", "TYPE", "TTL", "PTTL", "EXPIRETIME")),
        *((name, "soon", "stays") for name in ("MGET", "EXISTS", "DEL")),
    ]
    with closing(theirs), closing(ours):
        for peer in (theirs, ours):
            peer.send_all([("SET", "soon", "v", "PX", "40"), ("SET", "stays", "v")])
        wait_until(lambda: theirs.send("GET", "soon") == b"_\r\n", "it has expired there")
        wait_until(lambda: ours.send("GET", "soon") == b"_\r\n", "it has expired here")
        assert ours.send_all(asked) == theirs.send_all(asked)


def test_seconds_left_are_rounded_as_there(door: Door) -> None:
    theirs, ours = door.connect(TUNABLE)
    with closing(theirs), closing(ours):
        at_ms = time.time_ns() // 1_000_000 + 100_600  # 101 seconds, and soon 100
        for peer in (theirs, ours):
            peer.send("SET", "k", "v", "PXAT", str(at_ms))
        said: list[tuple[bytes, bytes]] = []
        while {b":101\r\n", b":100\r\n"} > {left for left, _ in said}:
            before, answer, after = (peer.send("TTL", "k") for peer in (theirs, ours, theirs))
            if before == after:
                said.append((before, answer))
        assert [answer for _, answer in said] == [left for left, _ in said]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("database", [TUNABLE, LEDGER], ids=["tunable", "linearizable"])
def test_values_of_a_megabyte(door: Door, database: int, version: int) -> None:
    dice = random.Random(1)
    commands: list[Command] = []
    for number in range(4):
        value = dice.randbytes((1 << 20) - number)
        commands += [("SET", f"large {number}", value), ("GET", f"large {number}")]
        commands += [("GETRANGE", f"large {number}", "500000", "-500000")]
        commands += [("STRLEN", f"large {number}"), ("ECHO", value)]
    commands.append(("MGET", *(f"large {number}" for number in range(5))))
    assert door.differences(database, version, commands) == []


@pytest.mark.parametrize("version", [2, 3])
def test_one_long_pipeline_over_all_buckets(door: Door, version: int) -> None:
    """Without a mark between its replies, parts of which are not to be said at all."""
    dice = random.Random(version)
    keys = [f"pipelined {number}" for number in range(300)]

    def command() -> Command:
        one, other = dice.choices(keys, k=2)
        return dice.choice(
            (
                *((name, one) for name in ("GET", "STRLEN", "EXISTS", "TYPE", "DEL", "NOSUCH")),
                *(("SET", one, "v" * dice.randrange(200)), ("MSET", one, "1", other, "2")),
                *(("MGET", one, other), ("GET",), ("SET", one, "v", "EX", "0")),
                ("CLIENT", "REPLY", dice.choice(("SKIP", "OFF", "ON", "ON"))),
            )
        )

    commands: list[Command] = [("DEL", *keys), *(command() for _ in range(3_000))]
    commands += [("CLIENT", "REPLY", "ON"), ("QUIT",)]
    said = b"".join(packed(*words) for words in commands)
    theirs, ours = door.connect(TUNABLE, version)
    ours.send("DEL", *keys)
    with closing(theirs), closing(ours):
        assert ours.until_closed(said) == theirs.until_closed(said)
