"""Random schedules of everything that can happen, judged by what must hold in every one of them."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buckets.bucket_map import Consistency, Stage
from sidecar.core.operation import Write
from sidecar.errors import Outcome
from tests.support.fake_cluster import Asked, FakeCluster, FakeLink, FakeSidecar, Move

pytestmark = pytest.mark.usefixtures("lane")  # on both ways of a read

KEYS = (b"a", b"b")
LEVELS = (Consistency.ONE, Consistency.QUORUM, Consistency.QUORUM, Consistency.ALL)
STEPS = (
    ("put", "get", "delete", "deliver", "answer", "flow")
    + ("deliver", "answer") * 4
    + ("cut", "late", "connect", "full", "tick", "wait")
    + ("fence", "publish", "move", "forget", "restart", "stop_learning")
)


class Schedule:
    """Carries out steps, each with a number that chooses among what it could be about."""

    def __init__(self) -> None:
        self.cluster = FakeCluster(nodes=4, zones=4)
        self.cluster.new_sidecar("b")
        self.cluster.on_end = self.judge
        self.broken: list[FakeLink] = []
        self.values = 0
        self.move: Move | None = None
        self.stage = 0
        self.problems: list[str] = []

    def step(self, name: str, number: int) -> None:
        action: Callable[[int], None] = getattr(self, f"do_{name}")
        action(number)
        self.judge_not_applied()

    # --- steps

    def do_put(self, number: int) -> None:
        self.values += 1
        value = b"value-%d" % self.values
        self._sidecar(number).put(KEYS[number % 2], value, LEVELS[number % 4])

    def do_delete(self, number: int) -> None:
        self._sidecar(number).delete(KEYS[number % 2], LEVELS[number % 4])

    def do_get(self, number: int) -> None:
        self._sidecar(number).get(KEYS[number % 2], LEVELS[number % 4])

    def do_deliver(self, number: int) -> None:
        link = self._link(number, lambda link: bool(link.commands))
        if link is not None:
            link.deliver()

    def do_answer(self, number: int) -> None:
        link = self._link(number, lambda link: bool(link.replies))
        if link is not None:
            link.answer()

    def do_flow(self, number: int) -> None:
        link = self._link(number, lambda link: bool(link.commands or link.replies))
        if link is not None:
            link.flow()

    def do_cut(self, number: int) -> None:
        link = self._link(number, lambda link: True)
        if link is not None:
            link.cut(unsent=number % (len(link.commands) + 1))
            self.broken.append(link)

    def do_late(self, number: int) -> None:
        if self.broken:
            self.broken.pop(number % len(self.broken)).arrive_late()

    def do_connect(self, number: int) -> None:
        sidecar = self._sidecar(number)
        missing = [node for node in self.cluster.replicas if node not in sidecar.links]
        if missing:
            sidecar.connect(missing[number % len(missing)])

    def do_full(self, number: int) -> None:
        link = self._link(number, lambda link: True)
        if link is not None:
            link.full = not link.full

    def do_tick(self, number: int) -> None:
        self.cluster.tick()

    def do_wait(self, number: int) -> None:
        self.cluster.wait((0.01, 0.12, 0.3)[number % 3])

    def do_stop_learning(self, number: int) -> None:
        sidecar = self._sidecar(number)
        sidecar.learns = not sidecar.learns

    # --- steps of the control plane: each leaves what the protocol promises

    def do_fence(self, number: int) -> None:
        """An epoch without a change, fenced on all owners and published to nobody yet."""
        if self.move is None:
            self.cluster.change()
            self.cluster.fence_raised(*self._owners())

    def do_publish(self, number: int) -> None:
        self._sidecar(number).adopt(self.cluster.map)

    def do_move(self, number: int) -> None:
        """The next stage of a move of one owner to the node that owns nothing."""
        cluster = self.cluster
        if self.move is None:
            free = ({1, 2, 3, 4} - set(self._owners())).pop()
            cluster.replicas[free].state.hashes.clear()
            cluster.replicas[free].state.logs.clear()
            leaving = number % 3
            new = tuple(free if at == leaving else n for at, n in enumerate(self._owners()))
            self.move = Move(cluster, new)
            self.move.write_both_read_old(fenced=self.move.old[: 2 + number % 2])
            self.stage = 1
        elif self.stage == 1:
            cluster.fence_raised(*self.move.old)
            self.move.copy()
            self.move.write_both_read_new()
            self.stage = 2
        elif self.stage == 2:
            self.move.write_new()
            self.stage = 3
        else:
            pending = cluster.bucket.pending
            cluster.change(owners=pending, pending=(), stage=Stage.OLD)
            cluster.fence_raised(*self._owners())
            self.move = None

    def do_forget(self, number: int) -> None:
        """An owner restarts empty, and is taken back as the protocol says."""
        if self.move is None:
            victim = self._owners()[number % 3]
            self.cluster.crash(victim, empty=True)
            self.cluster.readmit(victim)

    def do_restart(self, number: int) -> None:
        """A node restarts with everything it held, and its new life is trusted."""
        victim = number % 4 + 1
        self.cluster.crash(victim)
        self.cluster.change_node(victim, run_id=self.cluster.life(victim))

    def _owners(self) -> tuple[int, ...]:
        return tuple(owner.node for owner in self.cluster.bucket.owners)

    def _sidecar(self, number: int) -> FakeSidecar:
        return self.cluster.sidecars[number // 8 % 2]

    def _link(self, number: int, wanted: Callable[[FakeLink], bool]) -> FakeLink | None:
        links = [link for s in self.cluster.sidecars for link in s.links.values() if wanted(link)]
        return links[number % len(links)] if links else None

    # --- what must hold

    def asked(self) -> list[Asked]:
        return [asked for sidecar in self.cluster.sidecars for asked in sidecar.asked]

    def judge(self, asked: Asked) -> None:
        """An operation has just ended."""
        if asked.ends != 1:
            self.problems.append(f"{asked} ended {asked.ends} times")
        if asked.op.error is not None or asked.op.level == Consistency.ONE:
            return
        if asked.op.version == b"":
            self._judge_not_older(asked)
            return
        if not self._stands(asked):
            self.problems.append(f"{asked} ended, and no majority holds its version")
        self._judge_not_older(asked)

    def _stands(self, asked: Asked) -> bool:
        """Whether majorities of all sets that are in use hold the version, or a later one."""
        bucket = self.cluster.bucket
        holders = self.cluster.holders(asked.op.key, asked.op.version)
        sets = []
        if bucket.stage in (Stage.OLD, Stage.WRITE_BOTH_READ_OLD):
            sets.append(self._owners())
        if bucket.stage in (Stage.WRITE_BOTH_READ_NEW, Stage.NEW):
            sets.append(tuple(owner.node for owner in bucket.pending))
        return all(len(holders & set(one)) >= 2 for one in sets)

    def _judge_not_older(self, asked: Asked) -> None:
        """What ended at QUORUM before this was asked is not newer than what this found."""
        if isinstance(asked.op, Write):
            return
        for other in self.asked():
            if (
                other.ended
                and other.ended_at < asked.begun
                and other.op.key == asked.op.key
                and other.op.error is None
                and other.op.level != Consistency.ONE
                and other.op.version > asked.op.version
            ):
                self.problems.append(f"{asked} went back behind {other}")

    def judge_not_applied(self) -> None:
        """A value that was said to be not applied is nowhere, and never will be."""
        for asked in self.asked():
            if asked.outcome is Outcome.NOT_APPLIED:
                for number in self.cluster.replicas:
                    record = self.cluster.record(number, asked.op.key)
                    if record is not None and record.version == asked.write.version:
                        self.problems.append(f"{asked} is on replica {number}")

    def finish(self) -> None:
        """Everything arrives or breaks, and every deadline passes."""
        for link in self.broken:
            link.arrive_late()
        self.cluster.flow()
        self.cluster.time_out()
        self.cluster.tick()
        self.judge_not_applied()
        for asked in self.asked():
            if asked.ends != 1:
                self.problems.append(f"{asked} ended {asked.ends} times")
        for sidecar in self.cluster.sidecars:
            if sidecar.core.active:
                self.problems.append(f"{sidecar.core.active} operations still under way")


@pytest.mark.slow
@settings(max_examples=250)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 63)), min_size=20, max_size=120))
def test_in_every_schedule_the_promises_hold(steps: list[tuple[str, int]]) -> None:
    schedule = Schedule()
    for name, number in steps:
        schedule.step(name, number)
        assert not schedule.problems, schedule.problems[0]
    schedule.finish()
    assert not schedule.problems, schedule.problems[0]
