"""What jobs ask of the fake replica: digest, entries, drop, purge, fence_overwrite,
identity_replace. A step of the fake sees the whole bucket.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from replicas.acceptor import decode_acceptor, id_time_ms
from replicas.digest import FIRST_CURSOR, leaf_digests, leaf_of, order_of
from replicas.fence import Fence, Role, decode_fence
from replicas.layout import FENCE_FIELD, MAP_FIELD, USER_PREFIX
from replicas.record import (
    FLAG_HAS_EXPIRY,
    FLAG_TOMBSTONE,
    FLAGS_AT,
    MAX_TIME_MS,
    VERSION_BYTES,
    decode_record,
)
from replicas.replies import Code
from replicas.version import ZERO_VERSION, physical_ms

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
        agreed = self._agree_step(fields, keys, args, _bad_leaves(keys, args, 5))
        if isinstance(agreed, list):
            return agreed
        records = list(_records(fields))
        return [FIRST_CURSOR, len(records), leaf_digests(records, int(args[4]))]

    def entries(self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes]) -> object:
        """scripts/entries.lua"""
        agreed = self._agree_step(fields, keys, args, _bad_leaves(keys, args, 6))
        if isinstance(agreed, list):
            return agreed
        leaves, wanted = int(args[4]), args[5]
        found: list[bytes] = []
        for name, raw in _records(fields):
            if wanted[leaf_of(name, leaves)] == ord("1"):
                found += (name, order_of(raw))
        return [FIRST_CURSOR, sum(1 for _ in _records(fields)), found]

    def promises(self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes]) -> object:
        """scripts/promises.lua"""
        agreed = self._agree_step(fields, keys, args, _bad_step(keys, args, 4))
        if isinstance(agreed, list):
            return agreed
        records = [raw for _, raw in _records(fields)]
        known = [found.promise for raw in records if (found := decode_acceptor(raw)) is not None]
        return [FIRST_CURSOR, len(records), max(known, default=ZERO_VERSION)]

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

    def purge(
        self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes], now_ms: int
    ) -> object:
        """scripts/purge.lua"""
        fence = self._agree_step(fields, keys, args, _bad_purge(keys, args))
        if isinstance(fence, list):
            return fence
        if fence.role is Role.JOINING:
            return self._refuse(keys, Code.WRONG_ROLE, entry=True)
        bound, latest_ms, what = args[4], now_ms - int(args[5]), args[6]
        if physical_ms(bound) > latest_ms:
            return self._refuse(keys, Code.SKEWED, now_ms)
        if what == b"drop" and bound > fence.purged_through:
            return self._refuse(keys, Code.NOT_CLOSED)
        records = [] if what == b"close" else list(_records(fields))
        tombstones = sum(
            len(raw) > FLAGS_AT and raw[FLAGS_AT] & FLAG_TOMBSTONE for _, raw in records
        )
        found = [pair for pair in records if _purgeable(pair[1], bound, latest_ms)]
        raised = bound[:-1] + b"\x01" if what == b"drop" else bound
        if what != b"look" and raised > fence.purged_through:
            fields[FENCE_FIELD] = replace(fence, purged_through=raised).encode()
        if what == b"drop":
            for name, _ in found:
                del fields[name]
        size_bytes = sum(len(name) + len(raw) for name, raw in found)
        return [FIRST_CURSOR, len(records), tombstones, len(found), size_bytes]

    def _agree_step(
        self, fields: dict[bytes, bytes], keys: list[bytes], args: list[bytes], problem: bytes
    ) -> Fence | list[object]:
        if problem:
            return self._refuse(keys, Code.BAD_REQUEST, problem)
        return self._agree(keys, fields.get(FENCE_FIELD), args[0], args[1])


def replace_identity(values: dict[bytes, bytes], keys: list[bytes], args: list[bytes]) -> bytes:
    """scripts/identity_replace.lua"""
    stored = values.get(keys[0], b"")
    if stored == args[0]:
        values[keys[0]] = stored = args[1]
    return stored


def _records(fields: dict[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
    return ((name, raw) for name, raw in fields.items() if name.startswith(USER_PREFIX))


def _purgeable(raw: bytes, bound: bytes, latest_ms: int) -> bool:
    """Whether what a record says is old enough to be said by its absence."""
    record = decode_record(raw)
    if record is None or record.version > bound:
        return False
    if not record.is_linearizable:
        gone = bool(record.flags & (FLAG_TOMBSTONE | FLAG_HAS_EXPIRY))
        return gone and record.expires_at_ms <= latest_ms
    acceptor = decode_acceptor(raw)
    if acceptor is None or acceptor.content.value is not None:
        return False
    content = acceptor.content
    young = any(id_time_ms(past.id) > physical_ms(bound) for past in content.decided)
    expired = content.expires_at_ms <= latest_ms
    return expired and acceptor.promise == acceptor.accepted and not young


def _bad_step(keys: list[bytes], args: list[bytes], expected: int) -> bytes:
    """Which of the arguments that all steps have is malformed; empty: none."""
    if len(keys) != 1 or len(args) != expected:
        return b"arity"
    checks = (
        (b"epoch", len(args[0]) == 8),
        (b"incarnation", len(args[1]) == 8),
        (b"cursor", args[2].isdigit()),
        (b"count", _whole(args[3], MAX_COUNT) > 0),
    )
    return next((name for name, fits in checks if not fits), b"")


def _bad_leaves(keys: list[bytes], args: list[bytes], expected: int) -> bytes:
    problem = _bad_step(keys, args, expected)
    if problem:
        return problem
    leaves = _whole(args[4], MAX_LEAVES)
    if leaves < 1:
        return b"leaves"
    return b"" if expected == 5 or len(args[5]) == leaves else b"wanted"


def _bad_purge(keys: list[bytes], args: list[bytes]) -> bytes:
    problem = _bad_step(keys, args, 7)
    if problem:
        return problem
    if len(args[4]) != VERSION_BYTES or args[4][-1]:
        return b"bound"
    if _whole(args[5], MAX_TIME_MS) < 0:
        return b"grace_ms"
    return b"" if args[6] in (b"look", b"close", b"drop") else b"what"


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
