"""Where the keys of session tokens come from, and what is refused with which words."""

from pathlib import Path

import pytest

from sidecar.config import ConfigError, SidecarConfig
from sidecar.core.sessions import Seen, SessionKeys
from sidecar.session_key_file import MOST_KEYS, session_keys

FIRST, SECOND = "a" * 64, "b" * 64


def config(*, session_key_file: str = "", state_dir: str = "") -> SidecarConfig:
    return SidecarConfig("c", "a", session_key_file=session_key_file, state_dir=state_dir)


def made(given: SidecarConfig, worker: int = 0) -> SessionKeys:
    keys = session_keys(given, worker)
    assert keys is not None
    return keys


def accepted(token: bytes, keys: SessionKeys) -> bool:
    return isinstance(keys.open(token, 0), Seen)


def test_sidecars_with_one_file_take_each_others_tokens(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"\n{FIRST}\n\n")
    one, other = (made(config(session_key_file=str(file))) for _ in range(2))
    assert accepted(one.sign(Seen()), other)


def test_the_first_key_signs_and_all_are_accepted(tmp_path: Path) -> None:
    before, between = tmp_path / "before", tmp_path / "between"
    before.write_text(FIRST)
    between.write_text(f"{SECOND}\n{FIRST}\n")
    old, new = (made(config(session_key_file=str(file))) for file in (before, between))
    assert accepted(old.sign(Seen()), new)
    assert not accepted(new.sign(Seen()), old)


def test_a_sidecar_without_a_file_keeps_a_key_of_its_own(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    first = made(config(state_dir=str(here)))
    worker, restarted = made(config(state_dir=str(here)), 1), made(config(state_dir=str(here)))
    token = first.sign(Seen())
    assert accepted(token, worker)
    assert accepted(token, restarted)
    assert not accepted(token, made(config(state_dir=str(there))))
    assert (here / "session-key").stat().st_mode & 0o777 == 0o600


def test_with_neither_there_are_none() -> None:
    assert session_keys(config(), 0) is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "holds 0 keys"),
        (f"{FIRST}\nshort\n", "key 2 is too short"),
        (f"{FIRST}\n" * (MOST_KEYS + 1), "holds 17 keys"),
    ],
)
def test_a_file_that_holds_something_else_is_refused(
    tmp_path: Path, content: str, why: str
) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(ConfigError, match=why) as refused:
        session_keys(config(session_key_file=str(file)), 0)
    assert "openssl rand -hex 32" in str(refused.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        session_keys(config(session_key_file=str(tmp_path / "none")), 0)


def test_a_folder_that_takes_no_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes no"):
        session_keys(config(state_dir=str(tmp_path / "none")), 0)
