"""What goes wrong, and when. Faults that lose data keep to what the protocol promises to survive:
never more owners at once than a majority can spare.
"""

from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Protocol

from buckets.bucket_map import BucketMap, Stage
from replicas.fake import State
from replicas.fence import decode_fence
from replicas.layout import FENCE_FIELD
from tests.sim.controller import Controller
from tests.sim.network import Network
from tests.sim.schedule import Schedule
from tests.sim.server import KEYS, SimServer
from tests.sim.sidecar import SimSidecar
from tests.sim.store import Store
from tests.sim.trace import Trace

MAX_SKEW_MS = 2000
SMALL_SKEW_MS = 30
THEME_SHARE = 0.6
# Faults that are worse together than alone.
THEMES: tuple[tuple[str, ...], ...] = (
    ("rotation",),
    ("rotation", "move"),
    ("rotation", "new_epoch", "controller_sleeps"),
    ("new_life_in_flight", "new_life_in_flight", "new_life_in_flight"),
    ("half_written", "half_written", "half_written"),
    ("missed_then_moved", "missed_then_moved", "controller_dies"),
    ("move_past_a_sleeper", "move_past_a_sleeper"),
    ("half_moved", "half_moved", "controller_sleeps"),
    ("move", "freeze", "control_plane_away", "one_way"),
    ("move", "one_way", "torn", "slow"),
    ("move", "pause", "lonely_server", "controller_dies"),
    ("move", "move", "controller_sleeps", "kill_sidecar"),
    ("flush", "new_epoch", "move"),
    ("wrong_dump", "crash_with_old_dump", "control_plane_away"),
    ("new_life_in_flight", "crash_empty", "freeze"),
    ("one_way", "torn", "reset", "kill_sidecar"),
)


class World(Protocol):
    """What can be damaged: the run, as its faults see it."""

    rng: Random
    schedule: Schedule
    trace: Trace
    network: Network
    store: Store
    replication: int
    servers: dict[int, SimServer]
    sidecars: list[SimSidecar]
    cut_off: set[str]
    controller_dies: float
    controller_sleeps: float
    leader: Controller | None

    def deliver(self, sidecar: SimSidecar, bucket_map: BucketMap) -> None:
        """A map reaches a sidecar, be it the newest or not."""

    def reconnect(self, sidecar: SimSidecar) -> None:
        """A control plane reaches the sidecar again."""


