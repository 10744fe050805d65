"""A sidecar's folder belongs to one process at a time."""

from pathlib import Path

import pytest

from sidecar.config import ConfigError
from sidecar.state_folder import claim


def test_a_folder_is_made_and_held_until_it_is_let_go(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "state"
    first = claim(str(folder))
    assert first is not None
    with pytest.raises(ConfigError, match="another sidecar uses"):
        claim(str(folder))
    first.close()
    again = claim(str(folder))
    assert again is not None
    again.close()


def test_without_a_folder_nothing_is_held() -> None:
    assert claim("") is None


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state_dir is .*file/state"):
        claim(str(tmp_path / "file" / "state"))
