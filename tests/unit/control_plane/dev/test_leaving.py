import socket
from pathlib import Path

import pytest

from control_plane.dev.errors import StartFailed
from control_plane.dev.folder import open_folder
from control_plane.dev.leaving import check_reachable, remove_cluster
from control_plane.dev.options import DevOptions


async def test_one_host_that_takes_a_connection_is_enough() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await check_reachable(f"127.0.0.1:1,127.0.0.1:{listener.getsockname()[1]}")


async def test_without_any_each_host_is_named_with_its_reason() -> None:
    with pytest.raises(StartFailed, match=r"127\.0\.0\.1:1: .*; 127\.0\.0\.1:2: .*make"):
        await check_reachable("127.0.0.1:1,127.0.0.1:2")


async def test_kept_and_embedded_clusters_are_left_where_they_are(tmp_path: Path) -> None:
    for options in (DevOptions(data=tmp_path, zookeeper="127.0.0.1:1"), DevOptions(nodes=1)):
        folder = open_folder(options)
        assert await remove_cluster(folder) is None
        folder.close()


@pytest.mark.slow
async def test_a_store_that_is_gone_is_said_with_what_is_left_in_it() -> None:
    folder = open_folder(DevOptions(nodes=1, zookeeper="127.0.0.1:1"))
    problem = await remove_cluster(folder)
    folder.close()
    assert problem is not None
    assert f"/dabbawala/{folder.record.cluster} could not be removed" in problem
