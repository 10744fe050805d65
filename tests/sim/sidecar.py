"""A sidecar in the simulation: the product's coordinator and map assembly over simulated links."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Protocol

from buckets.bucket_map import Bucket, BucketMap
from buckets.codec import decode_entry
from buckets.topology import Node
from protos.dabbawala.v1 import discovery_pb2
from replicas.commands import entry_command
from replicas.version import HybridClock
from sidecar.clock_file import DurableClock
from sidecar.core.coordinator import Coordinator
from sidecar.core.map_assembly import MapAssembly
from sidecar.core.operation import Read, Write
from sidecar.core.route import Route
from sidecar.core.session_ops import Session
from sidecar.core.sessions import SessionKeys
from sidecar.errors import DataError
from tests.sim.hints import SimHintLog
from tests.sim.history import FAILED, OK, UNKNOWN, History, Op
from tests.sim.network import Network, SimLink
from tests.sim.probing import probe, watch
from tests.sim.register_asking import ask
from tests.sim.register_history import RegisterOp
from tests.sim.server import KEYS, KEYSPACE, START_MS, SimServer
from tests.support.lanes import fast_lane, general_lane, lone_lane

LANES = (fast_lane, general_lane, lone_lane)  # reads take them in turn
TICK_S = 0.02
LOOK_AFTER_S = 0.25  # between looks for replicas that do not answer
LONGEST_BACKOFF_S = 0.3
SESSION_KEYS = SessionKeys("sim", [b"what all sidecars share"])


class SimClock(DurableClock):
    """The product's clock over a file that is a value here: what a restart finds on disk."""

    def __init__(self, writer: bytes, ceiling_ms: int) -> None:
        HybridClock.__init__(self, writer, ceiling_ms)
        self._path = Path("clock")
        self._ceiling_ms = ceiling_ms

    @property
    def ceiling_ms(self) -> int:
        """What is on disk."""
        return self._ceiling_ms

    def _write(self, ceiling_ms: int) -> None:
        self._ceiling_ms = ceiling_ms


class Surroundings(Protocol):
    """What a sidecar needs of the run."""

    network: Network
    history: History
    rng: Random
    servers: dict[int, SimServer]


