import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from control_plane.dev.folder import DevFolder, open_folder
from control_plane.dev.options import DevOptions
from control_plane.dev.servers import (
    child_environment,
    control_plane_command,
    node_command,
    sidecar_command,
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DevFolder]:
    folder = open_folder(DevOptions(nodes=2, data=tmp_path / "data"))
    yield folder
    folder.release()


def settings(arguments: list[str]) -> dict[str, str]:
    names = arguments[1::2]
    return dict(zip((name.removeprefix("--") for name in names), arguments[2::2], strict=True))


def test_kept_data_is_on_disk_before_it_is_acknowledged(folder: DevFolder) -> None:
    command = node_command(folder, folder.record.nodes[0], Path("/bin/valkey-server"))
    given = settings(list(command.arguments))
    assert (given["appendonly"], given["appendfsync"]) == ("yes", "always")
    assert given["dir"] == str(folder.path / "node-1")
    assert folder.lock_fd in command.keep_open


def test_nodes_never_evict_and_listen_on_loopback_only() -> None:
    folder = open_folder(DevOptions(nodes=1))
    given = settings(list(node_command(folder, folder.record.nodes[0], Path("/x")).arguments))
    folder.close()
    assert given["maxmemory-policy"] == "noeviction"
    assert (given["bind"], given["protected-mode"]) == ("127.0.0.1", "yes")
    assert (given["appendonly"], given["save"]) == ("no", "")


def test_the_control_plane_is_told_its_store(folder: DevFolder, tmp_path: Path) -> None:
    command = control_plane_command(folder, tmp_path / "ports")
    config = orjson.loads(Path(command.arguments[-1]).read_bytes())
    assert config["store"] == f"sqlite://{folder.path}/control-plane/store.sqlite3"
    assert config["cluster"] == folder.record.cluster
    assert config["listen"] == "127.0.0.1:0"


def test_the_sidecar_stands_in_the_zone_of_the_first_node(
    folder: DevFolder, tmp_path: Path
) -> None:
    command = sidecar_command(
        folder, control_plane="127.0.0.1:1", sockets=tmp_path, ports_file=tmp_path / "ports"
    )
    config = orjson.loads(Path(command.arguments[-1]).read_bytes())
    assert config["zone"] == folder.record.nodes[0].zone
    assert config["control_planes"] == ["127.0.0.1:1"]


def test_variables_that_configure_our_programs_stay_outside() -> None:
    given = child_environment({"DABBA_SIDECAR_ZONE": "z", "DABBA_CONTROL_PLANE": "x", "A": "1"})
    assert given["A"] == "1"
    assert not [name for name in given if name.startswith("DABBA")]
    assert "PATH" in child_environment() or "PATH" not in os.environ
