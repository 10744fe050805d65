"""What making the wheel says when something that it needs is missing."""

import sysconfig
from pathlib import Path
from typing import Any

import pytest
from hatchling.builders.wheel import WheelBuilder

from scripts.build_hook import CompileHotModules

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def hook(tmp_path: Path) -> CompileHotModules:
    builder = WheelBuilder(str(ROOT))
    return CompileHotModules(
        str(ROOT), {}, builder.config, builder.metadata, str(tmp_path), "wheel"
    )


def test_missing_headers_are_named_with_the_package_that_brings_them(
    hook: CompileHotModules,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("CC", "/bin/true")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "include"))
    with pytest.raises(SystemExit) as ended:
        hook.initialize("standard", {})
    assert ended.value.code == 1
    said = "".join(capsys.readouterr())
    assert f"there is no {tmp_path}/include/Python.h" in said
    assert "apt-get install python3-dev" in said


def test_a_missing_compiler_is_named_with_the_package_that_brings_it(
    hook: CompileHotModules, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler -O2")
    with pytest.raises(SystemExit):
        hook.initialize("standard", {})
    said = "".join(capsys.readouterr())
    assert "there is no no-such-compiler" in said
    assert "apt-get install gcc" in said


def test_an_editable_install_stays_interpreted(
    hook: CompileHotModules, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    found: dict[str, Any] = {}
    hook.initialize("editable", found)
    assert found == {}
