"""Get of the gRPC door: whether it is read with others or by itself, nobody can tell."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from buckets.bucket_map import Consistency
from protos.dabbawala.v1 import data_pb2 as pb
from replicas.layout import user_field
from sidecar.core.fast_lane import LoneKey
from sidecar.net.data_service import SERVICE, DataService
from sidecar.wire import http2_frames as h2
from sidecar.wire.grpc import Call, GrpcRoutes
from tests.support.fake_cluster import KEYSPACE, START_MS, FakeCluster
from tests.support.http2_playbook import Peer, call
from tests.support.replica_records import flip

DEADLINE_EXCEEDED = 4
A, B, C = b"a", b"b", b"c"


class Asked(Call):
    """A call, and its one end."""

    def __init__(self, timeout_ns: int | None = None) -> None:
        super().__init__(method=b"", metadata=(), timeout_ns=timeout_ns)
        self.ends: list[tuple[int, bytes]] = []
        self.deadline = 0.0

    @property
    def cancelled(self) -> bool:
        return False

    def respond(self, message: bytes) -> None:
        self.ends.append((0, message))

    def finish(self, status: int = 0, message: str = "", details: bytes = b"") -> None:
        self.ends.append((status, details))


class Door:
    """The service over a cluster of fakes; `joins`: plain Gets are read together."""

    def __init__(self, *, joins: bool = True) -> None:
        self.cluster = FakeCluster()
        self.joined: list[LoneKey] = []
        self.calls: list[Asked] = []
        core: Any = self.cluster.sidecar.core
        join = core.join_batch

        def watched(lone: LoneKey, deadline: float) -> bool:
            joined: bool = joins and join(lone, deadline)
            self.joined += [lone] * joined
            return joined

        core.join_batch = watched
        self._soon: list[Callable[[], None]] = []
        self.service = DataService(core, lambda: self.cluster.now_s, self._soon.append)
        self._get = self.service.handlers()[SERVICE + b"Get"]

    def ask(self, timeout_ns: int | None = None, **request: Any) -> Asked:
        """A Get, as others of its turn."""
        request.setdefault("keyspace", KEYSPACE)
        asked = Asked(timeout_ns)
        asked.deadline = self.cluster.now_s + (timeout_ns or 1e9) / 1e9
        self.calls.append(asked)
        self._get(asked, pb.GetRequest(**request).SerializeToString())
        return asked

    def end_turn(self) -> None:
        soon, self._soon[:] = self._soon[:], []
        for act in soon:
            act()

    def answer(self, **request: Any) -> list[tuple[int, bytes]]:
        """What a Get alone is answered."""
        asked = self.ask(**request)
        self.end_turn()
        self.cluster.flow()
        return asked.ends


def filled(door: Door) -> Door:
    """A key of each kind."""
    for key, value, more in (
        (b"value", b"v", {}),
        (b"empty", b"", {}),
        (b"large", b"v" * 100_000, {}),
        (b"expires", b"v", {"expires_at_ms": START_MS + 60_000}),
        (b"empty that expires", b"", {"expires_at_ms": START_MS + 60_000}),
        (b"expired", b"v", {"expires_at_ms": START_MS + 1}),
        (b"deleted", b"v", {}),
        (b"k" * 200, b"v", {}),
    ):
        door.cluster.put(key, value, Consistency.ALL, **more)
    door.cluster.flow()
    door.cluster.sidecar.delete(b"deleted", Consistency.ALL)
    door.cluster.flow()
    door.cluster.wait(0.01)
    return door


KINDS = (
    b"value", b"empty", b"large", b"expires", b"empty that expires", b"expired", b"deleted",
    b"k" * 200, b"never",
)  # fmt: skip


@pytest.mark.parametrize("key", KINDS)
def test_the_answer_is_the_same_byte_by_byte(key: bytes) -> None:
    joined, alone = filled(Door()), filled(Door(joins=False))
    answer: list[tuple[int, bytes]] = []
    for _ in range(40):  # what is seen often is not read by protobuf any more
        answer = joined.answer(key=key, consistency=pb.CONSISTENCY_QUORUM)
        assert answer == alone.answer(key=key, consistency=pb.CONSISTENCY_QUORUM)
    assert [status for status, _ in answer] == [0]
    response = pb.GetResponse.FromString(answer[0][1])
    assert response.consistency == pb.CONSISTENCY_QUORUM
    assert response.found == (key not in (b"expired", b"deleted", b"never"))
    assert len(joined.joined) == 40


@pytest.mark.parametrize(
    "request_fields",
    [
        {"key": A, "consistency": 99},
        {"key": A, "consistency": pb.CONSISTENCY_BOUNDED, "max_staleness_ms": 5},
        {"key": A, "consistency": pb.CONSISTENCY_ANY},
        {"key": A, "session": b"wrong"},
        {"key": A, "keyspace": "unheard of"},
        {"key": b""},
        {"key": b"x" * 2000},
    ],
    ids=str,
)
def test_what_is_refused_is_refused_the_same(request_fields: dict[str, Any]) -> None:
    joined, alone = filled(Door()), filled(Door(joins=False))
    for _ in range(20):
        answer = joined.answer(**request_fields)
        assert answer == alone.answer(**request_fields)
        assert answer[0][0]
    assert not joined.joined


@pytest.mark.parametrize(
    "session", [{"session": b"new"}, {"consistency": pb.CONSISTENCY_SESSION}], ids=str
)
def test_a_get_of_a_session_is_read_by_itself(session: dict[str, Any]) -> None:
    door = filled(Door())
    for _ in range(20):
        door.answer(key=A, **session)
    assert not door.joined


def test_those_of_one_turn_are_read_together() -> None:
    door = filled(Door())
    for key in (b"value", b"never", b"large"):
        door.ask(key=key)
    door.end_turn()
    door.cluster.flow()
    found = [pb.GetResponse.FromString(asked.ends[0][1]).value for asked in door.calls]
    assert found == [b"v", b"", b"v" * 100_000]


# --- deadlines


@pytest.mark.parametrize("timeouts_ms", [(50, 800), (800, 50)])
@pytest.mark.parametrize("of_grpc", [True, False])
def test_each_call_has_its_own_deadline(timeouts_ms: tuple[int, int], of_grpc: bool) -> None:
    door = filled(Door())
    began_s = door.cluster.now_s
    for timeout_ms in timeouts_ms:
        if of_grpc:
            door.ask(timeout_ms * 1_000_000, key=b"value", consistency=pb.CONSISTENCY_ALL)
        else:
            door.ask(key=b"value", timeout_ms=timeout_ms, consistency=pb.CONSISTENCY_ALL)
    door.end_turn()
    for timeout_ms in sorted(timeouts_ms):
        asked = door.calls[timeouts_ms.index(timeout_ms)]
        while door.cluster.now_s < began_s + timeout_ms / 1000:
            assert not asked.ends
            door.cluster.wait(0.004)
        door.cluster.wait(0.005)
        assert [status for status, _ in asked.ends] == [DEADLINE_EXCEEDED]
    assert len(door.joined) == 2


def test_who_has_time_is_answered_after_another_s_deadline() -> None:
    door = filled(Door())
    all_are_asked = {"key": b"value", "consistency": pb.CONSISTENCY_ALL}
    hasty, patient = [door.ask(ns, **all_are_asked) for ns in (20_000_000, 900_000_000)]
    door.end_turn()
    door.cluster.wait(0.03)
    assert [status for status, _ in hasty.ends] == [DEADLINE_EXCEEDED]
    assert not patient.ends
    door.cluster.flow()
    assert [status for status, _ in patient.ends] == [0]
    assert len(hasty.ends) == 1


# --- random schedules


def _get(door: Door, dice: Random) -> None:
    _ask(door, dice)
    door.end_turn()


def _gets(door: Door, dice: Random) -> None:
    for _ in range(dice.randint(2, 5)):
        _ask(door, dice)
    door.end_turn()


def _ask(door: Door, dice: Random) -> None:
    timeout_ns = dice.choice((None, 5_000_000, 60_000_000, 3_000_000_000))
    level = dice.choice((0, pb.CONSISTENCY_ONE, pb.CONSISTENCY_QUORUM, pb.CONSISTENCY_ALL))
    door.ask(timeout_ns, key=dice.choice((A, B, C)), consistency=level)


def _put(door: Door, dice: Random) -> None:
    more = {"expires_at_ms": START_MS + dice.randrange(500)} if dice.random() < 0.3 else {}
    door.cluster.put(dice.choice((A, B)), b"%d" % dice.randrange(10), Consistency.ALL, **more)


def _flow(door: Door, dice: Random) -> None:
    link = door.cluster.sidecar.links.get(dice.randint(1, 3))
    if link is not None:
        link.flow()


def _wait(door: Door, dice: Random) -> None:
    door.cluster.wait(dice.choice((0.005, 0.02, 0.2)))


def _cut(door: Door, dice: Random) -> None:
    number = dice.randint(1, 3)
    door.cluster.link(number).cut()
    door.cluster.sidecar.connect(number)


def _flip(door: Door, dice: Random) -> None:
    fields, at = door.cluster.fields(dice.randint(1, 3)), dice.randrange(20)
    if user_field(A) in fields:
        fields[user_field(A)] = flip(fields[user_field(A)], at)


STEPS = (_flow,) * 8 + (_put, _put, _wait, _wait, _cut)


def prepared(door: Door) -> Door:
    # No two are equally good, or the lanes would take turns differently.
    for number, peer in door.cluster.sidecar.core.peers.items():
        peer.latency_s = 0.0005 * 4**number
    door.cluster.sidecar.core.health_changed()
    door.cluster.tick()  # the one sample of a tick is taken in either lane
    return door


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_a_call_that_may_be_joined_is_answered_like_any_other(seed: int) -> None:
    doors = [prepared(Door()), prepared(Door(joins=False))]
    dice = [Random(seed), Random(seed)]
    for _ in range(100):
        for door, own in zip(doors, dice, strict=True):
            own.choice(STEPS + (_get,) * 5)(door, own)
        joined, alone = [[asked.ends for asked in door.calls] for door in doors]
        assert joined == alone
    assert doors[0].joined


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_each_of_many_ends_once_and_in_time(seed: int) -> None:
    door, dice = prepared(Door()), Random(seed)
    for _ in range(100):
        dice.choice((*STEPS, _flip, _gets, _gets, _gets))(door, dice)
        door.cluster.tick()
        late = [asked for asked in door.calls if asked.deadline < door.cluster.now_s - 0.005]
        assert all(len(asked.ends) == 1 for asked in late)
    door.cluster.wait(4.0)
    assert all(len(asked.ends) == 1 for asked in door.calls)
    assert {status for asked in door.calls for status, _ in asked.ends} >= {0, DEADLINE_EXCEEDED}
    assert door.cluster.sidecar.core.active == 0


# --- clients that leave


def test_a_cancelled_call_ends_quietly_and_the_others_are_answered() -> None:
    door = filled(Door())
    peer = Peer(GrpcRoutes(door.service.handlers()))
    body = pb.GetRequest(keyspace=KEYSPACE, key=b"value").SerializeToString()
    for stream in (1, 3):
        peer.says(call(stream, "/dabbawala.v1.Data/Get", body))
    peer.says(h2.frame(h2.RST_STREAM, 0, 1, h2.UINT32.pack(h2.CANCEL)))
    door.end_turn()
    assert peer.hears() == []
    door.cluster.flow()
    assert len(door.joined) == 2
    assert [line.split()[:2] for line in peer.hears()] == [
        ["HEADERS", "3"],
        ["DATA", "3"],
        ["TRAILERS", "3"],
    ]
    assert peer.http.streams == {}
    assert peer.counters.calls_started == peer.counters.calls_ended == 2
