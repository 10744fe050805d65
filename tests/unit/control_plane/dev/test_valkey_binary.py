"""Where the program of a data node comes from."""

import os
from pathlib import Path

import pytest

from control_plane.dev import valkey_binary
from control_plane.dev.valkey_binary import ServerBinaryMissing, find_server


def test_the_bundled_server_is_taken_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    server = find_server()
    assert server.name == "valkey-server"
    assert os.access(server, os.X_OK)


@pytest.mark.parametrize("program", ["valkey-server", "redis-server"])
def test_without_the_bundled_one_a_server_on_path_is_taken(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey_binary, "get_binary_path", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / program).touch(mode=0o755)
    assert find_server() == tmp_path / program


def test_without_any_server_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(valkey_binary, "get_binary_path", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerBinaryMissing, match="apt-get install redis-server"):
        find_server()
