"""What a fence that does not fit says to whoever read it."""

from replicas.fence import Role, decode_fence
from sidecar.core.route import Route


def fence_refusal(route: Route, slot: int, raw_fence: bytes | None) -> tuple[str, bool]:
    """Why the replica in `slot` does not answer for the bucket, and whether its epoch is later.

    No fence means that the replica does not hold the bucket: never "not found".
    """
    if raw_fence is None:
        return "it does not hold this bucket (no fence: new, emptied, or never admitted)", False
    fence = decode_fence(raw_fence)
    if fence is None:
        return "its fence fails the checksum", False
    if fence.epoch > route.epoch:
        return f"it is at epoch {fence.epoch}, this sidecar at {route.epoch}", True
    expected = route.members.slots[slot].incarnation
    if fence.incarnation != expected:
        return f"its data is incarnation {fence.incarnation}, the map trusts {expected}", False
    if fence.role is not Role.OWNER:
        return f"it is not an owner of this bucket ({fence.role.name.lower()})", False
    return "its fence does not fit", False
