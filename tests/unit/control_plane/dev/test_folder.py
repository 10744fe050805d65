import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from control_plane.dev import folder as folder_module
from control_plane.dev.errors import FolderRefused
from control_plane.dev.folder import DevFolder, leftovers, open_folder, zone_name
from control_plane.dev.options import DevOptions

Open = Callable[..., DevFolder]


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens folders and gives their locks back; nobody waits for a lock."""
    monkeypatch.setattr(folder_module, "_LOCK_PATIENCE_S", 0.0)
    folders: list[DevFolder] = []

    def open_one(options: DevOptions) -> DevFolder:
        folders.append(open_folder(options))
        return folders[-1]

    yield open_one
    for folder in folders:
        try:
            os.fstat(folder.lock_fd)
        except OSError:
            continue
        folder.release()


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "dabbawala.json"
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | changes))


def test_a_new_folder_says_whose_it_is(opened: Open, tmp_path: Path) -> None:
    folder = opened(DevOptions(nodes=4, zones=2, data=tmp_path / "new" / "data"))
    written = orjson.loads((folder.path / "dabbawala.json").read_bytes())
    assert written["format"] == 1
    assert written["cluster"].startswith("dev-")
    assert [(node["id"], node["zone"]) for node in written["nodes"]] == [
        ("node-1", "a"), ("node-2", "b"), ("node-3", "a"), ("node-4", "b"),
    ]  # fmt: skip
    assert len({node["port"] for node in written["nodes"]}) == 4


def test_six_nodes_in_three_zones_unless_told_otherwise(opened: Open) -> None:
    folder = opened(DevOptions())
    nodes = folder.record.nodes
    assert [node.zone for node in nodes] == ["a", "b", "c", "a", "b", "c"]
    folder.close()
    assert not folder.path.exists()


def test_the_same_folder_is_the_same_cluster(opened: Open, tmp_path: Path) -> None:
    first = opened(DevOptions(nodes=2, data=tmp_path))
    first.release()
    second = opened(DevOptions(data=tmp_path))
    assert second.record == first.record
    second.close()
    assert (tmp_path / "dabbawala.json").exists()


def test_a_second_user_is_refused_with_the_pid_of_the_first(opened: Open, tmp_path: Path) -> None:
    opened(DevOptions(data=tmp_path))
    with pytest.raises(FolderRefused, match=rf"in use by .* pid {os.getpid()}"):
        opened(DevOptions(data=tmp_path))


def test_a_folder_with_other_files_is_left_alone(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(FolderRefused, match=r"no dabbawala\.json"):
        opened(DevOptions(data=tmp_path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_newer_format_is_refused(opened: Open, tmp_path: Path) -> None:
    opened(DevOptions(data=tmp_path)).release()
    rewrite(tmp_path, format=2, surprise=True)
    with pytest.raises(FolderRefused, match="format 2.*reads up to 1"):
        opened(DevOptions(data=tmp_path))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', b'{"format": "x"}'])
def test_a_damaged_record_is_refused(opened: Open, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dabbawala.json").write_bytes(content)
    with pytest.raises(FolderRefused, match="can not be understood"):
        opened(DevOptions(data=tmp_path))


def test_another_store_holds_another_cluster(opened: Open, tmp_path: Path) -> None:
    opened(DevOptions(data=tmp_path)).release()
    with pytest.raises(FolderRefused, match=r"belongs to cluster dev-.*the embedded store"):
        opened(DevOptions(data=tmp_path, zookeeper="h:1"))
    rewrite(tmp_path, zookeeper="h:1")
    with pytest.raises(FolderRefused, match="--zookeeper h:1"):
        opened(DevOptions(data=tmp_path))


@pytest.mark.parametrize(("flag", "options"), [("nodes", {"nodes": 3}), ("zones", {"zones": 2})])
def test_another_size_is_refused(
    opened: Open, tmp_path: Path, flag: str, options: dict[str, Any]
) -> None:
    opened(DevOptions(data=tmp_path)).release()
    with pytest.raises(FolderRefused, match=f"--{flag}"):
        opened(DevOptions(data=tmp_path, **options))


def test_a_file_in_place_of_a_folder_is_refused(opened: Open, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(FolderRefused, match="can not be"):
        opened(DevOptions(data=path))


def abandoned(root: Path) -> Path:
    """A temporary folder as a killed run leaves it."""
    path = root / "dabbawala-dev-abandoned"
    folder = open_folder(DevOptions(data=path))
    folder.release()
    return path


def test_what_a_killed_run_left_is_found_once_it_is_old(tmp_path: Path) -> None:
    path = abandoned(tmp_path)
    made = path.stat().st_mtime
    assert leftovers(made + 1, tmp_path) == []
    (found,) = leftovers(made + 60, tmp_path)
    assert found.path == path
    assert leftovers(made + 60, tmp_path) == []  # locked by us now
    found.close()
    assert not path.exists()


def test_what_is_in_use_or_not_ours_is_no_leftover(tmp_path: Path) -> None:
    used = open_folder(DevOptions(data=tmp_path / "dabbawala-dev-used"))
    (tmp_path / "dabbawala-dev-empty").mkdir()
    (tmp_path / "dabbawala-dev-link").symlink_to(tmp_path)
    assert leftovers(used.path.stat().st_mtime + 1e6, tmp_path) == []
    used.release()


def test_zones_are_named_by_letters() -> None:
    assert [zone_name(number) for number in (0, 25, 26, 51, 52, 701, 702)] == [
        "a", "z", "aa", "az", "ba", "zz", "aaa",
    ]  # fmt: skip
