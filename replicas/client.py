"""Awaited questions to one replica, for jobs and controllers; the doors use the link itself."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

from hiredis import ReplyError

from replicas import commands
from replicas.errors import CommandFailed, UnexpectedReply, Unreachable, WrongIdentity
from replicas.fence import Fence, decode_fence
from replicas.handshake import ServerIdentity, parse_time_ms
from replicas.identity import Identity, decode_identity
from replicas.layout import IDENTITY_KEY, BucketKeys
from replicas.link import Link, ask, open_link
from replicas.record import Record, decode_record
from replicas.replies import Refusal, parse_refusal, parse_write
from replicas.scripts import SCRIPTS

DEFAULT_TIMEOUT_S = 5.0
PIPELINE = 512  # commands under way at once where many are asked: well below the link's bound


class FenceChange(NamedTuple):
    """One bucket's new fence and the map entry (BucketEntry bytes) to keep beside it."""

    keys: BucketKeys
    fence: Fence
    entry: bytes


class StoredFence(NamedTuple):
    """What stands beside a bucket. `fence` None with `raw` given: it fails its checksum."""

    fence: Fence | None
    raw: bytes | None
    entry: bytes | None


class StoredRecord(NamedTuple):
    """One key as it stands, with the fence of the same instant.

    `record` None with `raw` given: it fails its checksum, and is no answer.
    """

    fence: Fence | None
    record: Record | None
    raw: bytes | None


