"""The rights_file: read, read again when it changes, and refused with which words."""

import os
from pathlib import Path

import pytest

from sidecar.config import ConfigError, SidecarConfig
from sidecar.rights import Peer
from sidecar.rights_file import RightsFile, make_rights

GOOD = """
anonymous = { public = ["read"] }

[[applications]]
name = "orders"
identities = ["orders.example"]
rights = { default = ["read", "write"] }
"""


def config(path: Path, **more: str) -> SidecarConfig:
    return SidecarConfig("c", "a", rights_file=str(path), **more)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "rights.toml"
    path.write_text(GOOD)
    return path


def names(rights: RightsFile) -> set[str]:
    return set(rights.rights.identities)


def rewrite(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.replace(path)


def test_without_a_file_there_are_no_rights() -> None:
    assert make_rights(SidecarConfig("c", "a")) is None


def test_toml_and_json_say_the_same(file: Path, tmp_path: Path) -> None:
    json = tmp_path / "rights.json"
    json.write_text(
        '{"anonymous": {"public": ["read"]}, "applications": [{"name": "orders",'
        ' "identities": ["orders.example"], "rights": {"default": ["read", "write"]}}]}'
    )
    assert RightsFile(config(file)).rights == RightsFile(config(json)).rights


@pytest.mark.parametrize("text", ["applications = 3", "name", "\xff", "tokens = []"])
def test_a_first_file_that_can_not_be_used_stops_the_start(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"configuration: rights_file is .*rights\.toml: "):
        RightsFile(config(file))
    file.unlink()
    with pytest.raises(ConfigError, match="No such file"):
        RightsFile(config(file))


def test_a_file_that_is_too_large_is_refused(file: Path) -> None:
    file.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="more than 1048576 bytes"):
        RightsFile(config(file))


def test_a_new_file_is_in_force_and_a_bad_one_leaves_the_old(file: Path) -> None:
    rights = RightsFile(config(file))
    assert not rights.reload()
    rewrite(file, GOOD.replace("orders.example", "new.example"))
    assert rights.reload()
    assert names(rights) == {"new.example"}
    for bad in ("no toml", ""):
        if bad:
            rewrite(file, bad)
        else:
            file.unlink()
        assert not rights.reload()
        assert names(rights) == {"new.example"}
        assert "keeps the rights it had" in rights.problem
        assert rights.failing_s > 0
    file.write_text(GOOD)
    assert rights.reload()
    assert rights.failing_s == 0
    assert (names(rights), rights.problem) == ({"orders.example"}, "")


def test_users_are_found_by_name_and_by_number(file: Path) -> None:
    users = GOOD.replace('["orders.example"]', '[]\nunix_users = ["root", 12345]')
    file.write_text(users)
    rights = RightsFile(config(file)).rights
    assert [rights.by_peer(Peer(uid=uid)).name for uid in (0, 12345)] == ["orders"] * 2


def test_grpcio_does_not_start_where_it_could_not_tell_users_apart(file: Path) -> None:
    file.write_text(GOOD + f"unix_users = [{os.getuid()}]\n")
    for fine in ({"grpc_engine": "grpcio"}, {"grpc_socket": "/run/x"}):
        assert RightsFile(config(file, **fine)).problem == ""
    with pytest.raises(ConfigError, match="grpcio can not tell who is at the other end"):
        RightsFile(config(file, grpc_engine="grpcio", grpc_socket="/run/x"))


def test_a_file_that_could_not_be_read_is_tried_again_though_it_did_not_change(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rights = RightsFile(config(file))
    # As when the process has no file descriptor left: it is not the file that has to change.
    real = Path.open

    def refused(path: Path, *arguments: object) -> object:
        raise OSError(24, "Too many open files")

    rewrite(file, GOOD.replace("orders.example", "new.example"))
    monkeypatch.setattr(Path, "open", refused)
    assert not rights.reload()
    assert "Too many open files" in rights.problem
    monkeypatch.setattr(Path, "open", real)
    assert rights.reload()
    assert (names(rights), rights.problem) == ({"new.example"}, "")


@pytest.mark.parametrize(
    "text", ["a = " + "[" * 100_000, GOOD + 'unix_users = ["a\\u0000b"]\n'], ids=["deep", "NUL"]
)
def test_no_file_ends_the_looking(file: Path, text: str) -> None:
    rights = RightsFile(config(file))
    rewrite(file, text)
    assert not rights.reload()
    assert "keeps the rights it had" in rights.problem
    with pytest.raises(ConfigError, match="rights_file"):
        RightsFile(config(file))


def test_what_is_no_sha256_is_refused_though_it_is_long_enough(file: Path) -> None:
    file.write_text(GOOD + f'tokens_sha256 = ["{"ab " * 21}a"]\n')
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        RightsFile(config(file))
    file.write_text(GOOD + f'tokens_sha256 = ["{"abcdef01 " * 7}a"]\n')
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        RightsFile(config(file))
    file.write_text(GOOD + f'tokens_sha256 = ["{"ab" * 30}    "]\n')
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        RightsFile(config(file))
