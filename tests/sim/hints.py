"""The hint log of a sidecar host in the simulation: on disk a moment after it is kept, and replayed
by the product's own decisions about each hint.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from replicas.record import decode_record
from sidecar.background.hint_drain import _Replay
from sidecar.core.hints import Hint
from tests.sim.history import History
from tests.sim.network import Network

FSYNC_S = 0.004
REPLAY_EVERY_S = 0.3


class SimHintLog:
    """Part of it is core.hints.HintKeeper; part is what a replay asks of its drain and its log."""

    def __init__(self, network: Network, history: History, name: str) -> None:
        self.stored: list[Hint] = []  # survives the process
        self.ledger = SimpleNamespace(counters=Counter[str]())
        self.drain: Any = self
        self.log: Any = self
        self.router: Any = None  # the coordinator of the present process
        self._name = name
        self._network = network
        self._history = history
        self._process = 0
        self._under_way: set[int] = set()  # by id() of what is stored

    def begin(self, router: object) -> None:
        """A new process: what was not on disk is gone, what is there is replayed."""
        self.router = router
        self._process += 1
        self._under_way.clear()
        self._network.schedule.after(REPLAY_EVERY_S, self._replay, self._process)

    def end(self) -> None:
        """The process is killed."""
        self._process += 1

    # --- core.hints.HintKeeper

    def keep(self, hint: Hint) -> None:
        """Part of HintKeeper."""
        self._network.schedule.after(FSYNC_S, self._on_disk, hint, None, self._process)

    def keep_only_copy(self, hint: Hint, done: Callable[[str], None]) -> str:
        """Part of HintKeeper."""
        self._network.schedule.after(FSYNC_S, self._on_disk, hint, done, self._process)
        return ""

    def _on_disk(self, hint: Hint, done: Callable[[str], None] | None, process: int) -> None:
        if process != self._process:
            return
        self.stored.append(hint)
        self._network.trace(self._name, "keeps a hint of %r for node %d", hint.key, hint.node)
        if done is not None:
            record = decode_record(hint.record)
            if record is not None:
                self._history.kept.add((hint.key, record.version))
            done("")

    # --- replays

    def clock(self) -> float:
        """Loop time."""
        return self._network.schedule.now

    def _replay(self, process: int) -> None:
        if process != self._process:
            return
        for hint in list(self.stored):
            if id(hint) not in self._under_way:
                self._under_way.add(id(hint))
                by: Any = self
                stored: Any = SimpleNamespace(hint=hint, id=id(hint))
                _Replay(by, stored).start()
        self._network.schedule.after(REPLAY_EVERY_S, self._replay, process)

    def replayed(self, replay: Any, *, settled: bool, failed: bool) -> None:
        """One replay has all its answers."""
        self._under_way.discard(replay.stored.id)

    def remove(self, stored: Any, rest: Sequence[Hint] = ()) -> None:
        """It is settled, but for `rest`."""
        self.stored = [hint for hint in self.stored if hint is not stored.hint] + list(rest)

    def mark(self, bucket: object, why: str) -> None:
        """The bucket needs a repair; nothing here reads that yet."""
        self.ledger.counters["marked"] += 1
