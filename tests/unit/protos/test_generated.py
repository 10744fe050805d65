"""The committed generated code is what `make protos` makes of the committed .proto files."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def generated_below(folder: Path) -> dict[str, bytes]:
    paths = sorted((folder / "protos").rglob("*_pb2*.py*"))
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in paths if p.suffix in (".py", ".pyi")
    }


@pytest.mark.slow
def test_generating_again_gives_the_committed_bytes(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "generate_protos.py"
    subprocess.run([sys.executable, str(script), "--output", str(tmp_path)], check=True)
    committed, again = generated_below(ROOT), generated_below(tmp_path)
    assert committed.keys() == again.keys(), "type: make protos, and commit what it changed"
    differing = [name for name in committed if committed[name] != again[name]]
    assert differing == [], "type: make protos, and commit what it changed"


@pytest.mark.parametrize(
    ("package", "written_as"),
    [
        ("protobuf", r"# Protobuf Python Version: ([\d.]+)"),
        ("grpcio", r"GRPC_GENERATED_VERSION = '([\d.]+)'"),
    ],
)
def test_every_runtime_that_may_be_installed_can_load_it(package: str, written_as: str) -> None:
    # Generated code refuses a runtime that is older than its generator.
    code = b"".join(generated_below(ROOT).values()).decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = re.search(rf"^{package}>=([\d.]+)$", "\n".join(project["dependencies"]), re.MULTILINE)
    assert asked is not None
    made_for = max(as_numbers(version) for version in re.findall(written_as, code))
    assert as_numbers(asked[1]) >= made_for, f"raise {package}>= in pyproject.toml, then make lock"


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
