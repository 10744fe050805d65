"""Says of the interpreter that runs this what it is good for. scripts/setup.sh asks each it finds.

    python3 scripts/judge_python.py

Prints one word, of `Verdict`. One that is too old for this file fails.
"""

import importlib.util
import sys
import sysconfig
from collections.abc import Mapping
from enum import StrEnum

OLDEST = (3, 11)
# The newest for which every locked package has a wheel: `make lock` looks whether that is still so.
NEWEST = (3, 14)


class Verdict(StrEnum):
    """What an interpreter is good for, best first."""

    OPTIMISED = "optimised"
    PLAIN = "plain"  # built without a profile: about a tenth slower
    BARE = "bare"  # can not make an environment with pip in it: Debian without python3-venv
    UNSUPPORTED = "unsupported"


def built_with_profile(variables: Mapping[str, object]) -> bool:
    """Whether it was built with profile-guided optimisation, by what sysconfig says of it."""
    if "--enable-optimizations" in str(variables.get("CONFIG_ARGS")):
        return True
    # configure writes the flags of both steps down, taken or not. Debian and Ubuntu record another
    # build than the one they install, without that option, and strike the second step's flag out.
    return bool(variables.get("PGO_PROF_GEN_FLAG")) and variables.get("PGO_PROF_USE_FLAG") == ""


def verdict(
    implementation: str, version: tuple[int, int], variables: Mapping[str, object], *, bare: bool
) -> Verdict:
    """Wheels are locked for CPython of some versions, and not for those without the global lock."""
    if implementation != "cpython" or not OLDEST <= version <= NEWEST:
        return Verdict.UNSUPPORTED
    if variables.get("Py_GIL_DISABLED"):
        return Verdict.UNSUPPORTED
    if bare:
        return Verdict.BARE
    return Verdict.OPTIMISED if built_with_profile(variables) else Verdict.PLAIN


def main() -> None:
    """Judge the interpreter that runs this."""
    bare = any(importlib.util.find_spec(name) is None for name in ("ensurepip", "venv"))
    variables = sysconfig.get_config_vars()
    print(verdict(sys.implementation.name, sys.version_info[:2], variables, bare=bare))


if __name__ == "__main__":
    main()
