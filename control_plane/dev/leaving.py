"""A store that others use too: is it there, and how nothing of ours is left in it."""

import asyncio
import time

from control_plane.coordination.errors import CoordinationError
from control_plane.coordination.opening import open_store
from control_plane.coordination.paths import ClusterPaths
from control_plane.coordination.store import StoreOptions
from control_plane.dev.errors import StartFailed
from control_plane.dev.folder import DevFolder, leftovers
from control_plane.dev.servers import store_url

_CONNECT_TIMEOUT_S = 3.0
_PATIENCE = StoreOptions(
    session_timeout_ms=5_000, operation_timeout_ms=3_000, connect_timeout_ms=3_000
)


async def check_reachable(zookeeper: str) -> None:
    """Raises StartFailed when no host of `host:port,host:port` takes a connection."""
    why = []
    for address in zookeeper.split(","):
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                _, writer = await asyncio.open_connection(host, int(port))
        except (OSError, TimeoutError, OverflowError) as error:
            why.append(f"{address}: {str(error) or 'no answer'}")
        else:
            writer.close()
            return
    raise StartFailed(
        f"--zookeeper {zookeeper} can not be reached ({'; '.join(why)}); start it first, for"
        " instance with: make zookeeper"
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
