"""What `scripts/compile.sh` says when something that it needs is missing."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]

INTERPRETER = """\
#!/bin/sh
case "$2" in *sysconfig*) echo {include} ;; esac
"""


def test_missing_headers_are_named_with_the_package_that_brings_them(tmp_path: Path) -> None:
    for folder in ("scripts", ".venv/bin", "path"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "compile.sh", tmp_path / "scripts" / "compile.sh")
    include = tmp_path / "include" / "python3.11"
    for program in (tmp_path / ".venv/bin/python", tmp_path / "path/cc"):
        program.write_text(INTERPRETER.format(include=include))
        program.chmod(0o755)
    done = subprocess.run(
        [tmp_path / "scripts" / "compile.sh"],
        env={"PATH": f"{tmp_path / 'path'}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"{include}/Python.h is missing" in done.stderr
    assert "apt-get install python3-dev" in done.stderr
