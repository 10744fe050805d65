"""What the commands need from the rest of the sidecar."""

from collections.abc import Callable
from typing import Any, Protocol

from buckets.bucket_map import Consistency
from sidecar.core.fast_lane import LoneKey, ReadBatch
from sidecar.core.listing import Listing
from sidecar.core.operation import Read, Write
from sidecar.core.register_op import Modify
from sidecar.core.session_ops import Sessions
from sidecar.core.turns import Together
from sidecar.errors import DataError


class Backend(Protocol):
    """The coordinator, as far as this door knows it.

    `read`, `write` and `modify` call the operation's `done` exactly once, at once or later.
    """

    default_timeout_ms: int
    sessions: Sessions
    together: Together

    def read(self, op: Read, /) -> None: ...

    def read_batch(self, batch: ReadBatch, /) -> bool:
        """Begin reads that came together; False: nothing was begun, `read` each."""

    def join_batch(self, lone: LoneKey, deadline: float, /) -> bool:
        """Read a key in one batch with those of others; False: nothing was begun, `read` it."""

    def end_turn(self) -> None:
        """Keys that come from now on join another batch."""

    def write(self, op: Write, /) -> None: ...

    def check_read(self, op: Read, /) -> DataError | None:
        """What `read` would refuse before it sends anything; None: nothing. It judges the keyspace
        and the size of the key."""

    def check_write(self, op: Write, /) -> DataError | None:
        """What `write` would refuse before it sends anything; None: nothing."""

    def list_keys(self, op: Listing, /) -> None: ...

    def modify(self, op: Modify, /) -> None: ...

    def is_linearizable(self, keyspace: str, /) -> bool: ...

    def cancel(self, op: Read | Write | Modify, /) -> None:
        """Nobody waits for `op` any more; `done` is not called. What was sent is not undone."""

    def locate(self, keyspace: str, key: bytes, level: Consistency, /) -> Any:
        """A dataclass that says where `key` lives, or a DataError."""

    def keyspace_for_db(self, db: int, /) -> str | None: ...


WallClock = Callable[[], int]
"""Unix time in milliseconds."""
