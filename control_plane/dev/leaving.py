"""What a local cluster leaves in a store that others use too, and how it is removed."""

import time

from control_plane.coordination.errors import CoordinationError
from control_plane.coordination.opening import open_store
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import StoreOptions
from control_plane.dev.folder import DevFolder, leftovers
from control_plane.dev.servers import store_url

_PATIENCE = StoreOptions(
    session_timeout_ms=5_000, operation_timeout_ms=3_000, connect_timeout_ms=3_000
)


async def remove_cluster(folder: DevFolder) -> str | None:
    """Removes a cluster that is not kept from its ZooKeeper; None, or what went wrong."""
    if folder.kept or not folder.record.zookeeper:
        return None
    root = ClusterPaths(folder.record.cluster).root
    try:
        async with await open_store(store_url(folder), _PATIENCE) as store:
            await store.delete_tree(root)
    except CoordinationError as error:
        return (
            f"{root} could not be removed from {folder.record.zookeeper} ({error}); remove it there"
        )
    return None


async def remove_leftovers(zookeeper: str | None) -> int:
    """Cleans up after runs that were killed; answers how many there were.

    What such a run left in a ZooKeeper can only be removed by a run that uses the same one.
    """
    removed = 0
    for folder in leftovers(time.time()):
        theirs = folder.record.zookeeper
        if not theirs or (theirs == zookeeper and await remove_cluster(folder) is None):
            folder.close()
            removed += 1
        else:
            folder.release()
    return removed
