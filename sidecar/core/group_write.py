"""A write of several keys that share a hash tag: one script call, applied or refused together.

It is a write in everything else: the same tally, the same outcomes, and what an owner missed is
kept as one hint, so that a replay is as atomic as the write was.
"""

from collections import Counter

from buckets.bucket_map import KeyspaceSettings
from buckets.hashing import hash_tag
from replicas.commands import write_suffix
from replicas.group import MAX_ITEMS, encode_group
from replicas.quorum import Needs
from replicas.record import MAX_TIME_MS, encode_record
from sidecar.core.checks import expiry_error, key_error
from sidecar.core.host import Host
from sidecar.core.operation import GroupItem, GroupWrite, Write
from sidecar.core.route import Route
from sidecar.core.write import WriteRun, version_of
from sidecar.errors import DataError, Fault, Outcome, Reason


class GroupWriteRun(WriteRun):
    """As a WriteRun, with the script and the bytes of a group."""

    __slots__ = ()

    def __init__(self, core: Host, op: GroupWrite, route: Route, write_needs: Needs) -> None:
        super().__init__(core, op, route, write_needs)
        version = version_of(op)
        group = encode_group(version, ((item.key, _record(version, item)) for item in op.items))
        self.suffix = write_suffix(op.key, group, route.write_limits)
        self.prefixes = route.group_prefixes()


def write_run(core: Host, op: Write, route: Route, write_needs: Needs) -> WriteRun:
    """The run of a write, of one key or of a group."""
    if isinstance(op, GroupWrite):
        return GroupWriteRun(core, op, route, write_needs)
    return WriteRun(core, op, route, write_needs)


def _record(version: bytes, item: GroupItem) -> bytes:
    return encode_record(
        version,
        item.value or b"",
        expires_at_ms=item.expires_at_ms,
        tombstone=item.value is None,
    )


def group_error(op: GroupWrite, settings: KeyspaceSettings) -> DataError | None:
    """None for a group that the tunable keyspace can take."""
    if not 1 <= len(op.items) <= MAX_ITEMS:
        text = f"it has {len(op.items)} items; 1 to {MAX_ITEMS} can be written together"
        return _refusal(Reason.REQUEST_INVALID, text, "items", settings)
    for number, item in enumerate(op.items):
        error = key_error(item.key)
        if error is not None:
            return _refusal(error.reason, error.message, f"items[{number}].key", settings)
        if item.value is not None and not 0 <= item.expires_at_ms <= MAX_TIME_MS:
            error = expiry_error(item.expires_at_ms)
            where = f"items[{number}].expires_at_ms"
            return _refusal(error.reason, error.message, where, settings)
    return _size_error(op, settings) or _keys_error(op, settings)


def _keys_error(op: GroupWrite, settings: KeyspaceSettings) -> DataError | None:
    keys = [item.key for item in op.items]
    tags = [hash_tag(key) for key in keys]
    strange = next((number for number, tag in enumerate(tags) if tag != tags[0]), None)
    if strange is not None:
        text = (
            f"the keys of items 0 and {strange} are not stored together. Give all keys one hash"
            " tag: of {order-42}/lines only order-42 decides where it is stored"
        )
        return _refusal(Reason.KEYS_APART, text, f"items[{strange}].key", settings)
    twice = next((key for key, times in Counter(keys).items() if times > 1), None)
    if twice is not None:
        number = len(keys) - 1 - keys[::-1].index(twice)
        text = f"the key of item {number} is there twice, and both would carry one version"
        return _refusal(Reason.REQUEST_INVALID, text, f"items[{number}].key", settings)
    return None


def _size_error(op: GroupWrite, settings: KeyspaceSettings) -> DataError | None:
    size_bytes = sum(len(item.value or b"") for item in op.items)
    if size_bytes <= settings.max_value_bytes:
        return None
    text = (
        f"the values have {size_bytes} bytes; what keyspace {settings.name} writes together may"
        f" have {settings.max_value_bytes}. Write less at once, or create a keyspace with a higher"
        " max_value_bytes"
    )
    return _refusal(Reason.VALUE_TOO_LARGE, text, "items", settings)


def _refusal(reason: Reason, text: str, field: str, settings: KeyspaceSettings) -> DataError:
    return DataError(reason, Fault.CALLER, text, field=field, keyspace=settings.name)


def needs_tunable(settings: KeyspaceSettings) -> DataError:
    """Several keys were to be written together in a linearizable keyspace."""
    return DataError(
        Reason.NEEDS_TUNABLE,
        Fault.PRECONDITION,
        f"keyspace {settings.name} is linearizable, where every key is agreed on by itself: several"
        " can not be written together. Use a keyspace of mode tunable, or one key for all of it",
        outcome=Outcome.NOT_APPLIED,
        keyspace=settings.name,
    )
