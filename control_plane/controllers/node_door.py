"""What the control plane asks of one node's server, over a link of its own."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from control_plane.controllers.sight import (
    NOBODY,
    UNREACHABLE,
    Sight,
    parse_info,
    sight_of,
)
from replicas.client import FenceChange, ReplicaClient, StoredFence
from replicas.commands import TIME, pack_command
from replicas.errors import (
    LinkFull,
    LinkLost,
    Loading,
    ReplicaError,
    UnexpectedReply,
    Unreachable,
)
from replicas.fence import Role
from replicas.handshake import parse_time_ms
from replicas.identity import Identity, decode_identity
from replicas.layout import IDENTITY_KEY, BucketKeys
from replicas.link import ask
from replicas.replies import Code, Refusal

_INFO: Final = pack_command(b"INFO")
_APPEND: Final = pack_command(b"CONFIG", b"GET", b"*append*")
_IDENTITY: Final = pack_command(b"GET", IDENTITY_KEY)


@dataclass(frozen=True, slots=True)
class FenceClaim:
    """A fence that a node should hold: at least this epoch, in this incarnation."""

    keys: BucketKeys
    epoch: int
    incarnation: int


class NodeDoor:
    """An open link to one life of a node's server. Every method raises ReplicaError."""

    def __init__(self, client: ReplicaClient) -> None:
        self._client = client

    @classmethod
    async def open(cls, host: str, port: int, timeout_s: float) -> "NodeDoor":
        """Connect and check who answers. Each later question has `timeout_s` too."""
        return cls(await ReplicaClient.connect(host, port, timeout_s=timeout_s))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def run_id(self) -> bytes:
        """The life of the server that the link belongs to."""
        return self._client.server.run_id

    @property
    def closed(self) -> bool:
        """Whether the link is gone."""
        return self._client.link.closed

    def close(self) -> None:
        """Drop the link."""
        self._client.close()

    async def look(self) -> Sight:
        """One look at the server."""
        info, append, raw_identity = await self._ask([_INFO, _APPEND, _IDENTITY])
        asked_at = time.time()
        [time_reply] = await self._ask([TIME])
        now_ms = (asked_at + time.time()) * 500
        address = self._client.link.address
        if not isinstance(info, bytes):
            raise UnexpectedReply(address, f"INFO was answered with {info!r}", "Look at its log")
        return sight_of(
            address,
            parse_info(info),
            _pairs(append),
            at_ms=round(now_ms),
            clock_offset_ms=round(parse_time_ms(address, time_reply) - now_ms, 1),
            identity=_identity(raw_identity),
        )

    async def claim(self, identity: Identity) -> Identity:
        """Give the server its identity unless it has one; answers the one that stands."""
        return await self._client.claim_identity(identity)

    async def create_fences(self, changes: Sequence[FenceChange]) -> str:
        """Make fences that are not there. "" when all stand as asked, else what is in the way."""
        refusals = await self._client.create_fences(changes)
        for change, refusal in zip(changes, refusals, strict=True):
            problem = "" if refusal is None else _creation_problem(change, refusal)
            if problem:
                return f"{change.keys.data.decode()} on {self._client.link.address} {problem}"
        return ""

    async def count_wrong_fences(self, claims: Sequence[FenceClaim]) -> Counter[str]:
        """How many of the fences are not as claimed, in words; empty when all are."""
        stored = await self._client.read_fences([claim.keys for claim in claims])
        wrong = [_what_is_wrong(*pair) for pair in zip(claims, stored, strict=True)]
        return Counter(words for words in wrong if words)

    async def _ask(self, commands: list[bytes]) -> list[object]:
        timeout_s = self._client.timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await ask(self._client.link, commands)
        except TimeoutError:
            problem = f"it did not answer within {timeout_s:g} s"
            address = self._client.link.address
            raise Unreachable(address, problem, "Look at its log, and at its load") from None


def failed_sight(address: str, error: ReplicaError, at_ms: int) -> Sight:
    """A look that ended with an error: the network's, or a refusal of the server as it is."""
    network = isinstance(error, Unreachable | Loading | LinkLost | LinkFull)
    fault = UNREACHABLE if network else error.code
    return Sight(address=address, at_ms=at_ms, fault=fault, detail=error.problem)


def _creation_problem(change: FenceChange, refusal: Refusal) -> str:
    # What an earlier leader made is fine; the entry beside it may be of an older address.
    if refusal.code is Code.EXISTS and refusal.fence == change.fence:
        return ""
    remedy = "remove what an earlier keyspace left there"
    what = "has another fence" if refusal.code is Code.EXISTS else f"refused: {refusal.code}"
    return f"{what}; {remedy}"


def _what_is_wrong(claim: FenceClaim, stored: StoredFence) -> str:
    if stored.raw is None:
        return "missing"
    if stored.fence is None:
        return "damaged"
    if stored.fence.incarnation != claim.incarnation:
        return "of another incarnation"
    if stored.fence.role is not Role.OWNER or stored.fence.epoch < claim.epoch:
        return "of an earlier epoch"
    return ""


def _identity(raw: object) -> Identity | None:
    if raw is None:
        return None
    return (decode_identity(raw) if isinstance(raw, bytes) else None) or NOBODY


def _pairs(reply: object) -> dict[str, str]:
    """[name, value, name, value]; nothing when the server keeps it to itself."""
    if not isinstance(reply, list):
        return {}
    words = [part.decode() if isinstance(part, bytes) else "" for part in reply]
    return dict(zip(words[::2], words[1::2], strict=False))
