"""What a coordination store may refuse, grouped by who must act.

`Unavailable` and `SessionLost`: wait and try again. `Conflict` and `NotFound`: read again, decide
again. `NotLeader`: stop acting. `TooLarge`, `BadPath`, `BadOperation`, `BadUrl`, `WrongStore`: a
person or a caller must change something.
"""


class CoordinationError(Exception):
    """Base of everything a coordination store raises on purpose."""


class Unavailable(CoordinationError):
    """The store could not answer within its deadline; try again later.

    `maybe_applied` is True when the request had been sent: a write may or may not have happened, so
    read before deciding again. Writes guarded by a version are safe to send again: the second one
    gets a Conflict.
    """

    def __init__(self, message: str, *, maybe_applied: bool = False) -> None:
        super().__init__(message)
        self.maybe_applied = maybe_applied


class SessionLost(Unavailable):
    """The session (or lease) ended under the operation: its ephemerals and leaderships are gone.
    Try again.
    """


class StoreClosed(CoordinationError):
    """The store object was closed by its owner; open a new one."""


class Conflict(CoordinationError):
    """A guard failed and nothing was changed. Read again, decide again.

    `op_index` is the position of the refused operation in its transaction; `expected` and `actual`
    are versions, or "absent", or "present".
    """

    def __init__(
        self, path: str, expected: int | str, actual: int | str, op_index: int = 0
    ) -> None:
        super().__init__(
            f"operation {op_index} on {path}: expected {_version_words(expected)},"
            f" found {_version_words(actual)}; nothing was changed, read again"
        )
        self.path = path
        self.expected = expected
        self.actual = actual
        self.op_index = op_index


class NotFound(CoordinationError):
    """The path to delete is not there. Nothing was changed."""

    def __init__(self, path: str, op_index: int = 0) -> None:
        super().__init__(f"operation {op_index}: {path} does not exist; nothing was changed")
        self.path = path
        self.op_index = op_index


class NotEmpty(CoordinationError):
    """The path to delete has children; delete them first, or use delete_tree. None was changed."""

    def __init__(self, path: str, op_index: int = 0) -> None:
        super().__init__(
            f"operation {op_index}: {path} has children; nothing was changed, use delete_tree"
        )
        self.path = path
        self.op_index = op_index


class NotLeader(CoordinationError):
    """This instance does not lead (any more). Stop acting; campaign again."""


class TooLarge(CoordinationError):
    """A value, or a transaction as a whole, is over its bound; refused before it was sent."""

    def __init__(self, what: str, size_bytes: int, bound_bytes: int) -> None:
        super().__init__(f"{what} is {size_bytes} bytes, the bound is {bound_bytes}; split it")
        self.size_bytes = size_bytes
        self.bound_bytes = bound_bytes


class BadPath(CoordinationError, ValueError):
    """A path or a name does not follow the grammar, or its parent cannot have children."""


class BadOperation(CoordinationError, ValueError):
    """An operation that no store can carry out as asked, for instance a path named twice in one
    transaction.
    """


class BadUrl(CoordinationError, ValueError):
    """The address of the store cannot be understood."""


class WrongStore(CoordinationError):
    """The store exists but is not ours to use: made by a newer version, by another cluster, or not
    a store at all.
    """


def _version_words(version: int | str) -> str:
    return f"version {version}" if isinstance(version, int) else version
