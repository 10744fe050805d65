"""What waits in a connection's order of replies. Its `tag` is the reply's bytes once that is known.

Single operations, batches and gathers wait as they are; the rest is here.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sidecar.core.count import Count
from sidecar.core.fast_lane import Asker, ReadBatch
from sidecar.core.operation import Read
from sidecar.core.scan import Scan
from sidecar.redis.gather import Gather


class Ready:
    """A reply that waits only for those before it."""

    __slots__ = ("tag",)

    def __init__(self, tag: bytes) -> None:
        self.tag = tag


class LoneGet(Ready):
    """The one GET that a connection waits for; see plain_gets. `tag` is None until it is read."""

    __slots__ = ("asker", "key", "keyspace", "level", "session")

    def __init__(self, session: Any) -> None:
        self.session = session
        self.asker: Asker
        self.keyspace = ""
        self.level = 0
        self.key = b""
        self.tag: bytes | None = None  # type: ignore[assignment]


class Due(Ready):
    """A reply that is made when those before it have been given."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[[], bytes]) -> None:
        self.make = make

    @property
    def tag(self) -> bytes:  # type: ignore[override]
        """The reply, as of now."""
        return self.make()


def cancel_all(pending: Iterable[Any], cancel: Callable[[Any], None]) -> None:
    """Nobody waits for them any more: what is under way ends unheard."""
    for waiting in pending:
        if isinstance(waiting, Gather | ReadBatch):
            waiting.cancel()
        elif isinstance(waiting, Scan | Count):
            waiting.done = _unheard
        elif not isinstance(waiting, Ready):
            cancel(waiting)


def _unheard(_op: object) -> None:
    """Who waited for it is gone."""


def last_read(keys: set[bytes], pending: Iterable[object]) -> object | None:
    """The last that reads one of `keys` and is not answered: answers keep their order, so when it
    is, all are."""
    last: object | None = None
    for waiting, read in _unanswered_reads(pending):
        if not keys.isdisjoint(read):
            last = waiting
    return last


def keys_read(pending: Iterable[object]) -> set[bytes]:
    """All keys that are read and not answered."""
    return {key for _, keys in _unanswered_reads(pending) for key in keys}


def _unanswered_reads(pending: Iterable[object]) -> Iterator[tuple[object, list[bytes]]]:
    """What reads and is not answered, in order, with its keys."""
    for waiting in pending:
        if type(waiting) is ReadBatch:
            if type(waiting.tag) is not list:
                yield waiting, waiting.keys
        elif type(waiting) is Read or type(waiting) is LoneGet:
            if type(waiting.tag) is not bytes:
                yield waiting, [waiting.key]
        elif type(waiting) is Gather and waiting.tag is None and type(waiting.ops[0]) is Read:
            yield waiting, [op.key for op in waiting.ops]