class SimSidecar:
    """One sidecar host; `kill` and `restart` give it another process."""

    def __init__(self, run: Surroundings, number: int) -> None:
        self.name = f"s{number}"
        self.zone = "abc"[number % 3]
        self.alive = True
        self.frozen = False
        self.offset_ms = 0
        self.ended: Callable[[Op], None] = lambda op: None
        self._run = run
        self._schedule = run.network.schedule
        self._trace = run.network.trace
        self._number = number
        self._processes = 0
        self._ticking = False
        self._held: list[Callable[[], None]] = []  # reached it while it was frozen, in order
        self._thawed_s = 0.0
        self._active: dict[int, Op] = {}
        self._sessions: dict[int, Session] = {}  # by number of the operation
        self.links: dict[int, SimLink] = {}
        self.clock = self._new_clock(0)
        self.hints = SimHintLog(run.network, run.history, self.name)
        self.core = self._new_core()
        self.hints.begin(self.core)
        self.assembly = MapAssembly("sim")
        self.saved = b""
        self._streaming = False
        self._look(self._processes)

    def _new_clock(self, ceiling_ms: int) -> SimClock:
        self._processes += 1
        return SimClock(b"side%d-%02d" % (self._number, self._processes), ceiling_ms)

    def _new_core(self) -> Coordinator:
        core = Coordinator(
            zone=self.zone,
            clock=self.clock,
            wall_ms=lambda: self.wall_ms,
            monotonic=lambda: self._schedule.now,
            learner=self,
            hints=self.hints,
        )
        core.sessions.keys = SESSION_KEYS
        return core

    @property
    def wall_ms(self) -> int:
        """The sidecar's own clock."""
        return START_MS + round(self._schedule.now * 1000) + self.offset_ms

    @property
    def bucket(self) -> Bucket | None:
        """The bucket as this sidecar's map has it."""
        return self.core.map.keyspaces[KEYSPACE].buckets[0] if self.core.map else None

    # --- time

    def _tick(self, process: int) -> None:
        if process != self._processes:
            return
        if not self.frozen:
            self.core.tick()
            self.clock.keep_ahead()
            watch(self, self._schedule.now)
        # Nothing is to be ended while nothing is under way.
        self._ticking = bool(self._active)
        if self._ticking:
            self._schedule.after(TICK_S, self._tick, process)

    def _look(self, process: int) -> None:
        """Looks after its replicas."""
        if process != self._processes:
            return
        if not self.frozen and self.alive:
            probe(self, self._schedule)
        self._schedule.after(LOOK_AFTER_S, self._look, process)

    # --- the map

    def take(self, responses: list[bytes]) -> None:
        """What a control plane streams arrives."""
        if not self.alive:
            return
        if self.frozen:
            self._held.append(lambda: self.take(responses))
            return
        if not self._streaming:
            self.assembly.open_stream(discovery_pb2.DiscoveryNode(id=self.name))
            self._streaming = True
        for response in responses:
            step = self.assembly.on_response(response)
            if step.adopted is not None:
                self._adopt(step.adopted, "the control plane")

    def _adopt(self, bucket_map: BucketMap, source: str) -> None:
        if self._trace.on:
            bucket = bucket_map.keyspaces[KEYSPACE].buckets[0]
            self._trace(self.name, "adopts epoch %d %s from %s", bucket.epoch, bucket, source)
        joined, left = self.core.adopt(bucket_map)
        for node in left:
            if node.number in self.links:
                self.links[node.number].close()
        for node in joined:
            self._connect(node, self._processes)

    def ask_map_entry(self, route: Route, slot: int) -> None:
        """Part of core.Learner."""
        link = route.peers[slot].link
        if link is None or not link.send(entry_command(KEYS), _EntrySink(self, route), slot):
            route.learning = False

    def learn(self, raw_entry: bytes) -> None:
        """Part of core.Learner."""
        adopted = self.assembly.learn(decode_entry(raw_entry))
        if adopted is not None:
            self._adopt(adopted, "a replica")

    # --- links

    def _connect(self, node: Node, process: int) -> None:
        """One attempt; the next follows after a jittered pause."""
        number = node.number
        if process != self._processes or not self.alive or number in self.links:
            return
        if self.core.peers.get(number) is None:
            return
        server, network = self._run.servers[number], self._run.network
        away = network.blocked(self.name, server.name) or network.blocked(server.name, self.name)
        if not server.up or server.paused or self.frozen or away:
            pause_s = self._run.rng.uniform(0.02, LONGEST_BACKOFF_S)
            self._schedule.after(pause_s, self._connect, node, process)
            return
        link = SimLink(network, self, server)
        self.links[number] = link
        self._schedule.after(network.delay_s(), self._connected, link, node)

    def _connected(self, link: SimLink, node: Node) -> None:
        peer = self.core.peers.get(node.number)
        if self.links.get(node.number) is not link or peer is None:
            return
        peer.connected(link, link.life, durable=True)
        self.core.health_changed()
        self._trace(self.name, "is connected to %s: %s", node.id, peer.health)

    def link_lost(self, link: SimLink) -> None:
        """Part of Owner."""
        number = link.server.number
        if self.links.get(number) is not link:
            return
        # The keeper of the link hears of it a loop turn after the sinks.
        self._schedule.after(0, self._disconnected, link)

    def _disconnected(self, link: SimLink) -> None:
        number = link.server.number
        if self.links.get(number) is not link:
            return
        del self.links[number]
        peer = self.core.peers.get(number)
        if peer is not None and peer.link is link:
            peer.disconnected("its connection broke")
            self.core.health_changed()
        if peer is not None:
            self._connect(peer.node, self._processes)

    # --- operations

    def submit(self, op: Op, timeout_s: float, expires_at_ms: int = 0) -> None:
        """A client's request arrives; a process that is not there never answers."""
        if not self.alive:
            self._orphan(op)
            return
        self._active[op.number] = op
        if not self._ticking:
            self._ticking = True
            self._schedule.after(TICK_S, self._tick, self._processes)
        if self.frozen:
            self._held.append(lambda: self._begin(op, timeout_s, expires_at_ms))
        else:
            self._begin(op, timeout_s, expires_at_ms)

    def _begin(self, op: Op, timeout_s: float, expires_at_ms: int) -> None:
        if op.number not in self._active:
            return
        deadline_s = self._schedule.now + timeout_s
        op.due_s = deadline_s
        process = self._processes
        if isinstance(op, RegisterOp):
            ask(self.core, op, deadline_s, lambda *end: self._register_ended(op, process, *end))
        elif op.write:
            self._begin_write(op, deadline_s, expires_at_ms)
        else:
            read = Read(KEYSPACE, op.key, level=op.level, deadline=deadline_s, done=_nobody)
            read.done = lambda done: self._read_ended(op, done, process)
            door = self._door(op)
            if isinstance(door, DataError):
                self.core.reject(read, door)
            elif isinstance(door, Session):
                door.read(read)
            else:
                LANES[op.number % len(LANES)](door, read)

    def _begin_write(self, op: Op, deadline_s: float, expires_at_ms: int) -> None:
        process = self._processes
        write = Write(
            KEYSPACE,
            op.key,
            op.value,
            level=op.level,
            deadline=deadline_s,
            done=_nobody,
            expires_at_ms=expires_at_ms,
            version=op.version,
        )
        write.done = lambda done: self._write_ended(op, done, process)
        door = self._door(op)
        self.core.reject(write, door) if isinstance(door, DataError) else door.write(write)
        if op.fresh and write.version:
            op.version = write.version
            self._run.history.issued.setdefault(self.name, []).append(write.version)

    def _door(self, op: Op) -> Coordinator | Session | DataError:
        """Whom the operation is asked of: of the session whose token it brings."""
        session = self.core.sessions.open(op.token) if op.token else self.core
        if isinstance(session, Session):
            self._sessions[op.number] = session
        return session

    def _read_ended(self, op: Op, read: Read, process: int) -> None:
        if process != self._processes:
            return
        if read.error is None:
            op.version = read.version
            op.found = read.record.value if read.record is not None else None
        self._end(op, OK if read.error is None else FAILED, read.error)

    def _write_ended(self, op: Op, write: Write, process: int) -> None:
        if process != self._processes:
            return
        op.version = write.version
        outcome = write.error.outcome if write.error is not None else None
        self._end(op, OK if write.error is None else outcome.name if outcome else "", write.error)

    def _register_ended(
        self, op: RegisterOp, process: int, outcome: str, error: DataError | None
    ) -> None:
        if process == self._processes:
            self._end(op, outcome, error)

    def _end(self, op: Op, outcome: str, error: object) -> None:
        op.ends += 1
        if op.ends > 1:
            return
        self._active.pop(op.number, None)
        session = self._sessions.pop(op.number, None)
        if session is not None and outcome == OK:
            op.token = session.token()
        op.outcome = outcome
        op.ended = self._run.history.next_step()
        op.ended_s = self._schedule.now
        op.due_s = max(op.due_s, self._thawed_s) + 2 * TICK_S
        op.bucket = self.bucket
        op.zone = self.zone
        if op.bucket is not None and self.core.map is not None:
            nodes = self.core.map.nodes
            members = dict.fromkeys(op.bucket.owners + op.bucket.pending)
            op.zones = tuple(nodes[member.node].zone for member in members)
        if self._trace.on:
            self._trace(self.name, "ends %s%s", op, f": {error.message}" if error else "")  # type: ignore[attr-defined]
        self.ended(op)

    def _orphan(self, op: Op) -> None:
        op.orphaned = True
        op.outcome = UNKNOWN if op.write else FAILED
        op.ended = self._run.history.next_step()
        op.ended_s = self._schedule.now
        self.ended(op)

    # --- faults

    def freeze(self) -> None:
        """SIGSTOP: nothing is done, everything waits."""
        self.frozen = True

    def thaw(self) -> None:
        """SIGCONT: what waited comes in any order but that of each connection."""
        if not self.frozen:
            return
        self.frozen = False
        self._thawed_s = self._schedule.now
        held, self._held = self._held, []
        turns: list[Callable[[], None]] = [link.pump_in for link in self.links.values()]
        turns += [self.core.tick, partial(_each, held)]
        self._run.rng.shuffle(turns)
        for turn in turns:
            turn()

    def kill(self) -> None:
        """SIGKILL: its clients lose their connections, its commands are on their way."""
        self.alive = False
        self.frozen = False
        self.saved = self.assembly.save() or b""
        self.hints.end()
        for link in list(self.links.values()):
            link.abandon()
        self.links.clear()
        self._held.clear()
        active, self._active = self._active, {}
        self._sessions.clear()
        self._ticking = False
        self._processes += 1  # what its operations do from now on reaches nobody
        for op in active.values():
            self._orphan(op)

    def restart(self) -> None:
        """A new process with what is on disk: the map, and the ceiling of its versions."""
        self.alive = True
        self._streaming = False
        self.clock = self._new_clock(self.clock.ceiling_ms)
        self.core = self._new_core()
        self.hints.begin(self.core)
        self.assembly = MapAssembly("sim")
        if self.saved:
            self._adopt(self.assembly.load(self.saved), "its disk")
        self._look(self._processes)


class _EntrySink:
    """Brings one map entry, as the product's links do."""

    def __init__(self, sidecar: SimSidecar, route: Route) -> None:
        self._sidecar = sidecar
        self._route = route

    def on_reply(self, slot: int, reply: object, link: object) -> None:
        self._route.learning = False
        if isinstance(reply, list) and isinstance(reply[1], bytes):
            self._sidecar.learn(reply[1])

    def on_lost(self, slot: int, sent: bool, link: object) -> None:
        self._route.learning = False


def _each(turns: list[Callable[[], None]]) -> None:
    for turn in turns:
        turn()


def _nobody(op: object) -> None:
    """Replaced before the operation begins."""