class ReplicaClient:
    """Awaited calls over one link. Every call ends within `timeout_s`.

    Raises LinkLost, LinkFull, Unreachable (no answer in time), CommandFailed (the server answered
    with an error) and UnexpectedReply; what a script refuses is a value.
    """

    def __init__(self, link: Link, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self.link = link
        self.timeout_s = timeout_s

    @classmethod
    async def connect(
        cls,
        host: str,
        port: int,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        password: str | None = None,
    ) -> "ReplicaClient":
        """Open a link and check the server. Raises what open_link raises."""
        link = await open_link(host, port, timeout_s=timeout_s, password=password)
        return cls(link, timeout_s=timeout_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    @property
    def server(self) -> ServerIdentity:
        """What the server said of itself on connecting."""
        return self.link.identity

    def close(self) -> None:
        """Drop the link."""
        self.link.close()

    async def call(self, *arguments: bytes) -> object:
        """Any command; its reply as bytes, int, None or list."""
        [reply] = await self._ask([commands.pack_command(*arguments)])
        return self._accepted(reply)

    async def ask(self, built: Sequence[bytes]) -> list[object]:
        """The replies to built commands, in order; the server's errors (ReplyError) are values."""
        return await self._ask(built)

    async def time_ms(self) -> int:
        """The server's clock, Unix milliseconds."""
        [reply] = await self._ask([commands.TIME])
        return parse_time_ms(self.link.address, reply)

    # --- records

    async def read(self, keys: BucketKeys, key: bytes) -> StoredRecord:
        """One key and the bucket's fence. The caller judges the fence (replies.judge_fence)."""
        [reply] = await self._ask([commands.read_command(commands.read_prefix(keys), key)])
        fence, raw = self._pair(reply)
        decoded = decode_fence(fence) if fence is not None else None
        return StoredRecord(decoded, decode_record(raw) if raw is not None else None, raw)

    async def write(
        self,
        keys: BucketKeys,
        key: bytes,
        record: bytes,
        *,
        epoch: int,
        incarnation: int,
        limits: bytes,
        heal: bool = False,
    ) -> int | Refusal:
        """Write a record (replies.APPLIED, APPLIED_OVER_LIVE, SUPERSEDED), or be refused.

        `limits` comes from commands.pack_limits. `heal` replaces a record that fails its checksum.
        """
        script = SCRIPTS["heal" if heal else "write"]
        prefix = commands.write_prefix(keys, epoch, incarnation, script=script)
        [reply] = await self._ask([prefix + commands.write_suffix(key, record, limits)])
        outcome = parse_write(reply)
        if outcome is None:
            raise self._unexpected(reply)
        return outcome

    # --- fences

    async def create_fences(self, changes: Sequence[FenceChange]) -> list[Refusal | None]:
        """Make first fences; for each None (created) or the refusal. Many go at once."""
        return await self._change_fences(commands.create_fence, changes)

    async def raise_fences(self, changes: Sequence[FenceChange]) -> list[Refusal | None]:
        """Raise fences to newer epochs; for each None (raised, or so already) or the refusal."""
        return await self._change_fences(commands.raise_fence, changes)

    async def release_fences(self, changes: Sequence[FenceChange]) -> list[Refusal | None]:
        """Leave gravestones (fences of role RELEASED); for each None or the refusal."""
        return await self._change_fences(commands.release_fence, changes)

    async def create_fence(self, keys: BucketKeys, fence: Fence, entry: bytes) -> Refusal | None:
        """As create_fences, for one bucket."""
        [refusal] = await self.create_fences([FenceChange(keys, fence, entry)])
        return refusal

    async def raise_fence(self, keys: BucketKeys, fence: Fence, entry: bytes) -> Refusal | None:
        """As raise_fences, for one bucket."""
        [refusal] = await self.raise_fences([FenceChange(keys, fence, entry)])
        return refusal

    async def release_fence(self, keys: BucketKeys, fence: Fence, entry: bytes) -> Refusal | None:
        """As release_fences, for one bucket."""
        [refusal] = await self.release_fences([FenceChange(keys, fence, entry)])
        return refusal

    async def read_fences(self, buckets: Sequence[BucketKeys]) -> list[StoredFence]:
        """The fences of these buckets with their map entries, in order."""
        replies = await self._ask([commands.entry_command(keys) for keys in buckets])
        return [self._stored_fence(reply) for reply in replies]

    async def _change_fences(
        self,
        build: Callable[[BucketKeys, bytes, bytes], bytes],
        changes: Sequence[FenceChange],
    ) -> list[Refusal | None]:
        built = [build(keys, fence.encode(), entry) for keys, fence, entry in changes]
        return [self._changed(reply) for reply in await self._ask(built)]

    def _changed(self, reply: object) -> Refusal | None:
        if reply == 1:
            return None
        refusal = parse_refusal(reply)
        if refusal is None:
            raise self._unexpected(reply)
        return refusal

    def _stored_fence(self, reply: object) -> StoredFence:
        raw, entry = self._pair(reply)
        return StoredFence(decode_fence(raw) if raw is not None else None, raw, entry)

    # --- identity

    async def identity(self) -> Identity | None:
        """Whose data this is; None when nobody has said so yet. Raises WrongIdentity."""
        raw = await self.call(b"GET", IDENTITY_KEY)
        return self._decoded_identity(raw) if raw is not None else None

    async def claim_identity(self, wanted: Identity) -> Identity:
        """Give the server its identity, once; returns the one that stands.

        Its incarnation may be another than the one wanted: the caller decides what that means.
        Raises WrongIdentity when the server's data belongs to another cluster or node.
        """
        [reply] = await self._ask([commands.set_identity(wanted.encode())])
        stands = self._decoded_identity(self._accepted(reply))
        if not stands.names_same_node(wanted):
            raise WrongIdentity(
                self.link.address,
                f"its data belongs to node {stands.node!r} of cluster {stands.cluster!r}, not to"
                f" node {wanted.node!r} of cluster {wanted.cluster!r}",
                "Name the right address, or empty the server if its data may go",
            )
        return stands

    def _decoded_identity(self, raw: object) -> Identity:
        identity = decode_identity(raw) if isinstance(raw, bytes) else None
        if identity is None:
            raise WrongIdentity(
                self.link.address,
                f"its key {IDENTITY_KEY.decode()} holds no identity",
                "Look who uses the server",
            )
        return identity

    # --- the link

    async def _ask(self, built: Sequence[bytes]) -> list[object]:
        replies: list[object] = []
        for start in range(0, len(built), PIPELINE):
            part = list(built[start : start + PIPELINE])
            try:
                async with asyncio.timeout(self.timeout_s):
                    replies += await ask(self.link, part)
            except TimeoutError:
                problem = f"it did not answer within {self.timeout_s:g} s"
                fix = "What was asked may have been done: ask again"
                raise Unreachable(self.link.address, problem, fix) from None
        return replies

    def _accepted(self, reply: object) -> object:
        if isinstance(reply, ReplyError):
            raise CommandFailed(
                self.link.address, f"the server answered: {reply}", "See the server's documentation"
            )
        return reply

    def _pair(self, reply: object) -> tuple[bytes | None, bytes | None]:
        match self._accepted(reply):
            case [bytes() | None as first, bytes() | None as second]:
                return first, second
        raise self._unexpected(reply)

    def _unexpected(self, reply: object) -> Exception:
        self._accepted(reply)
        return UnexpectedReply(
            self.link.address, f"unexpected reply {str(reply)[:200]!r}", "Please report this"
        )
