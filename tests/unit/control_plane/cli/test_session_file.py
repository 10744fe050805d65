"""`--session FILE`: what is sent, and what is kept."""

from pathlib import Path

import pytest

from control_plane.cli import session_file
from control_plane.cli.errors import EXIT_USAGE, CommandError


def test_a_session_begins_goes_on_and_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "session"
    assert session_file.brought(file) == b"new"
    session_file.keep(file, b"token")
    assert session_file.brought(file) == b"token"


def test_without_a_file_there_is_no_session(tmp_path: Path) -> None:
    assert session_file.brought(None) == b""
    session_file.keep(None, b"token")
    session_file.keep(tmp_path / "none", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_can_not_be_used_is_named(tmp_path: Path) -> None:
    for refused in (
        lambda: session_file.brought(tmp_path),
        lambda: session_file.keep(tmp_path / "none" / "session", b"token"),
    ):
        with pytest.raises(CommandError, match="--session") as error:
            refused()
        assert error.value.exit_code == EXIT_USAGE
