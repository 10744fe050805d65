"""A replica server in the simulation: the product's simulated replica, with lives and a clock."""

from collections.abc import Callable

from buckets.bucket_map import Durability, KeyspaceSettings, Mode
from replicas.fake import FakeReplica, State
from replicas.layout import USER_PREFIX, bucket_keys
from replicas.replies import APPLIED, SUPERSEDED
from tests.sim.history import Absent, Accept, Ack, History, short
from tests.sim.network import SimLink
from tests.sim.trace import Trace

KEYSPACE = "sim"
KEYS = bucket_keys(KEYSPACE, 0)
SETTINGS = {
    Mode.TUNABLE: KeyspaceSettings(KEYSPACE, buckets=1),
    Mode.LINEARIZABLE: KeyspaceSettings(
        KEYSPACE, buckets=1, mode=Mode.LINEARIZABLE, durability=Durability.FSYNC
    ),
}
START_MS = 1_763_700_000_000


class WatchedReplica(FakeReplica):
    """Notes for the checkers what it acknowledged, in which life."""

    def __init__(self, run_id: bytes, number: int, history: History) -> None:
        super().__init__(run_id)
        self._number = number
        self._history = history

    def _apply(
        self,
        keys: list[bytes],
        arguments: list[bytes],
        now_ms: int,
        *,
        healing: bool = False,
        seen: bytes | None = None,
    ) -> object:
        outcome = super()._apply(keys, arguments, now_ms, healing=healing, seen=seen)
        if isinstance(outcome, int) and APPLIED <= outcome <= SUPERSEDED:
            history = self._history
            history.acks.append(
                Ack(
                    history.next_step(),
                    self._number,
                    self.run_id,
                    int.from_bytes(arguments[0], "big"),
                    int.from_bytes(arguments[1], "big"),
                    arguments[2][1:],
                    arguments[3][8:24],
                )
            )
        return outcome

    def _accept(self, keys: list[bytes], arguments: list[bytes], now_ms: int) -> object:
        outcome = super()._accept(keys, arguments, now_ms)
        if outcome == APPLIED:
            history = self._history
            history.accepts.append(
                Accept(
                    history.next_step(),
                    self._number,
                    self.run_id,
                    int.from_bytes(arguments[0], "big"),
                    int.from_bytes(arguments[1], "big"),
                    arguments[2][1:],
                    arguments[3],
                )
            )
        return outcome


class SimServer:
    """One server, numbered from 1."""

    def __init__(
        self, number: int, history: History, trace: Trace, now_s: Callable[[], float]
    ) -> None:
        self.number = number
        self.name = f"n{number}"
        self.zone = "abc"[(number - 1) % 3]
        self.up = True
        self.paused = False
        self.offset_ms = 0
        self.links: list[SimLink] = []
        self._history = history
        self.replica = WatchedReplica(self._life(1), number, history)
        # The life that holds everything its predecessor had acknowledged, as whoever stopped the
        # server or its append-only file vouches for.
        self.complete_life = self.replica.run_id
        self._lives = 1
        self._trace = trace
        self._now_s = now_s

    def _life(self, count: int) -> bytes:
        return b"node-%02d-life-%02d....." % (self.number, count)

    @property
    def wall_ms(self) -> int:
        """The server's own clock."""
        return START_MS + round(self._now_s() * 1000) + self.offset_ms

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The hash of the bucket, reserved fields included."""
        return self.replica.state.hashes.get(KEYS.data, {})

    def records(self) -> dict[bytes, bytes]:
        """Raw records by user key."""
        prefix = USER_PREFIX[0]
        return {name[1:]: raw for name, raw in self.fields.items() if name[0] == prefix}

    def execute(self, command: bytes, asker: str) -> object:
        """The reply to a command that has arrived."""
        reply = self.replica.execute(command, self.wall_ms)
        if isinstance(reply, list) and len(reply) == 2 and reply[1] is None:
            self._note_absent(command, asker, reply[0])
        if self._trace.on:
            held = {key.decode(): short(raw[8:24]) for key, raw in sorted(self.records().items())}
            what = "EVALSHA" if b"EVALSHA" in command[:20] else "HMGET"
            self._trace(self.name, "answers %s (%s); holds %s", asker, what, held)
        return reply

    def _note_absent(self, command: bytes, asker: str, fence: bytes | None) -> None:
        """Of reads; a map entry may be missing too."""
        name = command.rsplit(b"\r\n", 2)[-2]
        if command.startswith(b"*4\r\n$5\r\nHMGET") and name.startswith(USER_PREFIX):
            step, life = self._history.next_step(), self.replica.run_id
            self._history.absents.append(Absent(step, self.number, life, asker, name[1:], fence))

    # --- lives

    def die(self) -> None:
        """The process ends: every connection breaks."""
        self.up = False
        self.paused = False
        for link in list(self.links):
            link.server_died()

    def live_again(self, state: State | None, *, complete: bool) -> None:
        """A new life, with what it held or with `state`; `complete`: vouched for."""
        self._lives += 1
        self.up = True
        self.replica.restart(self._life(self._lives), state)
        if complete:
            self.complete_life = self.replica.run_id
        self._trace(self.name, "lives again: %s", self.replica.run_id.rstrip(b".").decode())

    def pump(self) -> None:
        """What waited for the server arrives."""
        for link in list(self.links):
            link.pump_out()
