"""Hints outlive their sidecar's disk: what is left when it stops goes to another owner's stream.

Every server has one stream. Whoever replays it takes its hints into a log of its own, where they
are hints like all others, and deletes them from the stream only when their owner has answered, or
their bucket was marked. So nothing is trimmed early: a sidecar that dies over them leaves them to
the next one, and a hint that is replayed twice is the same write twice.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from random import uniform
from typing import Final

import structlog

from replicas.commands import claim_hints, drop_hints, keep_claim, keep_hint, list_hints
from replicas.errors import ReplicaError
from replicas.layout import bucket_keys
from replicas.link import Link, ask
from sidecar.background.hint_drain import Router
from sidecar.background.hint_file import EVERYWHERE, StoredHint
from sidecar.background.hint_log import HintLog
from sidecar.core.handover import decode_hint, encode_hint, keeper
from sidecar.core.hints import ONLY_COPY
from sidecar.core.peer import Peer, PeerLink

log = structlog.get_logger("hints")

MOST_BYTES: Final = 64 << 20  # of hints on one server
AT_ONCE: Final = 128
LISTED_AT_ONCE: Final = 16  # hints of 1 MiB, in one reply
DROPPED_AT_ONCE: Final = 4096
REST_S: Final = 30.0  # after a visit that took nothing, unless other owners are there
VISIT_S: Final = 2.0  # how often a server is asked for hints
ANSWER_S: Final = 5.0
TURN_MS: Final = 30_000  # a sidecar that replays a server's hints has them to itself for so long


async def hand_over(
    hint_log: HintLog, router: Router, clock: Callable[[], float], ends_at: float
) -> int:
    """Give what the log holds to other owners; how many hints they took. The log keeps its own."""
    taken = 0
    for node in hint_log.nodes():
        after = 0
        while (left_s := ends_at - clock()) > 0:
            page, after = await hint_log.read(node, after, AT_ONCE)
            taken += await _hand_over_page(page, router, left_s)
            if not after:
                break
    return taken


async def _hand_over_page(page: Sequence[StoredHint], router: Router, timeout_s: float) -> int:
    answers = _Answers()
    for stored in page:
        hint = stored.hint
        route = router.route_of(hint.keyspace, hint.key)
        slot = keeper(hint, route) if route is not None else None
        link = route.peers[slot].link if route is not None and slot is not None else None
        if route is None or slot is None or link is None:
            continue
        command = keep_hint(
            bucket_keys(route.keyspace, route.bucket),
            route.epoch,
            route.members.slots[slot].incarnation,
            encode_hint(hint),
            most_bytes=MOST_BYTES,
        )
        answers.awaited += link.send(command, answers, slot)
    return await answers.taken(timeout_s)


class _Answers:
    """The sink of one page."""

    def __init__(self) -> None:
        self.awaited = 0
        self._taken = 0
        self._changed = asyncio.Event()

    def on_reply(self, slot: int, reply: object, link: PeerLink) -> None:
        self._taken += reply == 1
        self._landed()

    def on_lost(self, slot: int, sent: bool, link: PeerLink) -> None:
        self._landed()

    def _landed(self) -> None:
        self.awaited -= 1
        self._changed.set()

    async def taken(self, timeout_s: float) -> int:
        try:
            async with asyncio.timeout(timeout_s):
                while self.awaited:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        return self._taken


class HintAdoption:
    """Takes hints that others handed over into this sidecar's log. Run `run` as a task."""

    def __init__(self, hint_log: HintLog, router: Router, *, visit_s: float = VISIT_S) -> None:
        self._log = hint_log
        self._router = router
        self._visit_s = visit_s
        self._name = secrets.token_hex(8).encode()
        self._servers: dict[int, _Stream] = {}

    async def run(self) -> None:
        """Visit every server again and again, until cancelled."""
        while True:
            await asyncio.sleep(uniform(self._visit_s / 2, self._visit_s))
            await self.visit_all()

    async def visit_all(self) -> None:
        """Visit every server once."""
        for peer in list(self._router.peers.values()):
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._visit(peer)
            except (ReplicaError, TimeoutError) as error:
                log.info("hints of a server not read", node=peer.node.id, why=str(error))

    async def _visit(self, peer: Peer) -> None:
        link = peer.link
        if not isinstance(link, Link) or self._log.problem:
            return
        stream = self._servers.setdefault(peer.node.number, _Stream())
        await self._drop_settled(stream, link)
        there = frozenset(n for n, peer in self._router.peers.items() if peer.link is not None)
        now = asyncio.get_running_loop().time()
        if stream.rest_until > now and stream.there == there:
            return
        [first] = await ask(link, [list_hints(stream.cursor, 1)])
        if not first:  # mostly; so the turn is asked for when there is something
            stream.cursor = b""
            return
        _, holder = await ask(link, claim_hints(self._name, TURN_MS))
        if holder == self._name and not await self._adopt_all(stream, link):
            stream.there, stream.rest_until = there, now + REST_S

    async def _adopt_all(self, stream: "_Stream", link: Link) -> int:
        """Take what can be; how many that were."""
        before = len(stream.adopted)
        while page := await self._page(stream, link):
            await ask(link, [keep_claim(TURN_MS)])
            new = [entry for entry in page if entry[0] not in stream.adopted]
            await asyncio.gather(*(self._adopt(stream, *entry) for entry in new))
        return len(stream.adopted) - before

    async def _page(self, stream: "_Stream", link: Link) -> list[tuple[bytes, bytes]]:
        """The next ids and hints; nothing after the last, and then the first again."""
        [reply] = await ask(link, [list_hints(stream.cursor, LISTED_AT_ONCE)])
        page = [(id_, fields[1]) for id_, fields in reply] if isinstance(reply, list) else []
        stream.cursor = page[-1][0] if page else b""
        return page

    async def _drop_settled(self, stream: "_Stream", link: Link) -> None:
        settled = stream.settled(set(self._log.nodes()))[:DROPPED_AT_ONCE]
        if not settled:
            return
        await self._log.flush()  # also the marks that stand in for what goes
        if not self._log.problem:
            [dropped] = await ask(link, [drop_hints(settled)])
            if isinstance(dropped, int):
                stream.forget(settled)

    async def _adopt(self, stream: "_Stream", id_: bytes, raw: bytes) -> None:
        hint = decode_hint(raw)
        if hint is None:
            self._log.mark(EVERYWHERE, "a hint that was handed over failed the checksum")
            stream.adopted[id_] = None
            return
        target = self._router.peers.get(hint.node)
        if hint.node != ONLY_COPY and target is not None and target.link is None:
            if self._log.is_too_old(hint):
                self._log.mark((hint.keyspace, hint.bucket), "aged out")
                stream.adopted[id_] = None
            return  # its owner is away: it lies well where it is
        kept: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        problem = self._log.keep_only_copy(hint, _resolve(kept)) or await kept
        if not problem:
            stream.adopted[id_] = hint.node


def _resolve(kept: "asyncio.Future[str]") -> Callable[[str], None]:
    def done(problem: str) -> None:
        if not kept.done():
            kept.set_result(problem)

    return done


class _Stream:
    """One server's stream, as far as this sidecar has taken it over."""

    def __init__(self) -> None:
        self.cursor = b""  # the id after which to go on; empty: from the start
        self.adopted: dict[bytes, int | None] = {}  # ids: whom the hint is for; None: nobody
        self.rest_until = 0.0  # nothing of it could be taken by whoever is `there`
        self.there: frozenset[int] = frozenset()  # numbers of the nodes that were connected

    def settled(self, waiting: set[int]) -> list[bytes]:
        """Ids of hints that are settled: none waits in our log for the node they were for."""
        return [id_ for id_, node in self.adopted.items() if node not in waiting]

    def forget(self, ids: Sequence[bytes]) -> None:
        """They are gone from the stream."""
        for id_ in ids:
            self.adopted.pop(id_, None)