class Faults:
    """The faults of one run. `only`: mostly this one."""

    def __init__(self, run: World, only: str = "") -> None:
        self._run = run
        self._only = only
        self._rng = run.rng
        self._stopped = False
        self.counts: Counter[str] = Counter()
        # node -> incarnation of the owner whose data it lost: it may be admitted in a later one
        self._lossy: dict[int, int] = {}

    def count(self, what: str) -> None:
        """Another one was injected."""
        self.counts[what] += 1

    def plan(self, until_s: float) -> None:
        """Chooses kinds and times."""
        rng, schedule = self._rng, self._run.schedule
        kinds = rng.sample(sorted(KINDS), rng.randint(2, 5))
        if self._only:
            kinds = [self._only] * rng.randint(2, 3) + kinds[:1]
        elif rng.random() < THEME_SHARE:
            kinds = [*rng.choice(THEMES), *kinds[:2]]
        for host in self._hosts():
            host.offset_ms = rng.randint(-SMALL_SKEW_MS, SMALL_SKEW_MS)
        for kind in kinds:
            for _ in range(rng.randint(1, 2)):
                schedule.at(rng.uniform(0.1, until_s * 0.9), self._inject, kind)

    def _inject(self, kind: str) -> None:
        if not self._stopped and KINDS[kind](self):
            self.count(kind)
            self._run.trace("fault", "%s", kind)

    def stop(self) -> None:
        """All that can be mended is, at once."""
        self._stopped = True
        run = self._run
        run.controller_dies = run.controller_sleeps = 0.0
        run.trace("fault", "no more")
        for host in self._hosts():
            host.offset_ms = 0
        for server in run.servers.values():
            server.paused = False
            if not server.up:
                self._live_again(server, None, kept=True)
        for sidecar in run.sidecars:
            if not sidecar.alive:
                self._restart(sidecar)
            sidecar.thaw()
            run.reconnect(sidecar)
        run.network.heal_all()

    # --- choices

    def _hosts(self) -> list[SimServer | SimSidecar]:
        return [*self._run.servers.values(), *self._run.sidecars]

    def _later(
        self, least_s: float, most_s: float, call: Callable[..., object], *args: object
    ) -> None:
        self._run.schedule.after(self._rng.uniform(least_s, most_s), call, *args)

    def _server(self) -> SimServer:
        return self._rng.choice(list(self._run.servers.values()))

    def _owner(self) -> SimServer:
        """Mostly an owner: others have nothing to lose."""
        if self._rng.random() < 0.1:
            return self._server()
        bucket = self._run.store.bucket
        return self._run.servers[self._rng.choice(bucket.owners + bucket.pending).node]

    def _sidecar(self) -> SimSidecar:
        return self._rng.choice(self._run.sidecars)

    def _askers(self) -> list[str]:
        leader = self._run.leader
        names = [sidecar.name for sidecar in self._run.sidecars]
        return [*names, leader.name] if leader else names

    # --- network

    def slow(self) -> bool:
        """Some messages take long."""
        self._run.network.spikes = self._rng.uniform(0.02, 0.25)
        self._later(0.3, 1.5, setattr, self._run.network, "spikes", 0.0)
        return True

    def torn(self) -> bool:
        """Connections break just when something is to be sent."""
        self._run.network.torn = self._rng.uniform(0.02, 0.2)
        self._later(0.2, 1.0, setattr, self._run.network, "torn", 0.0)
        return True

    def reset(self) -> bool:
        """A connection breaks with things under way."""
        links = [link for link in self._run.network.links if not link.broken]
        if not links:
            return False
        self._rng.choice(links).reset()
        return True

    def _cut(self, pairs: list[tuple[str, str]], least_s: float = 0.1, most_s: float = 1.5) -> None:
        network = self._run.network
        for source, target in pairs:
            network.block(source, target)
        duration_s = self._rng.uniform(least_s, most_s)
        for source, target in pairs:
            self._run.schedule.after(duration_s, network.heal, source, target)

    def partition(self) -> bool:
        """One sidecar, or a controller, and some servers do not hear each other."""
        asker = self._rng.choice(self._askers())
        servers = self._rng.sample(list(self._run.servers.values()), self._rng.randint(1, 2))
        self._cut([(asker, s.name) for s in servers] + [(s.name, asker) for s in servers])
        return True

    def one_way(self) -> bool:
        """What one says does not reach the others; what they say does."""
        asker = self._rng.choice(self._askers())
        servers = self._rng.sample(list(self._run.servers.values()), self._rng.randint(1, 2))
        there = self._rng.random() < 0.6
        self._cut([(asker, s.name) if there else (s.name, asker) for s in servers])
        return True

    def unreachable(self) -> bool:
        """One server can not be connected to, so that writes go without it."""
        self._shun(self._owner(), self._rng.uniform(0.2, 1.5))
        return True

    def _shun(self, server: SimServer, duration_s: float) -> None:
        network = self._run.network
        for sidecar in self._run.sidecars:
            for source, target in ((sidecar.name, server.name), (server.name, sidecar.name)):
                network.block(source, target)
                self._run.schedule.after(duration_s, network.heal, source, target)
        for link in list(server.links):
            if isinstance(link.owner, SimSidecar):
                link.drop()

    def rotation(self) -> bool:
        """One owner misses writes, another loses what it has, the third goes away: each in turn."""
        numbers = [owner.node for owner in self._run.store.bucket.owners]
        away, loser, last = (self._run.servers[n] for n in self._rng.sample(numbers, 3))
        first_s = self._rng.uniform(0.2, 0.8)
        self._shun(away, first_s)
        lose = self._rng.choice((self._lose_all, self._flush_now, self._older_dump, self._foreign))
        lose(loser, first_s * self._rng.uniform(0.3, 1.2))
        self._run.schedule.after(first_s, self._shun, last, self._rng.uniform(0.5, 1.5))
        return True

    def half_written(self) -> bool:
        """One owner can not be reached; another has a clock so slow that it refuses what is new."""
        numbers = [owner.node for owner in self._run.store.bucket.owners]
        slow, away = (self._run.servers[n] for n in self._rng.sample(numbers, 2))
        slow.offset_ms = -self._rng.randint(self._run.store.settings.max_skew_ms + 100, MAX_SKEW_MS)
        self._later(0.6, 1.5, setattr, slow, "offset_ms", 0)
        self._shun(away, self._rng.uniform(0.1, 0.5))
        return True

    def missed_then_moved(self) -> bool:
        """An owner that has missed writes stays; another, which has them, dies and gives way."""
        run = self._run
        numbers = [owner.node for owner in run.store.bucket.owners]
        away, leaving = self._rng.sample(numbers, 2)
        zone = run.servers[leaving].zone
        spare = [n for n in sorted(set(run.servers) - set(numbers)) if run.servers[n].zone == zone]
        if not spare:
            return False
        target = {*numbers, self._rng.choice(spare)} - {leaving}
        for_s = self._rng.uniform(0.2, 0.6)
        self._shun(run.servers[away], for_s)
        run.schedule.after(for_s, self._move_to, tuple(sorted(target)))
        run.schedule.after(for_s, self._stop_for, run.servers[leaving], 2.0)
        return True

    def move_past_a_sleeper(self) -> bool:
        """A sidecar sleeps through a whole move, and hears of it from no control plane."""
        run, sidecar = self._run, self._sidecar()
        numbers = [owner.node for owner in run.store.bucket.owners]
        target = {self._another(number, numbers) for number in numbers}
        if not sidecar.alive or sidecar.frozen or not run.store.request_move(tuple(sorted(target))):
            return False
        run.cut_off.add(sidecar.name)
        sidecar.freeze()
        self._later(0.3, 1.5, sidecar.thaw)
        self._later(2.0, 3.0, run.reconnect, sidecar)
        return True

    def half_moved(self) -> bool:
        """All owners are to be others, of whom one sidecar does not reach the new ones. Readers go
        over to those when nobody tells the old ones so: all sidecars but one hear of the stages
        from replicas only, and the leader does not reach the old ones any more.
        """
        run, sidecar = self._run, self._sidecar()
        numbers = [owner.node for owner in run.store.bucket.owners]
        target = {self._another(number, numbers) for number in numbers}
        joining = sorted(target - set(numbers))
        if not joining or not run.store.request_move(tuple(sorted(target))):
            return False
        informed = self._rng.choice([each for each in run.sidecars if each is not sidecar])
        for away in run.sidecars:
            if away is not informed:
                run.cut_off.add(away.name)
                self._later(1.5, 2.5, run.reconnect, away)
        self._cut([(sidecar.name, run.servers[number].name) for number in joining], 1.5, 2.5)
        run.schedule.after(0.01, self._cut_leader_off, numbers)
        return True

    def _cut_leader_off(self, numbers: list[int]) -> None:
        """From these, as soon as the new owners are read."""
        run = self._run
        if run.store.bucket.stage is Stage.WRITE_BOTH_READ_NEW and run.leader is not None:
            leader = run.leader.name
            self._cut([(leader, run.servers[number].name) for number in numbers], least_s=0.6)
        elif not self._stopped:
            run.schedule.after(0.01, self._cut_leader_off, numbers)

    def _another(self, number: int, but: list[int]) -> int:
        """A node of the same zone that is none of `but`; the node itself when there is none."""
        servers = self._run.servers
        spare = [n for n in servers if n not in but and servers[n].zone == servers[number].zone]
        return spare[0] if spare else number

    def _move_to(self, target: tuple[int, ...]) -> None:
        if not self._stopped and self._run.store.request_move(target):
            self.count("moved")

    def _lose_all(self, server: SimServer, after_s: float) -> None:
        self._run.schedule.after(after_s, self._crash_to, server, State())

    def _older_dump(self, server: SimServer, after_s: float) -> None:
        self._run.schedule.after(after_s, self._crash_to, server, server.replica.snapshot())

    def _foreign(self, server: SimServer, after_s: float) -> None:
        others = [each for each in self._run.servers.values() if each is not server]
        other = self._rng.choice(others)
        self._run.schedule.after(after_s, self._swap, server, other, other.replica.snapshot())

    def _flush_now(self, server: SimServer, after_s: float) -> None:
        self._run.schedule.after(after_s, self._flush, server)

    def lonely_server(self) -> bool:
        """Nobody reaches one server, or is reached by it."""
        name = self._owner().name
        both = [(asker, name) for asker in self._askers()]
        self._cut(both + [(target, source) for source, target in both])
        return True

    # --- servers that keep their data

    def restart(self) -> bool:
        """A server restarts with all that it had."""
        return self._stop_for(self._owner(), self._rng.uniform(0.02, 0.8))

    def _stop_for(self, server: SimServer, duration_s: float) -> bool:
        if self._stopped or not server.up:
            return False
        server.die()
        self._run.schedule.after(duration_s, self._live_again, server, None)
        return True

    def _live_again(self, server: SimServer, state: State | None, kept: bool = True) -> None:
        if server.up:
            return
        trusted = self._run.store.node(server.number).run_id
        complete = kept and state is None and server.replica.run_id == trusted
        server.live_again(state, complete=complete and not self._is_lossy(server.number))

    def pause(self) -> bool:
        """SIGSTOP of a server: its connections stay."""
        server = self._owner()
        if server.paused or not server.up:
            return False
        server.paused = True
        self._later(0.2, 2.5, self._resume, server)
        return True

    def _resume(self, server: SimServer) -> None:
        server.paused = False
        self._run.network.pump()

    # --- servers that do not

    def _is_lossy(self, number: int) -> bool:
        owner = self._run.store.owner(number)
        return owner is not None and self._lossy.get(number) == owner.incarnation

    def _may_lose(self, number: int) -> bool:
        """Whether a majority can spare this one too; then it is counted as lost."""
        store = self._run.store
        others = [each for each in self._lossy if each != number and self._is_lossy(each)]
        spare = (len(store.bucket.owners) - 1) // 2 if store.bucket.stage is Stage.OLD else 1
        if len(others) + 1 > spare:
            return False
        owner = store.owner(number)
        if owner is not None:
            self._lossy[number] = owner.incarnation
        return True

    def _lose(self, server: SimServer, state: State) -> bool:
        if not server.up or not self._may_lose(server.number):
            return False
        server.die()
        self._later(0.02, 0.5, self._live_again, server, state)
        return True

    def crash_empty(self) -> bool:
        """A server comes back with nothing."""
        return self._lose(self._owner(), State())

    def crash_with_old_dump(self) -> bool:
        """A server comes back with what it held some time ago."""
        server = self._owner()
        self._later(0.1, 0.8, self._crash_to, server, server.replica.snapshot())
        return True

    def _crash_to(self, server: SimServer, state: State) -> None:
        if not self._stopped and self._lose(server, state):
            self.count("crashed, with little or nothing")

    def wrong_dump(self) -> bool:
        """A server was stopped cleanly, and comes back with another server's dump."""
        server, other = self._owner(), self._owner()
        self._later(0.1, 1.0, self._swap, server, other, other.replica.snapshot())
        return server is not other

    def _swap(self, server: SimServer, other: SimServer, state: State) -> None:
        if self._stopped or server is other or not server.up:
            return
        if self._may_lose(server.number):
            self.count("wrong_dump, loaded")
            # Stopped cleanly, so its fence alone tells: not by way of a third server its own again.
            owner, fence = self._run.store.owner(server.number), state.hashes.get(KEYS.data, {})
            held = decode_fence(fence.get(FENCE_FIELD, b""))
            own = owner is not None and held is not None and held.incarnation == owner.incarnation
            server.die()
            server.live_again(state, complete=not own)

    def flush(self) -> bool:
        """FLUSHALL: the server and its connections live on."""
        return self._flush(self._owner())

    def _flush(self, server: SimServer) -> bool:
        if self._stopped or not server.up or not self._may_lose(server.number):
            return False
        server.replica.state = State()
        self._run.trace("fault", "%s is flushed", server.name)
        if self._rng.random() < 0.5:
            self._later(0.0, 0.1, self.new_epoch)
        return True

    def flip(self) -> bool:
        """A byte of a record changes."""
        server = self._owner()
        records = server.records()
        if not records or not self._may_lose(server.number):
            return False
        key = self._rng.choice(sorted(records))
        raw = bytearray(records[key])
        raw[self._rng.randrange(8, len(raw))] ^= 1 << self._rng.randrange(8)
        server.fields[b"k" + key] = bytes(raw)
        return True

    def new_life_in_flight(self) -> bool:
        """Only one owner hears of a write, and forgets it while the write is under way."""
        sidecar, server = self._sidecar(), self._owner()
        if not server.up or not self._may_lose(server.number):
            return False
        run = self._run
        numbers = [owner.node for owner in run.store.bucket.owners if owner.node != server.number]
        late = self._rng.sample(numbers, len(numbers) // 2)
        for number in set(numbers) - set(late):
            gone = run.servers[number]
            for link in [each for each in gone.links if each.owner is sidecar]:
                link.drop()
            run.network.block(sidecar.name, gone.name)
            run.schedule.after(2.5, run.network.heal, sidecar.name, gone.name)
        self._cut([(sidecar.name, run.servers[number].name) for number in late], least_s=0.6)
        self._later(0.05, 0.4, self._forget, server)
        return True

    def _forget(self, server: SimServer) -> None:
        if server.up and not self._stopped:
            server.die()
            self._later(0.01, 0.05, self._live_again, server, State())

    # --- sidecars

    def freeze(self) -> bool:
        """SIGSTOP of a sidecar, with what it has under way."""
        sidecar = self._sidecar()
        if sidecar.frozen or not sidecar.alive:
            return False
        sidecar.freeze()
        self._later(0.2, 2.5, sidecar.thaw)
        return True

    def kill_sidecar(self) -> bool:
        """SIGKILL of a sidecar; another process follows, with what is on its disk."""
        sidecar = self._sidecar()
        if not sidecar.alive:
            return False
        sidecar.kill()
        self._later(0.05, 0.8, self._restart, sidecar)
        return True

    def _restart(self, sidecar: SimSidecar) -> None:
        if not sidecar.alive:
            sidecar.restart()
            if sidecar.name not in self._run.cut_off:
                self._run.reconnect(sidecar)

    def clock(self) -> bool:
        """A host's clock steps."""
        host = self._rng.choice(self._hosts())
        host.offset_ms = self._rng.randint(-MAX_SKEW_MS, MAX_SKEW_MS)
        self._later(0.2, 2.0, setattr, host, "offset_ms", 0)
        return True

    # --- control plane

    def move(self) -> bool:
        """The owners are to be others."""
        numbers = sorted(self._run.servers)
        count = self._run.replication
        if len(numbers) == count:
            return False
        by_zone: dict[str, list[int]] = {}
        for number in numbers:
            by_zone.setdefault(self._run.servers[number].zone, []).append(number)
        target = {self._rng.choice(each) for each in by_zone.values()}
        spare = [number for number in numbers if number not in target]
        target |= set(self._rng.sample(spare, count - len(target)))
        return self._run.store.request_move(tuple(sorted(target)))

    def new_epoch(self) -> bool:
        """The bucket's epoch goes up, with the same owners."""
        return not self._stopped and self._run.store.request_epoch()

    def controller_dies(self) -> bool:
        """Leaders die, each at some step."""
        self._run.controller_dies = 0.2
        self._later(0.3, 1.5, setattr, self._run, "controller_dies", 0.0)
        return True

    def controller_sleeps(self) -> bool:
        """Leaders fall asleep, each at some step, and wake up late."""
        self._run.controller_sleeps = 0.1
        self._later(0.3, 1.0, setattr, self._run, "controller_sleeps", 0.0)
        return True

    def control_plane_away(self) -> bool:
        """Some sidecars hear nothing of any control plane."""
        run = self._run
        away = self._rng.sample(run.sidecars, self._rng.randint(1, len(run.sidecars)))
        for sidecar in away:
            run.cut_off.add(sidecar.name)
            self._later(0.5, 3.0, run.reconnect, sidecar)
        return True

    def stale_map(self) -> bool:
        """A control plane that lags behind sends an older map."""
        older = self._rng.choice(self._run.store.maps)
        self._run.deliver(self._sidecar(), older)
        return True


KINDS: dict[str, Callable[[Faults], bool]] = {
    name: method
    for name, method in vars(Faults).items()
    if not name.startswith("_") and name not in ("count", "plan", "stop")
}
