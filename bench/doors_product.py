"""The sidecar as it is shipped: its hot modules compiled (docs/decisions/0013-compiling.md)."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from bench.doors_programs import BenchFailed
from sidecar.stats import COMPILED

_ROOT = Path(__file__).resolve().parents[1]
_COMPILE = _ROOT / "scripts" / "compile.sh"
_COMPILED = _ROOT / "build" / "compiled"
_COMPILE_TIMEOUT_S = 900.0


def compiled_product(progress: Callable[[str], None]) -> Path | None:
    """What goes first on PYTHONPATH for the compiled modules, which are made when they are missing
    or older than their sources; None: we run on them ourselves. Raises BenchFailed.
    """
    if COMPILED:
        return None
    progress("compiling the hot modules (a minute or two, when a source has changed)")
    done = subprocess.run(
        [_COMPILE], capture_output=True, text=True, timeout=_COMPILE_TIMEOUT_S, check=False
    )
    if done.returncode:
        why = done.stderr.strip() or done.stdout.strip()
        raise BenchFailed(f"{why}\nOr measure the sidecar without compiling: --interpreted")
    return _COMPILED
