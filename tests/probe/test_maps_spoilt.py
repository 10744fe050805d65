"""Maps that a disk or a restored backup has spoilt: the last good one serves, and it is said."""

import shutil
from pathlib import Path

import grpc
import orjson
import pytest

from tests.support.fault_table import Judged
from tests.support.load import load_on
from tests.support.local_cluster import LocalCluster, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.probe, pytest.mark.fault(31)]


def map_file(cluster: LocalCluster) -> Path:
    config = orjson.loads((cluster.folder / "sidecar" / "config.json").read_bytes())
    return Path(config["state_dir"]) / "map"


@pytest.mark.parametrize("content", [b"", b"spoilt" * 1000], ids=["empty", "corrupt"])
def test_a_spoilt_map_on_disk_is_replaced_by_the_control_plane_and_never_served(
    cluster: LocalCluster, content: bytes
) -> None:
    cluster.sidecar.stop()
    cluster.control_plane.kill()
    map_file(cluster).write_bytes(content)
    cluster.sidecar.start()
    wait_until(lambda: "refused" in told(cluster), "it is said")
    assert not cluster.serves()
    cluster.control_plane.start()
    cluster.wait_served()
    wait_until(lambda: map_file(cluster).read_bytes() != content, "a good one is kept")


def told(cluster: LocalCluster) -> str:
    """What the sidecar says of its file."""
    try:
        return str(cluster.sidecar_page("map")["feed"]["file_error"])
    except OSError:
        return ""  # it has not started yet


def test_a_store_restored_from_a_backup_takes_no_sidecar_back(
    cluster: LocalCluster, judged: Judged, tmp_path: Path
) -> None:
    store = cluster.folder / "control-plane"
    with load_on(cluster) as load:
        cluster.control_plane.stop()
        shutil.copytree(store, tmp_path / "backup")
        cluster.control_plane.start()
        wait_until(lambda: led(cluster), "it leads again")
        created = cluster.dabba("keyspace", "create", "later")
        assert created.status == 0, created.err
        cluster.wait_served("later")
        cluster.control_plane.stop()
        shutil.copytree(store, tmp_path / "good")
        restore(store, tmp_path / "backup")
        cluster.control_plane.start()
        wait_until(lambda: led(cluster), "it leads by the backup")
        wait_until(lambda: any("refused" in p for p in cluster.status().problems), "it is said")
        load.run_for(300)
        assert cluster.serves("later")  # the last good map is kept
        cluster.control_plane.stop()
        restore(store, tmp_path / "good")
        cluster.control_plane.start()
        wait_until(lambda: led(cluster), "it leads by what was")
        cluster.wait_trusted()
        load.run_for(300)
        history = load.stop()
        load.read_all()
    assert [str(event) for event in history.failures] == []
    judged(history)


def restore(store: Path, copy: Path) -> None:
    for file in store.glob("store.sqlite3*"):
        file.unlink()
    for file in copy.glob("store.sqlite3*"):
        shutil.copy(file, store)


def led(cluster: LocalCluster) -> bool:
    try:
        return bool(cluster.status().leader)
    except grpc.RpcError:
        return False
