"""The coordination store on ZooKeeper. The only module that imports kazoo, which has no types: they
begin here.

kazoo runs threads of its own; every result and event is handed to the event loop with
call_soon_threadsafe.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    BadVersionError,
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    NoChildrenForEphemeralsError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    SessionExpiredError,
)
from kazoo.protocol.states import KazooState
from kazoo.retry import KazooRetry

from control_plane.coordination.errors import (
    BadPath,
    Conflict,
    NotEmpty,
    NotFound,
    SessionLost,
    StoreClosed,
    Unavailable,
    WrongStore,
)
from control_plane.coordination.paths import checked_path, parents
from control_plane.coordination.primitives import RETRY_PAUSE_S, Holding, PutEphemeral, SessionOp
from control_plane.coordination.session import SessionStore
from control_plane.coordination.store import (
    ABSENT,
    ANY,
    Check,
    Delete,
    Entry,
    Put,
    StoreOptions,
    Watch,
)
from control_plane.coordination.watching import LatestChange
from control_plane.coordination.zookeeper_handshake import granted_timeout_ms

# Requests in flight at once: enough to hide the round trip, few enough not to fill kazoo's wake-up
# socket.
_PIPELINE = 256
_APPLY_ATTEMPTS = 5
_DELETE_TREE_ATTEMPTS = 5
# A watch is looked at again this often even when nothing fired, should an event ever get lost on
# the way.
_REARM_S = 30.0

T = TypeVar("T")


class ZooKeeperStore(SessionStore):
    """Made by `ZooKeeperStore.open`. `prefix` is put before every path ("" or a chroot such as
    "/a").
    """

    def __init__(self, client: Any, prefix: str, options: StoreOptions, granted_ms: int) -> None:
        super().__init__(options)
        self._client = client
        self._prefix = prefix
        self._granted_ms = granted_ms
        self._loop = asyncio.get_running_loop()
        self._session_id = 0
        # Set while connected, and for ever once closed, so that nobody keeps waiting.
        self._usable = asyncio.Event()
        self._losses = 0
        self._watches: set[LatestChange] = set()
        client.add_listener(self._on_kazoo_state)

    @classmethod
    async def open(
        cls, hosts: Sequence[tuple[str, int]], prefix: str, options: StoreOptions
    ) -> "ZooKeeperStore":
        """Connect. Unavailable when nothing answers within `connect_timeout_ms`."""
        granted_ms = await granted_timeout_ms(
            hosts, options.session_timeout_ms, options.connect_timeout_ms
        )
        client = KazooClient(
            hosts=",".join(
                f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts
            ),
            timeout=options.session_timeout_ms / 1000,
            # The default gives delays that double up to an hour: after an outage nobody would come
            # back.
            connection_retry=KazooRetry(max_tries=-1, delay=0.1, backoff=2, max_delay=1.0),
        )
        store = cls(client, prefix, options, granted_ms)
        client.start_async()
        try:
            async with asyncio.timeout(options.connect_timeout_ms / 1000):
                await store._usable.wait()
        except BaseException as error:
            await store.close()
            if isinstance(error, TimeoutError):
                raise Unavailable(
                    f"ZooKeeper gave no session within {options.connect_timeout_ms} ms;"
                    " check the ensemble"
                ) from error
            raise
        return store

    @property
    def session_id(self) -> int:
        return 0 if self.closed else self._session_id

    @property
    def session_timeout_ms(self) -> int:
        return self._granted_ms

    @property
    def connected(self) -> bool:
        return self._usable.is_set() and not self.closed

    async def read_many(self, paths: Iterable[str]) -> list[Entry | None]:
        found = await self._get_many([checked_path(path) for path in paths])
        return [None if got is None else Entry(got[0] or b"", got[1].version) for got in found]

    async def children(self, path: str) -> list[str]:
        (names,) = await self._children_many([checked_path(path)])
        return names

    async def read_tree(self, prefix: str) -> dict[str, Entry]:
        checked_path(prefix)
        return await self._within_deadline(lambda: self._read_tree(prefix), writes=False)

    async def _read_tree(self, prefix: str) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        level = [prefix]
        while level:
            found = await self._get_many(level)
            above = []
            for path, got in zip(level, found, strict=True):
                if got is None:
                    continue
                entries[path] = Entry(got[0] or b"", got[1].version)
                if got[1].numChildren:
                    above.append(path)
            level = await self._paths_below(above)
        return dict(sorted(entries.items()))

    async def delete_tree(self, prefix: str) -> None:
        checked_path(prefix)
        for _ in range(_DELETE_TREE_ATTEMPTS):
            doomed: list[str] = []
            level = [prefix]
            while level:
                doomed.extend(level)
                level = await self._paths_below(level)
            # Children stand behind their parents, and a session's requests are carried out in
            # order.
            refusals = await self._ask_many(
                [self._start(self._client.delete_async, path) for path in reversed(doomed)],
                (NoNodeError, NotEmptyError),
                writes=True,
            )
            if not any(isinstance(refusal, NotEmptyError) for refusal in refusals):
                return
        raise Unavailable(
            f"{prefix} grew while it was being deleted; try again", maybe_applied=True
        )

    async def holding(self, path: str) -> Holding | None:
        checked_path(path)
        stat = await self._ask(self._start(self._client.exists_async, path))
        if stat is None:
            return None
        owner = stat.ephemeralOwner
        return Holding(stat.version, owner != 0 and owner == self._session_id, owner != 0)

    async def sync(self, path: str) -> None:
        checked_path(path)
        await self._ask(self._start(self._client.sync_async, path))

    async def apply(self, ops: Sequence[SessionOp]) -> list[int]:
        # One deadline over all the requests it may take.
        return await self._within_deadline(lambda: self._apply(ops), writes=True)

    async def _apply(self, ops: Sequence[SessionOp]) -> list[int]:
        for _ in range(_APPLY_ATTEMPTS):
            present = await self._present(
                [op.path for op in ops if isinstance(op, Put) and op.expect is ANY]
            )
            results, owners = await self._commit(ops, present)
            refused = next((at for at, result in enumerate(results) if _is_refusal(result)), None)
            if refused is None:
                return _versions(ops, owners, results)
            at = owners[refused]
            await self._raise_refusal(ops[at], at, results[refused])
        raise Unavailable(
            f"{ops[0].path} and its neighbours changed faster than they could be written; try again"
        )

    async def _commit(
        self, ops: Sequence[SessionOp], present: set[str]
    ) -> tuple[list[Any], list[int]]:
        """The results of the multi (exceptions among them when it failed), and which op each one
        belongs to.
        """
        transaction = self._client.transaction()
        owners: list[int] = []
        for at, op in enumerate(ops):
            self._add(transaction, op, op.path in present)
            owners.extend([at] * (len(transaction.operations) - len(owners)))
        return await self._ask(transaction.commit_async, writes=True), owners

    def _add(self, transaction: Any, op: SessionOp, present: bool) -> None:
        path = self._prefix + op.path
        match op:
            case PutEphemeral():
                transaction.create(path, op.value, ephemeral=True)
            case Put() if op.expect is ABSENT or (op.expect is ANY and not present):
                transaction.create(path, op.value)
            case Put():
                transaction.set_data(path, op.value, _zookeeper_version(op))
            case Check() if op.expect is ABSENT:
                # There is no check for absence: make it and take it away again, all in the one
                # multi.
                transaction.create(path, b"")
                transaction.delete(path)
            case Check():
                transaction.check(path, _zookeeper_version(op))
            case Delete():
                transaction.delete(path, _zookeeper_version(op))

    async def _raise_refusal(self, op: SessionOp, at: int, refusal: Exception) -> None:
        """Say what a refused multi means; returns when it is worth trying again."""
        if isinstance(refusal, NotEmptyError):
            raise NotEmpty(op.path, at)
        if isinstance(refusal, NoChildrenForEphemeralsError):
            raise BadPath(f"{op.path} cannot be made: its parent is ephemeral and has no children")
        if not isinstance(refusal, (BadVersionError, NoNodeError, NodeExistsError)):
            raise _typed(refusal, writes=False)
        if isinstance(op, Delete) and op.expect is ANY:
            raise NotFound(op.path, at)
        creates = isinstance(op, PutEphemeral) or op.expect is ABSENT or op.expect is ANY
        if creates and isinstance(refusal, NoNodeError):
            await self._make_parents(op.path)
            return
        if isinstance(op, Put) and op.expect is ANY:
            return  # it came or went since we looked
        expected = ABSENT if isinstance(op, PutEphemeral) else op.expect
        now = await self.holding(op.path)
        raise Conflict(
            op.path,
            expected if isinstance(expected, int) else "absent",
            "absent" if now is None else now.version,
            at,
        )

    async def _make_parents(self, path: str) -> None:
        # In order, outermost first; those that are there already refuse.
        starts = [
            partial(self._client.create_async, parent, b"")
            for parent in parents(self._prefix + path)
        ]
        await self._ask_many(starts, (NodeExistsError,), writes=True)

    async def _present(self, paths: Sequence[str]) -> set[str]:
        stats = await self._ask_many(
            [self._start(self._client.exists_async, path) for path in paths], ()
        )
        return {path for path, stat in zip(paths, stats, strict=True) if stat is not None}

    async def _get_many(self, paths: Sequence[str]) -> list[Any]:
        """(value, stat) of each path, None for a missing one."""
        answers = await self._ask_many(
            [self._start(self._client.get_async, path) for path in paths], (NoNodeError,)
        )
        return [None if isinstance(answer, NoNodeError) else answer for answer in answers]

    async def _children_many(self, paths: Sequence[str]) -> list[list[str]]:
        starts = [self._start(self._client.get_children_async, path) for path in paths]
        answers = await self._ask_many(starts, (NoNodeError,))
        return [[] if isinstance(answer, NoNodeError) else sorted(answer) for answer in answers]

    async def _paths_below(self, paths: Sequence[str]) -> list[str]:
        below = await self._children_many(paths)
        return [
            f"{path}/{name}" for path, names in zip(paths, below, strict=True) for name in names
        ]

    def watch(self, path: str) -> Watch:
        self.require_open()
        watch = LatestChange(checked_path(path), self._watches.discard)
        self._watches.add(watch)
        self.spawn(self._follow(watch))
        return watch

    async def _follow(self, watch: LatestChange) -> None:
        """Read the state and leave a watch in one request; when it fires, or may have been lost, do
        it again.
        """
        fired = asyncio.Event()

        def on_event(_event: object) -> None:
            self._to_loop(fired.set)

        seen: tuple[int, int] | None = None
        resync = True
        while watch in self._watches:
            fired.clear()
            losses = self._losses
            try:
                stat = await self._ask(
                    lambda: self._client.exists_async(self._prefix + watch.path, on_event)
                )
            except StoreClosed:
                return
            except Unavailable:
                resync = True
                await asyncio.sleep(RETRY_PAUSE_S)
                continue
            state = None if stat is None else (stat.czxid, stat.mzxid)
            if resync or state != seen:
                watch.offer(None if stat is None else stat.version, resync=resync)
            seen = state
            with suppress(TimeoutError):
                async with asyncio.timeout(_REARM_S):
                    await fired.wait()
            resync = losses != self._losses

    async def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._usable.set()
        await self.end_tasks()
        for watch in list(self._watches):
            watch.end()
        stopped = asyncio.Event()

        def stop() -> None:
            # Joins kazoo's threads; with a frozen server that takes up to a session timeout, so
            # nobody waits for it.
            with suppress(KazooException, OSError):
                self._client.stop()
                self._client.close()
            self._to_loop(stopped.set)

        threading.Thread(target=stop, name="coordination-zookeeper-stop", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(self.options.operation_timeout_ms / 1000):
                await stopped.wait()

    def _on_kazoo_state(self, state: str) -> None:
        """In kazoo's thread. Events of one thread reach the loop in order, so the session id is
        never behind.
        """
        client_id = self._client.client_id
        self._to_loop(lambda: self._on_state(state, client_id[0] if client_id else 0))

    def _on_state(self, state: str, session_id: int) -> None:
        if self.closed:
            return
        if state == KazooState.CONNECTED:
            self._session_id = session_id
            self._usable.set()
            return
        self._losses += 1
        self._usable.clear()
        if state == KazooState.LOST:
            self._session_id = 0

    def _to_loop(self, callback: Callable[[], object]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is left to tell
            self._loop.call_soon_threadsafe(callback)

    def _start(self, method: Callable[[str], Any], path: str) -> Callable[[], Any]:
        return lambda: method(self._prefix + path)

    async def _ask(self, start: Callable[[], Any], *, writes: bool = False) -> Any:
        """Send one request and wait for its answer. Errors of the node (NoNodeError...) pass;
        others come typed.
        """

        async def ask() -> Any:
            return await self._bridge(start())

        return await self._within_deadline(ask, writes=writes)

    async def _ask_many(
        self,
        starts: Sequence[Callable[[], Any]],
        allowed: tuple[type[Exception], ...],
        *,
        writes: bool = False,
    ) -> list[Any]:
        """Pipeline requests; the allowed errors stand among the answers, the first other one is
        raised.
        """

        async def ask() -> list[Any]:
            answers: list[Any] = []
            for begin in range(0, len(starts), _PIPELINE):
                futures = [self._bridge(start()) for start in starts[begin : begin + _PIPELINE]]
                answers.extend(await asyncio.gather(*futures, return_exceptions=True))
            return answers

        answers = await self._within_deadline(ask, writes=writes)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, allowed):
                raise _typed(answer, writes=writes)
        return answers

    async def _within_deadline(self, ask: Callable[[], Awaitable[T]], *, writes: bool) -> T:
        self.require_open()
        sent = False
        try:
            async with asyncio.timeout(self.options.operation_timeout_ms / 1000):
                # kazoo would queue requests while disconnected and send them much later; ours have
                # a deadline.
                await self._usable.wait()
                self.require_open()
                sent = True
                return await ask()
        except TimeoutError as error:
            raise Unavailable(
                "ZooKeeper did not answer within"
                f" {self.options.operation_timeout_ms} ms; try again",
                maybe_applied=writes and sent,
            ) from error
        except (NoNodeError, NodeExistsError, NotEmptyError, BadVersionError):
            raise
        except KazooException as error:
            raise _typed(error, writes=writes) from error

    def _bridge(self, result: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()

        def settle() -> None:
            if future.done():
                return
            if result.exception is None:
                future.set_result(result.value)
            else:
                future.set_exception(result.exception)

        result.rawlink(lambda _result: self._to_loop(settle))
        return future


def _is_refusal(result: Any) -> bool:
    """Of a failed multi's results, the operation that failed: those before it are rolled back,
    those after unknown.

    A failed multi does not raise: it answers an exception for each operation.
    """
    return isinstance(result, Exception) and not isinstance(result, RolledBackError)


def _versions(ops: Sequence[SessionOp], owners: Sequence[int], results: Sequence[Any]) -> list[int]:
    last = dict(zip(owners, results, strict=True))
    versions = []
    for at, op in enumerate(ops):
        if isinstance(op, Delete) or (isinstance(op, Check) and op.expect is ABSENT):
            versions.append(-1)
        elif isinstance(op, Check):
            versions.append(_zookeeper_version(op))
        else:  # a create answers its path, a write its stat
            versions.append(0 if isinstance(last[at], str) else int(last[at].version))
    return versions


def _zookeeper_version(op: Put | Check | Delete) -> int:
    return op.expect if isinstance(op.expect, int) else -1


def _typed(error: BaseException, *, writes: bool) -> Exception:
    """What an error of kazoo means to a caller of the contract."""
    if isinstance(error, SessionExpiredError):
        return SessionLost(
            "the ZooKeeper session ended under the operation; try again", maybe_applied=writes
        )
    if isinstance(error, (AuthFailedError, NoAuthError)):
        return WrongStore(
            f"ZooKeeper refuses access ({type(error).__name__}); check the ACLs of its paths"
        )
    if isinstance(error, (ConnectionLoss, ConnectionClosedError)):
        return Unavailable(
            "the connection to ZooKeeper broke under the operation; try again", maybe_applied=writes
        )
    return Unavailable(
        f"ZooKeeper answered {type(error).__name__} {error}; try again", maybe_applied=writes
    )
