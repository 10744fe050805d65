"""The control plane in the simulation: one leader at a time, which may die or sleep at any step.

A job is a generator that yields what it waits for: seconds, or questions to replicas. Between two
steps nothing of it is anywhere but in the store and on the replicas.
"""

from collections.abc import Callable, Generator, Sequence
from random import Random
from typing import NamedTuple, Protocol

from replicas.version import WRITER_BYTES, HybridClock
from tests.sim.hints import SimHintLog
from tests.sim.history import History
from tests.sim.network import Network, SimLink
from tests.sim.server import START_MS, SimServer
from tests.sim.store import Store

ANSWER_WITHIN_S = 0.4


class Ask(NamedTuple):
    """One command to one node. `life` given: only to that life of it."""

    node: int
    command: bytes
    life: bytes | None = None


class Answer(NamedTuple):
    """A reply, and the life of the server that gave it."""

    life: bytes
    reply: object


Request = float | list[Ask]
Answers = list[Answer | None]  # in the order of the questions; None: no answer
Job = Generator[Request, Answers, None]


class HasHintLog(Protocol):
    """A sidecar host, as far as it reports its oldest hints."""

    hints: SimHintLog


class Surroundings(Protocol):
    """What a controller needs of the run."""

    network: Network
    rng: Random
    servers: dict[int, SimServer]
    store: Store
    history: History
    controller_dies: float  # the chance of it, at every step
    controller_sleeps: float

    @property
    def sidecars(self) -> Sequence[HasHintLog]:
        """All hosts of sidecars."""

    def controller_ended(self, controller: "Controller") -> None:
        """It died, or found out that it does not lead any more."""

    def controller_froze(self, controller: "Controller") -> None:
        """It sleeps, and will wake up when another may lead."""


class Controller:
    """One instance while it leads; `make_job` makes what it does."""

    def __init__(self, run: Surroundings, name: str, make_job: Callable[["Controller"], Job]):
        self.name = name
        self.frozen = False
        self.alive = True
        self.store = run.store
        self.rng = run.rng
        self.run = run
        self.links: dict[int, SimLink] = {}
        self.ballots = HybridClock(name.encode().ljust(WRITER_BYTES, b"-"))
        self._held: list[Answers] = []
        self._job = make_job(self)
        self._begun = False
        self._resume([])

    def _resume(self, answers: Answers) -> None:
        if not self.alive:
            return
        if self.frozen:
            self._held.append(answers)
            return
        run = self.run
        if run.controller_dies and run.rng.random() < run.controller_dies:
            self.end("dies")
            return
        if run.controller_sleeps and run.rng.random() < run.controller_sleeps:
            self.frozen = True
            self._held.append(answers)
            run.network.trace(self.name, "falls asleep")
            run.controller_froze(self)
            return
        try:
            request = self._job.send(answers) if self._begun else next(self._job)
            self._begun = True
        except StopIteration:
            self.end("leads no more")
            return
        if isinstance(request, list):
            _Gathering(self, request, self._resume)
        else:
            run.network.schedule.after(request, self._resume, [])

    @property
    def wall_ms(self) -> int:
        """Its clock."""
        return START_MS + round(self.run.network.schedule.now * 1000)

    def end(self, why: str) -> None:
        """Nothing more is done; what was sent is on its way."""
        if self.alive:
            self.alive = False
            self.run.network.trace(self.name, why)
            self._job.close()
            for link in list(self.links.values()):
                link.abandon()
            self.links.clear()
            self.run.controller_ended(self)

    def wake(self) -> None:
        """It goes on as if nothing had been."""
        self.frozen = False
        self.run.network.trace(self.name, "wakes up")
        for link in list(self.links.values()):
            link.pump_in()
        held, self._held = self._held, []
        for answers in held:
            self._resume(answers)

    # --- links

    def link_to(self, number: int) -> SimLink | None:
        """A connection to the present life of the node; None: it can not be reached."""
        link = self.links.get(number)
        if link is not None and not link.closed:
            return link
        server, network = self.run.servers[number], self.run.network
        away = network.blocked(self.name, server.name) or network.blocked(server.name, self.name)
        if not server.up or server.paused or away:
            return None
        self.links[number] = link = SimLink(network, self, server)
        return link

    def link_lost(self, link: SimLink) -> None:
        """Part of Owner."""
        if self.links.get(link.server.number) is link:
            del self.links[link.server.number]


class _Gathering:
    """Several questions at once, answered together, with what came in time."""

    def __init__(
        self, controller: Controller, asks: list[Ask], then: Callable[[Answers], None]
    ) -> None:
        self._controller = controller
        self._answers: Answers = [None] * len(asks)
        self._missing = len(asks)
        self._then = then
        self._over = False
        schedule = controller.run.network.schedule
        for slot, ask in enumerate(asks):
            link = controller.link_to(ask.node)
            wrong_life = link is not None and ask.life is not None and link.life != ask.life
            if link is None or wrong_life or not link.send(ask.command, self, slot):
                self._missing -= 1
        schedule.after(ANSWER_WITHIN_S if self._missing else 0.001, self._finish)

    def on_reply(self, slot: int, reply: object, link: object) -> None:
        """Part of ReplySink."""
        if isinstance(link, SimLink):
            self._answers[slot] = Answer(link.life, reply)
        self._one_less()

    def on_lost(self, slot: int, sent: bool, link: object) -> None:
        """Part of ReplySink."""
        self._one_less()

    def _one_less(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._finish()

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            if self._missing:  # what does not answer is frozen: connect anew
                for link in list(self._controller.links.values()):
                    if link.oldest_sent_s is not None and not self._controller.frozen:
                        link.close()
            self._then(self._answers)
