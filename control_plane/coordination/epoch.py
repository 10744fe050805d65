"""The map epoch: one number per cluster that grows with every change of the map, in the same
transaction.

Because each bump is guarded by the version it was read with, of two writers that read the same map
only one wins, even when they change different ranges: a map is never a mixture of two decisions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from control_plane.coordination.errors import Unavailable, WrongStore
from control_plane.coordination.store import ABSENT, CoordinationStore, Entry, Op, Put

_SNAPSHOT_ATTEMPTS = 10


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything under a prefix as of one epoch. `epoch_entry` is what with_epoch_bump guards the
    next change by.
    """

    epoch: int
    epoch_entry: Entry | None
    entries: dict[str, Entry]


def epoch_number(epoch_entry: Entry | None) -> int:
    """0 before the first change. WrongStore when the value is not a number."""
    if epoch_entry is None or epoch_entry.value == b"":
        return 0
    if not (epoch_entry.value.isdigit() and len(epoch_entry.value) <= 19):
        raise WrongStore(
            f"the epoch holds {epoch_entry.value[:40]!r}, not a number; the store is damaged"
        )
    return int(epoch_entry.value)


def with_epoch_bump(ops: Sequence[Op], epoch_path: str, epoch_entry: Entry | None) -> list[Op]:
    """The operations plus the bump of the epoch (first, so that losing the race is what a Conflict
    names).

    `epoch_entry` must be the one read BEFORE the values that the change was decided from.
    """
    expect = ABSENT if epoch_entry is None else epoch_entry.version
    bump = Put(epoch_path, b"%d" % (epoch_number(epoch_entry) + 1), expect)
    return [bump, *ops]


async def read_snapshot(store: CoordinationStore, prefix: str, epoch_path: str) -> Snapshot:
    """Read a tree as of one epoch: read again until the epoch is the same before and after.

    Holds for what is only written together with an epoch bump. Raises Unavailable when the map
    changes faster than it can be read.
    """
    before = await store.read(epoch_path)
    for _ in range(_SNAPSHOT_ATTEMPTS):
        entries = await store.read_tree(prefix)
        after = await store.read(epoch_path)
        if after == before:
            return Snapshot(epoch_number(after), after, entries)
        before = after
    raise Unavailable(f"{prefix} changed during each of {_SNAPSHOT_ATTEMPTS} reads; try again")
