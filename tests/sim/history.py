"""Everything a run leaves behind for the checkers. Plain values: a test writes them by hand.

Steps are one counter over the whole run, so that "ended before it began" is a comparison of two
integers whatever the clocks said.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from buckets.bucket_map import Bucket, Consistency

OK = "OK"
NOT_APPLIED = "NOT_APPLIED"
UNKNOWN = "UNKNOWN"
FAILED = "FAILED"  # a read without an answer
PENDING = ""

STRONG = frozenset({Consistency.QUORUM, Consistency.EACH_QUORUM, Consistency.ALL})


@dataclass(slots=True)
class Op:
    """One operation of one client. `value` of a write: None deletes. Times in virtual seconds."""

    number: int
    client: str
    sidecar: str
    write: bool
    key: bytes
    level: int
    began: int  # step
    value: bytes | None = None
    expires_at_ms: int = 0  # of a write; 0: never
    began_s: float = 0.0
    due_s: float = 0.0  # it has to have ended by then
    ended: int = 0  # step; 0: not ended
    ended_s: float = 0.0
    ends: int = 0
    outcome: str = PENDING
    version: bytes = b""  # of a read: of what was found; empty: never written
    found: bytes | None = None  # what a read was given; None: absent
    bucket: Bucket | None = None  # the bucket as the sidecar's map had it when the operation ended
    zones: tuple[str, ...] = ()  # of the bucket's members, owners first, then pending
    zone: str = ""  # of the sidecar
    fresh: bool = True  # its version was made for it; a repeat carries that of an earlier attempt
    token: bytes = b""  # of the client's session; once it has ended well: the next
    orphaned: bool = False  # its sidecar was killed under it

    @property
    def strong(self) -> bool:
        """Whether it is of a level whose reads and writes overlap."""
        return self.level in STRONG

    def __str__(self) -> str:
        kind = "read" if not self.write else "delete" if self.value is None else "put"
        what = self.value if self.write else self.found
        level = Consistency(self.level).name
        return (
            f"op {self.number} ({self.client} at {self.sidecar}, {kind} {self.key!r} {level},"
            f" steps {self.began}..{self.ended}): {self.outcome or 'no end'} {what!r}"
            f" version {short(self.version)}"
        )


class Ack(NamedTuple):
    """A replica executed a write, and holds its version or a newer one from then on."""

    step: int
    node: int
    life: bytes
    epoch: int
    incarnation: int
    key: bytes
    version: bytes


class Accept(NamedTuple):
    """An acceptor of a linearizable key took a record."""

    step: int
    node: int
    life: bytes
    epoch: int
    incarnation: int
    key: bytes
    raw: bytes


class Absent(NamedTuple):
    """A replica answered a read of a key of which it has no record; `fence` as it showed it."""

    step: int
    node: int
    life: bytes
    asker: str
    key: bytes
    fence: bytes | None


@dataclass
class History:
    """One run."""

    ops: list[Op] = field(default_factory=list)
    linearizable: bool = False  # the keys are: `ops` are register_history.RegisterOps
    acks: list[Ack] = field(default_factory=list)
    accepts: list[Accept] = field(default_factory=list)  # the same of linearizable keys
    absents: list[Absent] = field(default_factory=list)
    # life -> the step at which the published map first named it as trusted
    trusted: dict[bytes, int] = field(default_factory=dict)
    # (key, version) of writes at level ANY that a sidecar had on disk
    kept: set[tuple[bytes, bytes]] = field(default_factory=set)
    # by sidecar: the versions it made, in order
    issued: dict[str, list[bytes]] = field(default_factory=dict)
    # at the end: node -> key -> raw record
    stored: dict[int, Mapping[bytes, bytes]] = field(default_factory=dict)
    # nodes that own the bucket at the end and whose life is trusted; of how many owners
    final_owners: tuple[int, ...] = ()
    owner_count: int = 0
    # keys that a read at QUORUM and one at ALL answered after the last fault
    read_at_quorum: frozenset[bytes] = frozenset()
    read_at_all: frozenset[bytes] = frozenset()
    # tombstones that every owner was asked to drop: from which step on, and up to which version
    purged: list[tuple[int, bytes]] = field(default_factory=list)
    over_s: float = float("inf")  # when the run was over
    step: int = 0

    def next_step(self) -> int:
        """The number of what happens now."""
        self.step += 1
        return self.step


def short(version: bytes) -> str:
    """A version as people can tell it from others: its clock's low bytes, and its writer."""
    return f"{version[3:8].hex()}:{version[8:].decode('latin-1')}" if version else "none"
