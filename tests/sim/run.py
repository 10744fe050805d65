"""One run: a cluster, its clients, its faults, all from one seed; then peace, and the evidence."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from buckets.bucket_map import Bucket, BucketMap, Consistency, Keyspace, Mode, Owner, Stage
from buckets.topology import Node, NodeState
from replicas.commands import create_fence
from replicas.fence import Fence, Role
from tests.sim.checkers import violations
from tests.sim.clients import Client
from tests.sim.controller import Controller
from tests.sim.faults import Faults
from tests.sim.history import History, Op
from tests.sim.network import Network
from tests.sim.register_client import RegisterClient
from tests.sim.register_history import COUNTER, LIST, REGISTER, RegisterOp
from tests.sim.schedule import Schedule
from tests.sim.server import KEYS, KEYSPACE, SETTINGS, SimServer
from tests.sim.sidecar import SimSidecar
from tests.sim.store import Store, responses
from tests.sim.tending import tend
from tests.sim.trace import Trace

TURMOIL_S = 3.5  # faults and operations
PEACE_S = 2.5  # everything is mended
LEADER_AFTER_S = 0.3  # until another leads


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one seed."""

    seed: int
    operations: int
    outcomes: Counter[str]
    faults: Counter[str]
    changes: Counter[str]  # by the control plane
    violations: list[str]
    trace: list[str] = field(default_factory=list)


