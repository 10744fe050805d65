"""Which interpreters the set-up takes, by what they say of themselves."""

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.judge_python import NEWEST, OLDEST, Verdict, built_with_profile, verdict

ROOT = Path(__file__).resolve().parents[3]

# What they say, as far as it matters here.
SELF_BUILT = {
    "CONFIG_ARGS": "'--prefix=/opt/python' '--enable-shared'",
    "PGO_PROF_GEN_FLAG": "-fprofile-generate",
    "PGO_PROF_USE_FLAG": "-fprofile-use -fprofile-correction",
}
DEBIAN = {
    "CONFIG_ARGS": "'--enable-shared' '--prefix=/usr' '--enable-ipv6' '--without-ensurepip'",
    "PGO_PROF_GEN_FLAG": "-fprofile-generate",
    "PGO_PROF_USE_FLAG": "",
}
CONFIGURED = {**SELF_BUILT, "CONFIG_ARGS": "'--build=x86_64-linux-gnu''--enable-optimizations'"}
OTHER_COMPILER = {"CONFIG_ARGS": "", "PGO_PROF_GEN_FLAG": "", "PGO_PROF_USE_FLAG": ""}


@pytest.mark.parametrize(
    ("variables", "profile"),
    [
        pytest.param(SELF_BUILT, False, id="the flags alone do not say that they were taken"),
        pytest.param(DEBIAN, True, id="a flag struck out was taken"),
        pytest.param(CONFIGURED, True, id="the option of configure"),
        pytest.param(OTHER_COMPILER, False, id="a compiler without profiles"),
        pytest.param({}, False, id="one that says nothing"),
    ],
)
def test_a_profile_is_known_by_what_the_build_left(
    variables: dict[str, str], profile: bool
) -> None:
    assert built_with_profile(variables) is profile


@pytest.mark.parametrize("version", [OLDEST, (3, 12), (3, 13), NEWEST])
def test_versions_that_wheels_are_locked_for_are_supported(version: tuple[int, int]) -> None:
    assert verdict("cpython", version, DEBIAN, bare=False) is Verdict.OPTIMISED
    assert verdict("cpython", version, SELF_BUILT, bare=False) is Verdict.PLAIN
    assert verdict("cpython", version, DEBIAN, bare=True) is Verdict.BARE


@pytest.mark.parametrize(
    ("implementation", "version", "variables"),
    [
        ("cpython", (3, 10), CONFIGURED),
        ("cpython", (NEWEST[0], NEWEST[1] + 1), CONFIGURED),
        ("pypy", (3, 11), CONFIGURED),
        ("cpython", (3, 13), {**CONFIGURED, "Py_GIL_DISABLED": 1}),
    ],
)
def test_without_locked_wheels_an_interpreter_is_not_supported(
    implementation: str, version: tuple[int, int], variables: dict[str, object]
) -> None:
    assert verdict(implementation, version, variables, bare=False) is Verdict.UNSUPPORTED


def test_an_interpreter_says_one_word() -> None:
    command = [sys.executable, "-I", "scripts/judge_python.py"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout in {f"{verdict}\n" for verdict in Verdict}
    assert not said.stderr
