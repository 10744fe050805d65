"""What repair and admission ask of the fake replica: digest, entries, drop, fence_overwrite,
identity_replace. A step of the fake sees the whole bucket.
"""

from collections.abc import Callable, Iterator
from typing import Final

from replicas.digest import FIRST_CURSOR, leaf_digests, leaf_of, order_of
from replicas.fence import Fence, Role, decode_fence
from replicas.layout import FENCE_FIELD, MAP_FIELD, USER_PREFIX
from replicas.record import decode_record
from replicas.replies import Code

MAX_COUNT: Final = 1_000_000
MAX_LEAVES: Final = 65_536

Refuse = Callable[..., list[object]]
Agree = Callable[[list[bytes], bytes | None, bytes, bytes], Fence | list[object]]


class FakeRepair:
    """The scripts over a replica's hashes. `refuse` and `agree` are those of its other scripts."""

    def __init__(self, refuse: Refuse, agree: Agree) -> None:
        self._refuse = refuse
        self._agree = agree

    def digest(self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes]) -> object:
        """scripts/digest.lua"""
        refusal = self._refuse_step(fields, keys, args, 5)
        if refusal is not None:
            return refusal
        records = list(_records(fields))
        return [FIRST_CURSOR, len(records), leaf_digests(records, int(args[4]))]

    def entries(self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes]) -> object:
        """scripts/entries.lua"""
        refusal = self._refuse_step(fields, keys, args, 6)
        if refusal is not None:
            return refusal
        leaves, wanted = int(args[4]), args[5]
        found: list[bytes] = []
        for name, raw in _records(fields):
            if wanted[leaf_of(name, leaves)] == ord("1"):
                found += (name, order_of(raw))
        return [FIRST_CURSOR, sum(1 for _ in _records(fields)), found]

    def drop(self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes]) -> object:
        """scripts/drop.lua"""
        problem = _bad_drop(keys, args)
        if problem:
            return self._refuse(keys, Code.BAD_REQUEST, problem)
        fence = self._agree(keys, fields.get(FENCE_FIELD), args[0], args[1])
        if isinstance(fence, list):
            return fence
        if fence.role is not Role.JOINING:
            return self._refuse(keys, Code.WRONG_ROLE, entry=True)
        record = decode_record(fields.get(args[2], b""))
        if record is not None and record.version > fence.purged_through:
            return 3
        fields.pop(args[2], None)
        return 1

    def overwrite(
        self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes], *, empty: bool
    ) -> object:
        """scripts/fence_overwrite.lua; `empty`: none of the keys exists."""
        new = decode_fence(args[0]) if len(keys) == 3 and len(args) == 2 else None
        if len(keys) != 3 or len(args) != 2:
            return self._refuse(keys, Code.BAD_REQUEST, b"arity")
        if new is None or new.role is not Role.JOINING:
            return self._refuse(keys, Code.BAD_REQUEST, b"fence")
        raw = fields.get(FENCE_FIELD)
        if raw is None and empty:
            return self._refuse(keys, Code.NO_FENCE)
        old = decode_fence(raw) if raw is not None else None
        if old is not None:
            lives_on = old.role in (Role.OWNER, Role.JOINING)
            if lives_on and (old.incarnation, old.epoch) == (new.incarnation, new.epoch):
                return 1
            if new.incarnation <= old.incarnation:
                return self._refuse(keys, Code.WRONG_INCARNATION, entry=True)
            if old.epoch > new.epoch:
                return self._refuse(keys, Code.STALE_EPOCH, entry=True)
        fields.update({FENCE_FIELD: args[0], MAP_FIELD: args[1]})
        return 1

    def _refuse_step(
        self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes], expected: int
    ) -> list[object] | None:
        problem = _bad_step(keys, args, expected)
        if problem:
            return self._refuse(keys, Code.BAD_REQUEST, problem)
        agreed = self._agree(keys, fields.get(FENCE_FIELD), args[0], args[1])
        return agreed if isinstance(agreed, list) else None


def replace_identity(values: dict[bytes, bytes], keys: list[bytes], args: list[bytes]) -> bytes:
    """scripts/identity_replace.lua"""
    stored = values.get(keys[0], b"")
    if stored == args[0]:
        values[keys[0]] = stored = args[1]
    return stored


def _records(fields: dict[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    return ((name, raw) for name, raw in fields.items() if name.startswith(USER_PREFIX))


def _bad_step(keys: list[bytes], args: list[bytes], expected: int) -> bytes:
    """Which argument is malformed; empty: none."""
    if len(keys) != 1 or len(args) != expected:
        return b"arity"
    leaves = _whole(args[4], MAX_LEAVES)
    checks = (
        (b"epoch", len(args[0]) == 8),
        (b"incarnation", len(args[1]) == 8),
        (b"cursor", args[2].isdigit()),
        (b"count", _whole(args[3], MAX_COUNT) > 0),
        (b"leaves", leaves > 0),
        (b"wanted", expected == 5 or len(args[5]) == leaves),
    )
    return next((name for name, fits in checks if not fits), b"")


def _bad_drop(keys: list[bytes], args: list[bytes]) -> bytes:
    if len(keys) != 1 or len(args) != 3:
        return b"arity"
    if len(args[0]) != 8:
        return b"epoch"
    if len(args[1]) != 8:
        return b"incarnation"
    return b"" if args[2].startswith(USER_PREFIX) else b"field"


def _whole(text: bytes, most: int) -> int:
    """A whole number within 0 and `most`; -1 for anything else."""
    if not text.isdigit() or len(text) > 15 or int(text) > most:
        return -1
    return int(text)
