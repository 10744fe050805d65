"""Refusals with a name: what is wrong, its bound, and what to do about it."""

import difflib
from dataclasses import replace

from buckets.bucket_map import Consistency, KeyspaceSettings
from replicas.layout import MAX_KEY_BYTES
from replicas.record import MAX_TIME_MS
from replicas.version import ZERO_VERSION, physical_ms
from sidecar.core.clocks import Clocks, skewed_text
from sidecar.core.health import Admission
from sidecar.core.host import NO_COPY, Run
from sidecar.core.operation import Read, Write
from sidecar.core.register_op import Modify
from sidecar.core.route import Route
from sidecar.errors import DataError, Fault, Outcome, Reason

VERSION_BYTES = len(ZERO_VERSION)


def key_error(key: bytes) -> DataError | None:
    """None for a key of 1 to 1,024 bytes."""
    if 0 < len(key) <= MAX_KEY_BYTES:
        return None
    what = "is empty" if not key else f"has {len(key)} bytes"
    return DataError(
        Reason.KEY_INVALID,
        Fault.CALLER,
        f"the key {what}; a key has 1 to {MAX_KEY_BYTES} bytes",
        field="key",
    )


def write_error(op: Write, settings: KeyspaceSettings) -> DataError | None:
    """None for a write that the tunable keyspace can take."""
    if op.operation_id:
        return DataError(
            Reason.OPERATION_ID_INVALID,
            Fault.CALLER,
            f"keyspace {settings.name} is tunable, where a write is repeated by retry_version: give"
            " no operation_id",
            outcome=Outcome.NOT_APPLIED,
            field="operation_id",
            keyspace=settings.name,
        )
    return key_error(op.key) or _value_error(op, settings) or _version_error(op)


def register_write_error(op: Write, settings: KeyspaceSettings) -> DataError | None:
    """None for a write that the linearizable keyspace can take."""
    if op.version:
        return DataError(
            Reason.VERSION_INVALID,
            Fault.CALLER,
            f"keyspace {settings.name} is linearizable, where a write is repeated by operation_id:"
            " give no retry_version",
            outcome=Outcome.NOT_APPLIED,
            field="retry_version",
            keyspace=settings.name,
        )
    return key_error(op.key) or _value_error(op, settings)


def needs_linearizable(settings: KeyspaceSettings) -> DataError:
    """A change that depends on what stands was asked of a tunable keyspace."""
    return DataError(
        Reason.NEEDS_LINEARIZABLE,
        Fault.PRECONDITION,
        f"it reads before it writes, and keyspace {settings.name} is tunable: an old value could"
        " replace a newer acknowledged one. Create one with: dabba keyspace create NAME --mode"
        " linearizable",
        outcome=Outcome.NOT_APPLIED,
        keyspace=settings.name,
    )


def linearizable_level(level: int, settings: KeyspaceSettings) -> DataError:
    """A level was asked of a linearizable keyspace."""
    return DataError(
        Reason.CONSISTENCY_INVALID,
        Fault.CALLER,
        f"keyspace {settings.name} is linearizable: every read and write goes by a majority, and"
        f" {level_name(level)} would promise something else. Leave the consistency out",
        field="consistency",
        keyspace=settings.name,
    )


def _value_error(op: Write, settings: KeyspaceSettings) -> DataError | None:
    if op.value is not None and len(op.value) > settings.max_value_bytes:
        return DataError(
            Reason.VALUE_TOO_LARGE,
            Fault.CALLER,
            f"the value has {len(op.value)} bytes; keyspace {settings.name} takes up to"
            f" {settings.max_value_bytes}. Split it, or create a keyspace with a higher"
            " max_value_bytes",
            field="value",
            keyspace=settings.name,
        )
    if not 0 <= op.expires_at_ms <= MAX_TIME_MS:
        return expiry_error(op.expires_at_ms)
    return None


def expiry_error(expires_at_ms: int) -> DataError:
    """The time can not be an expiry."""
    return DataError(
        Reason.EXPIRY_INVALID,
        Fault.CALLER,
        f"expires_at_ms is {expires_at_ms}; it is Unix milliseconds from 1 to"
        f" {MAX_TIME_MS}, or 0 for never",
        field="expires_at_ms",
    )


def _version_error(op: Write) -> DataError | None:
    if not op.version:
        return None
    if len(op.version) != VERSION_BYTES or not physical_ms(op.version):
        return DataError(
            Reason.VERSION_INVALID,
            Fault.CALLER,
            f"retry_version has {len(op.version)} bytes; give the {VERSION_BYTES} bytes that the"
            " attempt with the unknown outcome returned, or none for a new write",
            outcome=Outcome.NOT_APPLIED,  # no write ever had such a version
            field="retry_version",
        )
    return None