class Run:
    """The simulated world of one seed."""

    def __init__(
        self, seed: int, *, fault: str = "", mode: Mode | None = None, trace: bool = False
    ) -> None:
        self.rng = Random(seed)
        self.mode = mode if mode is not None else (Mode.LINEARIZABLE, Mode.TUNABLE)[seed % 2]
        self.seed = seed
        self.schedule = Schedule()
        self.trace = Trace(self.schedule, trace)
        self.history = History(linearizable=self.mode is Mode.LINEARIZABLE)
        self.network = Network(self.schedule, self.trace, self.rng)
        rng = self.rng
        self.replication = 3 if rng.random() < 0.8 else 5
        node_count = self.replication + rng.choice(
            (0, 1, 2, 3) if self.replication == 3 else (0, 1)
        )
        self.servers = {
            number: SimServer(number, self.history, self.trace, lambda: self.schedule.now)
            for number in range(1, node_count + 1)
        }
        self.keys = self._keys(rng.randint(1, 3))
        self.store = Store(self._first_map(), self.history, self.trace)
        self.store.publish = self._published
        self._encoded: dict[int, list[bytes]] = {}
        self._create_fences()
        self.cut_off: set[str] = set()  # sidecars that no control plane reaches
        self.sidecars = [SimSidecar(self, number) for number in range(rng.randint(2, 3))]
        self.waiting: dict[int, Callable[[], None]] = {}
        for sidecar in self.sidecars:
            sidecar.ended = self._op_ended
        self.controller_dies = self.controller_sleeps = 0.0
        self._controllers = 0
        self.leader: Controller | None = None
        self.faults = Faults(self, fault)
        self._published()

    # --- the beginning

    def _keys(self, count: int) -> list[bytes]:
        if self.mode is Mode.TUNABLE:
            return [b"key%d" % number for number in range(count)]
        kinds = self.rng.sample([REGISTER, REGISTER, COUNTER, LIST], count)
        return [kind + b"%d" % number for number, kind in enumerate(kinds)]

    def _first_map(self) -> BucketMap:
        nodes = {
            number: Node(
                number=number,
                id=server.name,
                host="127.0.0.1",
                port=7000 + number,
                zone=server.zone,
                incarnation=10 * number,
                run_id=server.replica.run_id,
            )
            for number, server in self.servers.items()
        }
        owners = tuple(Owner(n, nodes[n].incarnation) for n in range(1, self.replication + 1))
        keyspaces = {KEYSPACE: Keyspace(SETTINGS[self.mode], (Bucket(0, 1, owners),))}
        return BucketMap("sim", 1, nodes, keyspaces)

    def _create_fences(self) -> None:
        for owner in self.store.bucket.owners:
            fence = Fence(1, Stage.OLD, Role.OWNER, owner.incarnation).encode()
            command = create_fence(KEYS, fence, self.store.entry())
            self.servers[owner.node].execute(command, "creation")

    # --- the control plane

    def elect(self) -> None:
        """A new leader takes office."""
        self._controllers += 1
        name = f"cp{self._controllers}"
        self.store.leader = name
        self.trace(name, "leads")
        self.leader = Controller(self, name, tend)

    def controller_ended(self, controller: Controller) -> None:
        """Another follows, unless one has already."""
        if self.store.leader == controller.name:
            self.schedule.after(LEADER_AFTER_S, self._elect_after, controller.name)

    def controller_froze(self, controller: Controller) -> None:
        """Its session ends; it will wake up, and think that it leads."""
        self.faults.count("controller sleeps")
        self.schedule.after(LEADER_AFTER_S, self._elect_after, controller.name)
        self.schedule.after(self.rng.uniform(0.1, 2.5), controller.wake)

    def _elect_after(self, name: str) -> None:
        if self.store.leader == name:
            self.elect()

    def _published(self) -> None:
        for sidecar in self.sidecars:
            if sidecar.name not in self.cut_off:
                delay_s = self.network.delay_s()
                self.schedule.after(delay_s, self.deliver, sidecar, self.store.map)

    def deliver(self, sidecar: SimSidecar, bucket_map: BucketMap) -> None:
        """A map reaches a sidecar, be it the newest or not."""
        revision = bucket_map.revision
        if revision not in self._encoded:
            self._encoded[revision] = responses(bucket_map)
        sidecar.take(self._encoded[revision])

    def reconnect(self, sidecar: SimSidecar) -> None:
        """A control plane reaches the sidecar again."""
        self.cut_off.discard(sidecar.name)
        self.schedule.after(self.network.delay_s(), self.deliver, sidecar, self.store.map)

    # --- operations

    def _op_ended(self, op: Op) -> None:
        tell_client = self.waiting.pop(op.number, None)
        if tell_client is not None:
            tell_client()

    def everything(self) -> Result:
        """Turmoil, peace, judgement."""
        rng = self.rng
        self.schedule.run_until(0.05)
        self.elect()
        for number in range(rng.randint(3, 5)):
            kind = Client if self.mode is Mode.TUNABLE else RegisterClient
            kind(self, number, rng.randint(8, 14)).think()
        self.faults.plan(TURMOIL_S)
        self.schedule.run_until(TURMOIL_S)
        self.faults.stop()
        self.schedule.run_until(TURMOIL_S + PEACE_S)
        self._last_reads()
        self._gather()
        return Result(
            self.seed,
            len(self.history.ops),
            Counter(op.outcome for op in self.history.ops),
            self.faults.counts,
            self.store.changes,
            violations(self.history),
            self.trace.lines,
        )

    # --- the end

    def _last_reads(self) -> None:
        """Every key at QUORUM by every sidecar, then at ALL, when nothing stands in the way."""
        history = self.history
        answered = self._read_all(Consistency.QUORUM)
        history.read_at_quorum = frozenset(op.key for op in answered)
        tunable = self.mode is Mode.TUNABLE
        if tunable and self.store.bucket.stage is Stage.OLD and self._all_trusted():
            history.read_at_all = frozenset(op.key for op in self._read_all(Consistency.ALL))

    def _read_all(self, level: Consistency) -> list[Op]:
        asked = []
        for sidecar in self.sidecars:
            for key in self.keys:
                number = len(self.history.ops) + 1
                kind = Op if self.mode is Mode.TUNABLE else RegisterOp
                began = self.history.next_step()
                op = kind(number, "judge", sidecar.name, False, key, level, began)
                if isinstance(op, RegisterOp):
                    op.first = number
                self.history.ops.append(op)
                self.trace("judge", "asks %s", op)
                sidecar.submit(op, 1.0)
                asked.append(op)
        self.schedule.run_until(self.schedule.now + 1.2)
        return [op for op in asked if op.outcome == "OK"]

    def _all_trusted(self) -> bool:
        return len(self._trusted_owners()) == len(self.store.bucket.owners)

    def _trusted_owners(self) -> tuple[int, ...]:
        return tuple(
            owner.node
            for owner in self.store.bucket.owners
            if self.servers[owner.node].replica.run_id == self.store.node(owner.node).run_id
            and self.store.node(owner.node).state is NodeState.ACTIVE
        )

    def _gather(self) -> None:
        history = self.history
        history.over_s = self.schedule.now
        history.stored = {number: server.records() for number, server in self.servers.items()}
        if self.store.bucket.stage is Stage.OLD:
            history.final_owners = self._trusted_owners()
            history.owner_count = len(self.store.bucket.owners)


def run_seed(
    seed: int, *, fault: str = "", mode: Mode | None = None, trace: bool = False
) -> Result:
    """Everything that one seed leads to. `mode` None: even seeds are of linearizable keys."""
    return Run(seed, fault=fault, mode=mode, trace=trace).everything()
