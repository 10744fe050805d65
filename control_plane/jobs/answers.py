"""Jobs as the admin API shows them, and what it may be asked. Pure."""

from collections.abc import Sequence

from control_plane.controllers.cluster_state import ClusterState, StoredKeyspace
from control_plane.errors import Missing, Violation, invalid, refused
from control_plane.jobs.job import ADMISSION, JobRecord
from protos.dabbawala.v1 import admin_pb2


def job_status(record: JobRecord) -> admin_pb2.JobStatus:
    """A job as a message."""
    counts = record.counts
    return admin_pb2.JobStatus(
        id=record.id,
        kind=record.kind,
        subject=record.node if record.kind == ADMISSION else record.keyspace,
        state=record.state,
        problem=record.problem,
        buckets_done=record.done,
        buckets_total=record.total,
        buckets_skipped=record.skipped,
        records=counts.records,
        differing=counts.differing,
        copied=counts.copied,
        healed=counts.healed,
        unhealed=counts.unhealed,
        moved_bytes=counts.moved_bytes,
        started_ms=record.started_ms,
        updated_ms=record.updated_ms,
        eta_ms=record.eta_ms,
        diverged=[
            admin_pb2.Divergence(bucket=int(bucket), keys=found.keys, oldest_ms=found.oldest_ms)
            for bucket, found in record.diverged.items()
        ],
        loss_from_ms=record.loss_from_ms,
        loss_to_ms=record.loss_to_ms,
        tombstones=counts.tombstones,
        purged=counts.purged,
        purged_bytes=counts.purged_bytes,
    )


def check_repair(stored: StoredKeyspace, buckets: Sequence[int]) -> None:
    """Raises AdminError for a repair that can not be."""
    settings = stored.settings
    wrong = [bucket for bucket in buckets if bucket >= settings.buckets]
    if wrong:
        text = f"bucket {wrong[0]} does not exist; they are 0 to {settings.buckets - 1}"
        raise invalid("BUCKET_UNKNOWN", [Violation("buckets", text)])


def check_compaction(stored: StoredKeyspace) -> None:
    """Raises AdminError for a compaction that can not be."""
    if stored.creating:
        text = f"keyspace {stored.settings.name!r} is being created; try again in some seconds"
        raise refused("KEYSPACE_CREATING", "keyspace", text)


def check_recovery(state: ClusterState, node_id: str) -> None:
    """Raises AdminError for a node that need not, or can not, be taken back."""
    stored = state.nodes.get(node_id)
    if stored is None:
        known = ", ".join(sorted(state.nodes)) or "none"
        raise Missing(
            "NODE_UNKNOWN",
            f"node {node_id!r} does not exist; there are: {known}",
            metadata={"node": node_id},
        )
    if stored.record.trusted:
        text = f"node {node_id!r} is trusted: there is nothing to take back"
        raise refused("NODE_TRUSTED", "id", text)


def check_loss(node_id: str, blocked: str, *, accept_loss: bool) -> None:
    """Raises Refused when data would be given up without a word of the operator's."""
    if blocked and not accept_loss:
        text = f"node {node_id!r} can not be taken back whole: {blocked}"
        raise refused("LOSS_NOT_ACCEPTED", "accept_loss", text)