def level_error(level: int, route: Route, levels: tuple[Consistency, ...], verb: str) -> DataError:
    """Why `level` can not be had here."""
    if level not in levels:
        known = ", ".join(one.name for one in levels)
        return DataError(
            Reason.CONSISTENCY_INVALID,
            Fault.CALLER,
            f"consistency {level_name(level)} is not served for {verb}; use one of {known}",
            field="consistency",
            keyspace=route.keyspace,
        )
    if level == Consistency.ANY:
        return DataError(
            Reason.CONSISTENCY_INVALID,
            Fault.CALLER,
            f"keyspace {route.keyspace} keeps history, which a hint that comes late would miss: ANY"
            " is not served there. Use ONE or QUORUM",
            field="consistency",
            keyspace=route.keyspace,
        )
    zones = ", ".join(sorted(set(route.members.zones)))
    return DataError(
        Reason.NO_OWNER_IN_ZONE,
        Fault.UNAVAILABLE,
        f"{level_name(level)} needs an owner in this sidecar's zone {route.zone}, and bucket"
        f" {route.bucket} has owners only in {zones}. Use QUORUM or ONE, or give the keyspace a"
        " replica in every zone",
        field="consistency",
        keyspace=route.keyspace,
        bucket=route.bucket,
        epoch=route.epoch,
    )


def level_name(level: int) -> str:
    """The level's name, or its number when it has none."""
    try:
        return Consistency(level).name
    except ValueError:
        return str(level)


def unknown_keyspace(name: str, known: list[str]) -> DataError:
    """No such keyspace in the map."""
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known) or 'none'}."
    return DataError(
        Reason.KEYSPACE_UNKNOWN,
        Fault.CALLER,
        f"there is no keyspace {name[:64]!r}. {hint} Create one with: dabba keyspace create NAME",
        field="keyspace",
        keyspace=name[:64],
    )


def no_map() -> DataError:
    """The sidecar has not received its first map."""
    return DataError(
        Reason.NO_MAP,
        Fault.UNAVAILABLE,
        "this sidecar has no map yet: no control plane has answered it and there is none on its"
        " disk. Look at /ready on its admin address, and at: dabba sidecars",
    )


def overloaded(admission: Admission) -> DataError:
    """Too many operations at once, or more than the event loop keeps up with."""
    slow = f" (instead of {admission.most}: its event loop has been late)"
    return DataError(
        Reason.OVERLOADED,
        Fault.OVERLOADED,
        f"this sidecar takes {admission.limit} operations at a time now"
        f"{slow if admission.limit < admission.most else ''}; nothing was sent. Repeat later",
    )


def clock_error(why: OSError) -> DataError:
    """The clock's ceiling can not be kept on disk, so a restart might issue a version again."""
    return DataError(
        Reason.CLOCK_SKEW,
        Fault.UNAVAILABLE,
        f"this sidecar can not keep its clock in its state_dir ({why.strerror or why}), so nothing"
        " was sent. Give that folder room and permissions, and the process file descriptors",
    )


def skewed(clocks: Clocks) -> DataError:
    """The clock is off, and too few replicas say what time it is."""
    return DataError(
        Reason.CLOCK_SKEW,
        Fault.UNAVAILABLE,
        f"this sidecar's clock is {skewed_text(clocks.skew_ms or 0.0)}, and only {clocks.measured}"
        f" of {clocks.nodes} nodes say what time it is, fewer than a majority; nothing was sent."
        " Synchronize its host's clock (chrony, ntpd), or bring the nodes back",
    )


def epoch_timeout(op: Read | Write | Modify) -> DataError:
    """Replicas know a later epoch, and it did not reach this sidecar in time."""
    return DataError(
        Reason.TIMEOUT,
        Fault.TIMEOUT,
        "the bucket has moved to a later epoch, and its map entry did not arrive before the"
        " deadline",
        keyspace=op.keyspace,
    )


def connect_timeout(op: Read | Write | Modify) -> DataError:
    """The first connections to owners that the map has just named took too long."""
    return DataError(
        Reason.TIMEOUT,
        Fault.TIMEOUT,
        "the deadline passed while this sidecar was still connecting to the bucket's owners for the"
        " first time; nothing was sent to them",
        keyspace=op.keyspace,
    )


def with_outcome(error: DataError, op: Read | Write | Modify) -> DataError:
    """For a write: what a refusal before sending proves."""
    if isinstance(op, Read) or error.outcome is not None:
        return error
    if op.maybe_applied:
        outcome, id_ = Outcome.UNKNOWN, op.operation_id
        return replace(error, outcome=outcome, version=op.version, operation_id=id_)
    return replace(error, outcome=Outcome.NOT_APPLIED)


def replica_error(
    run: Run,
    reason: Reason,
    fault: Fault,
    message: str,
    *,
    outcome: Outcome | None = None,
    version: bytes = b"",
    operation_id: bytes = b"",
) -> DataError:
    """An error of the replicas' making: names the bucket, and what each replica said."""
    route = run.route
    had = run.acked.bit_count()
    needed = sum(need for _, need in run.needs)
    return DataError(
        reason,
        fault,
        f"{message} (bucket {route.bucket} of {route.keyspace}: {had} of {needed};"
        f" {_what_each_said(run)}). Look at: dabba status",
        outcome=outcome,
        keyspace=route.keyspace,
        bucket=route.bucket,
        epoch=route.epoch,
        acks_had=had,
        acks_needed=needed,
        version=version,
        operation_id=operation_id,
    )


def _what_each_said(run: Run) -> str:
    said = []
    for slot, peer in enumerate(run.route.peers):
        if run.acked >> slot & 1:
            answer = "answered"
        else:
            answer = run.whys.get(slot) or peer.explanation or "no answer yet"
        said.append(f"{peer.node.id} {answer}")
    if NO_COPY in run.whys:
        said.append(f"no hint: {run.whys[NO_COPY]}")
    return ", ".join(said)
