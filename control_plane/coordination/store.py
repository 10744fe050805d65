"""The contract of a coordination store: small values in a tree, guarded by versions.

Paths are absolute ("/dabbawala/dev/epoch"). A write creates the missing parents (with empty
values). A path's version starts at 0 when it is created and grows by one with every write; a path
deleted and created again starts at 0 again, so what guards must never be deleted while its cluster
lives (`epoch` and `leader` never are).

Every operation ends within `StoreOptions.operation_timeout_ms`, with an answer or with
`Unavailable`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, Self, TypeAlias

# ZooKeeper drops the connection, without an error, when a packet is over 1 MB; these stay well
# below.
VALUE_BOUND_BYTES: Final = 512 * 1024
TRANSACTION_BOUND_BYTES: Final = 896 * 1024


class Guard(Enum):
    """What a write may expect besides a version number."""

    ANY = "any"
    ABSENT = "absent"


ANY: Final = Guard.ANY
ABSENT: Final = Guard.ABSENT

Expect: TypeAlias = int | Guard


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """How patient a store is.

    A leader stops acting `leader_deadline_ms` after it last heard from the store, which must be
    below `session_timeout_ms`, after which the store may let another one lead. `cluster`, when
    given, is stamped into an embedded store's file, and a file stamped by another cluster is
    refused.
    """

    session_timeout_ms: int = 10_000
    operation_timeout_ms: int = 5_000
    connect_timeout_ms: int = 15_000
    poll_interval_ms: int = 50
    cluster: str | None = None

    @property
    def leader_deadline_ms(self) -> int:
        """Two thirds of the session: the rest pays for clocks that drift and for requests already
        on their way.
        """
        return self.session_timeout_ms * 2 // 3


@dataclass(frozen=True, slots=True)
class Entry:
    """A value as read, with the version that a later write may expect."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value`. `expect`: a version (must exist with it), ABSENT (must not exist), ANY (create
    or overwrite).
    """

    path: str
    value: bytes
    expect: Expect = ANY


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a path without children. With ANY a missing path is NotFound, with a version it is a
    Conflict.
    """

    path: str
    expect: Expect = ANY


@dataclass(frozen=True, slots=True)
class Check:
    """Change nothing, but fail the transaction unless the path has this version (or is ABSENT)."""

    path: str
    expect: Expect


Op: TypeAlias = Put | Delete | Check


@dataclass(frozen=True, slots=True)
class Changed:
    """The watched path may have changed. Whoever gets this reads what it needs, again.

    `version` is that of the path when the event was made, None when it did not exist. `resync` is
    True for the first event of a watch and after anything that may have hidden changes (reconnect,
    new session): read everything again.
    """

    path: str
    version: int | None
    resync: bool


class Watch(ABC):
    """Changes of one path: `async for event in watch`. Also an async context manager that closes
    it.

    The first event comes at once (resync). Changes that happen while the consumer is busy become
    one event, whose `resync` is True if any of them was; the last state is never missed. Ends when
    it or the store is closed.
    """

    def __aiter__(self) -> Self:
        return self

    @abstractmethod
    async def __anext__(self) -> Changed: ...

    @abstractmethod
    async def close(self) -> None: ...

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


class Registration(ABC):
    """A path that exists while this store object's session lives; made again by itself after a
    session was lost.
    """

    path: str

    @property
    @abstractmethod
    def held(self) -> bool:
        """Whether the path is known to be there. False while it is being made again, for ever once
        withdrawn or once another store object registered the same path (the last one to register
        wins).
        """

    @abstractmethod
    async def update(self, value: bytes) -> None:
        """Replace the value."""

    @abstractmethod
    async def withdraw(self) -> None:
        """Remove the path. Safe to call twice."""


class Leadership(ABC):
    """One term of leading. `term` only grows from one leader to the next.

    Act only while `is_leader()`, and put `guard()` into every transaction: a paused leader that
    wakes up believing it still leads has its transactions refused with a Conflict on the campaign's
    path.
    """

    path: str
    term: int

    @abstractmethod
    def is_leader(self) -> bool:
        """False from `leader_deadline_ms` after the store last confirmed this leadership, by this
        process's own clock, whether or not anything was heard of the loss. Never True again after
        the session was lost.
        """

    def guard(self) -> Check:
        """The operation that makes a transaction fail once a later term has begun."""
        return Check(self.path, self.term)

    @abstractmethod
    async def lost(self) -> None:
        """Returns when this leadership is over for good (session lost, resigned, deadline passed,
        store closed).
        """

    @abstractmethod
    async def resign(self) -> None:
        """Stop leading now, so that another one can win at once. Safe to call twice, never raises
        Unavailable.
        """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.resign()


class CoordinationStore(ABC):
    """What the control plane must agree on. All methods belong to the event loop that opened the
    store.

    Any of them may raise Unavailable (try again), BadPath, StoreClosed; the others are named where
    they apply.
    """

    @abstractmethod
    async def read_many(self, paths: Iterable[str]) -> list[Entry | None]:
        """The entries of many paths, in their order; None for a missing one. Pipelined; not one
        snapshot.
        """

    @abstractmethod
    async def children(self, path: str) -> list[str]:
        """The sorted names (not paths) right under a path; empty when the path does not exist."""

    @abstractmethod
    async def read_tree(self, prefix: str) -> dict[str, Entry]:
        """Every path at and below prefix, sorted. Not one snapshot: see `read_snapshot`."""

    @abstractmethod
    async def transact(self, ops: Sequence[Op]) -> list[int]:
        """All or nothing. Answers the version of each operation's path after it (-1 when it is then
        absent).

        Raises Conflict, NotFound or NotEmpty naming the refused operation, TooLarge before anything
        is sent. Each path may be named once.
        """

    @abstractmethod
    async def delete_tree(self, prefix: str) -> None:
        """Remove a path and all below it; a missing path is fine.

        Not atomic, and may take several deadlines; after Unavailable, call it again.
        """

    @abstractmethod
    async def ephemeral(self, path: str, value: bytes) -> Registration:
        """Make a path that lives as long as this store's session. Takes over from an earlier
        registration.
        """

    @abstractmethod
    def watch(self, path: str) -> Watch:
        """Follow the changes of one path (it need not exist)."""

    @abstractmethod
    async def campaign(self, path: str, value: bytes) -> Leadership:
        """Wait (for as long as it takes) to lead; cancel to give up. Does not raise Unavailable.

        `path` then holds the value of the latest leader and its version is the term; `path/holder`
        exists while somebody leads.
        """

    @abstractmethod
    async def sync(self, path: str) -> None:
        """After this, reads see at least all that was written anywhere before it was called."""

    @property
    @abstractmethod
    def connected(self) -> bool:
        """Whether the store answered lately. For status pages; decide nothing by it."""

    @abstractmethod
    async def close(self) -> None:
        """End the session: ephemerals vanish, leaderships end, watches stop. Safe to call twice."""

    async def read(self, path: str) -> Entry | None:
        """One entry, or None."""
        (entry,) = await self.read_many([path])
        return entry

    async def write(self, path: str, value: bytes, *, expect: Expect = ANY) -> int:
        """Write one value; answers its new version. Raises Conflict, TooLarge."""
        (version,) = await self.transact([Put(path, value, expect)])
        return version

    async def delete(self, path: str, *, expect: Expect = ANY) -> None:
        """Remove one path. Raises Conflict, NotFound, NotEmpty."""
        await self.transact([Delete(path, expect)])

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
