"""Checks the Spin models in docs/models: the rules hold, and each rule taken away is missed.

    python scripts/run_models.py [--full] [--only TEXT] [--json FILE] [--models FOLDER]
    python scripts/run_models.py --trace CHECK

Prints a table of every check with its states and time. Ends with 1 if any check ends otherwise
than it must: an error where the rules are kept, or none where one was taken away; with 2 if it
cannot check. `--trace` prints the counter-example of one check, step by step.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

MODELS = Path(__file__).resolve().parent.parent / "docs" / "models"

# One verifier at a time, below 2 GB. A check that takes longer than this wants smaller bounds.
MEMORY_MB = 1_900
CHECK_DEADLINE_S = 90.0
TOOL_DEADLINE_S = 60.0
# No path of any model here has 300 steps; a search cut off by its depth would prove nothing.
MAX_DEPTH = 10_000
TOOLS = {"spin": "spin", "gcc": "gcc"}


class Failed(Exception):
    """Nothing can be checked; the message says what to do."""


class Expected(StrEnum):
    """What a check must find."""

    HOLDS = "holds"
    CAUGHT = "caught"  # a rule is taken away: a counter-example
    REACHED = "reached"  # a good end that must be possible, or the model proves nothing


@dataclass(frozen=True, slots=True)
class Check:
    """One model with its macros. `full`: takes too long for every run of the tests."""

    name: str
    macros: tuple[str, ...]
    expected: Expected
    full: bool = False

    @property
    def file(self) -> str:
        return self.name.partition("/")[0] + ".pml"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the verifier said. `found`: the assertion that failed; `problem`: it proves nothing.

    Both are "" where there is none. `seconds` includes making the verifier.
    """

    check: str
    expected: str
    as_expected: bool
    found: str
    problem: str
    states: int
    depth: int
    seconds: float


def holds(name: str, macros: str, *, full: bool = False) -> Check:
    return Check(name, tuple(macros.split()), Expected.HOLDS, full)


def caught(model: str, rule: str, macros: str) -> Check:
    name = f"{model}/{rule.lower().replace('_', '-')}"
    return Check(name, (*macros.split(), rule), Expected.CAUGHT)


def reached(name: str, macros: str) -> Check:
    return Check(name, (*macros.split(), "SHOW_THAT_ALL_CAN_SUCCEED"), Expected.REACHED)


OVERLAPPING = "WRITERS=2 READERS=2 POWER_CUTS=0"
NO_CUT = "WRITERS=1 READERS=2 POWER_CUTS=0"
ONE_OF_EACH = "WRITERS=1 READERS=1 POWER_CUTS=1"
STILL = "APPENDS=2 GETS=1 ATTEMPTS=1"
WITH_CAS = "APPENDS=1 SETS_IF_EMPTY=1 GETS=1 ATTEMPTS=1"
MOVING = "MOVE APPENDS=1 GETS=1 ATTEMPTS=1"
MOVING_APPENDS = "MOVE APPENDS=2 GETS=1 ATTEMPTS=1"
MOVING_GETS = "MOVE APPENDS=1 GETS=2 ATTEMPTS=1"
SMALL_MOVE = "WRITERS=1 READERS=1"
MOVE_AND_TWO_READS = "WRITERS=1 READERS=2 READERS_IN_TURN"

CHECKS = (
    holds("quorum/overlapping", OVERLAPPING),
    holds("quorum/power-cut", ONE_OF_EACH),
    holds("quorum/power-cut-two-reads", f"{ONE_OF_EACH} READS=2"),
    holds("quorum/two-power-cuts", "WRITERS=1 READERS=1 POWER_CUTS=2"),
    holds("quorum/power-cut-two-readers", "WRITERS=1 READERS=2 POWER_CUTS=1", full=True),
    holds("quorum/power-cut-two-writers", "WRITERS=2 READERS=1 POWER_CUTS=1", full=True),
    reached("quorum/all-can-succeed", "WRITERS=2 READERS=2 POWER_CUTS=1"),
    caught("quorum", "NO_WRITE_BACK", NO_CUT),
    caught("quorum", "WRITE_BACK_TO_THOSE_READ", NO_CUT),
    caught("quorum", "NO_INCARNATION_CHECK", ONE_OF_EACH),
    caught("quorum", "NEW_LIFE_SAME_EPOCH", ONE_OF_EACH),
    caught("quorum", "REPAIR_BEFORE_FENCE", ONE_OF_EACH),
    caught("quorum", "TALLY_ACROSS_EPOCHS", ONE_OF_EACH),
    holds("register/two-appends", STILL),
    holds("register/compare-and-set", WITH_CAS),
    holds("register/retries", "APPENDS=2 GETS=0 ATTEMPTS=2"),
    holds("register/retries-and-get", "APPENDS=1 GETS=1 ATTEMPTS=2", full=True),
    holds("register/two-gets", "APPENDS=1 GETS=2 ATTEMPTS=1", full=True),
    reached("register/all-can-succeed", "APPENDS=2 GETS=1 ATTEMPTS=2"),
    caught("register", "AN_ACCEPTOR_FORGETS", STILL),
    caught("register", "PREPARE_WITHOUT_MAJORITY", STILL),
    caught("register", "READ_DESPITE_A_CHANGE_IN_FLIGHT", STILL),
    caught("register", "FAILED_CAS_DOES_NOT_ACCEPT", WITH_CAS),
    caught("register", "RETRY_DOES_NOT_LOOK_FOR_ITS_ID", "APPENDS=1 GETS=0 ATTEMPTS=2"),
    holds("register/move", MOVING),
    holds("register/move-two-appends", MOVING_APPENDS, full=True),
    holds("register/move-two-gets", MOVING_GETS, full=True),
    holds("register/move-retries", "MOVE APPENDS=1 GETS=1 ATTEMPTS=2", full=True),
    reached("register/move-all-can-succeed", MOVING),
    caught("register", "NO_FENCE", MOVING),
    caught("register", "ONE_STEP", MOVING),
    caught("register", "NO_IDENTITY_CHANGE", MOVING_APPENDS),
    caught("register", "PREPARE_ON_READ_NEEDS", MOVING_APPENDS),
    caught("register", "READ_DESPITE_A_PROMISE", MOVING_GETS),
    holds("move/one-of-each", SMALL_MOVE),
    holds("move/two-readers", MOVE_AND_TWO_READS, full=True),
    reached("move/all-can-succeed", MOVE_AND_TWO_READS),
    caught("move", "NO_FENCE", SMALL_MOVE),
    caught("move", "SINGLE_COPY_SOURCE", SMALL_MOVE),
    caught("move", "COPY_BEFORE_FENCE", SMALL_MOVE),
    caught("move", "ONE_STEP", SMALL_MOVE),
    caught("move", "NO_WRITE_BACK", MOVE_AND_TWO_READS),
    caught("move", "WRITE_BACK_TO_THOSE_READ", MOVE_AND_TWO_READS),
)


def need_tools() -> None:
    missing = [package for tool, package in TOOLS.items() if shutil.which(tool) is None]
    if missing:
        raise Failed(
            f"not installed: {', '.join(missing)}. Type `make peers`, or apt-get install them"
        )


def tool(command: Sequence[str], folder: Path) -> str:
    """Runs spin or gcc to its end and returns what it printed."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=TOOL_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(
            f"{command[0]} took more than {TOOL_DEADLINE_S:.0f} s: {' '.join(command)}"
        ) from error
    if done.returncode != 0:
        raise Failed(
            f"{' '.join(command)}: ended with {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def build(check: Check, models: Path, folder: Path) -> Path:
    """Makes the verifier of a check in `folder`, with a copy of the models: spin writes there."""
    for model in models.glob("*.pml"):
        shutil.copy(model, folder)
    if not (folder / check.file).exists():
        raise Failed(f"there is no {check.file} in {models}")
    tool(["spin", "-a", *(f"-D{macro}" for macro in check.macros), check.file], folder)
    # -w: the warnings would be about the code that spin writes. COLLAPSE: states stored packed.
    # Counter-examples are found so early that optimizing the search would cost more than it saves.
    speed = "-O1" if check.expected is Expected.HOLDS else "-O0"
    options = [speed, "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MEMORY_MB}"]
    tool(["gcc", *options, "-o", "pan", "pan.c"], folder)
    return folder / "pan"


def search(verifier: Path) -> str:
    """Everything the verifier says; "" if it did not end in time."""
    try:
        done = subprocess.run(
            [str(verifier), f"-m{MAX_DEPTH}", "-n", "-w22"],
            cwd=verifier.parent,
            capture_output=True,
            text=True,
            timeout=CHECK_DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout + done.stderr


def number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(float(match[1])) if match else 0


def why_it_proves_nothing(said: str) -> str:
    if not said:
        return f"not ended after {CHECK_DEADLINE_S:.0f} s"
    if "reached -DMEMLIM bound" in said or "out of memory" in said:
        return f"more than {MEMORY_MB} MB"
    if "max search depth too small" in said:
        return f"paths longer than {MAX_DEPTH} steps"
    if not re.search(r"errors: 0", said):
        return f"another error: {said.strip()[:200]}"
    return ""


def judge(check: Check, said: str, seconds: float) -> Outcome:
    """What the verifier's words mean for this check."""
    error = re.search(r"pan:\d+: assertion violated (.*?) \(at depth", said)
    found = error[1].strip() if error else ""
    problem = "" if found else why_it_proves_nothing(said)
    wanted = check.expected is not Expected.HOLDS
    return Outcome(
        check=check.name,
        expected=check.expected.value,
        as_expected=not problem and bool(found) is wanted,
        found=found,
        problem=problem,
        states=number(r"([\d.e+]+) states, stored", said),
        depth=number(r"depth reached (\d+)", said),
        seconds=round(seconds, 2),
    )


def run(check: Check, models: Path, *, trace: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="models-") as name:
        folder = Path(name)
        started = time.monotonic()
        said = search(build(check, models, folder))
        outcome = judge(check, said, time.monotonic() - started)
        if trace and outcome.found:
            macros = [f"-D{macro}" for macro in check.macros]
            print(tool(["spin", "-t", "-T", "-B", *macros, check.file], folder))
        return outcome


def row(outcome: Outcome) -> str:
    words = outcome.problem or outcome.found or "no error in any state"
    verdict = "ok" if outcome.as_expected else "WRONG"
    return (
        f"{verdict:5} {outcome.check:40} {outcome.expected:8} {outcome.states:>11,}"
        f" {outcome.depth:>5} {outcome.seconds:>6.1f}  {words[:60]}"
    )


def run_all(checks: Iterable[Check], models: Path) -> list[Outcome]:
    print(
        f"{'':5} {'check':40} {'must be':8} {'states':>11} {'depth':>5} {'s':>6}  found", flush=True
    )
    outcomes = []
    for check in checks:
        outcomes.append(run(check, models))
        print(row(outcomes[-1]), flush=True)
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    wrong = [outcome.check for outcome in outcomes if not outcome.as_expected]
    total = f"{len(outcomes)} checks, {sum(outcome.states for outcome in outcomes):,} states, "
    total += f"{sum(outcome.seconds for outcome in outcomes):.0f} s: "
    return total + (f"NOT as they must be: {', '.join(wrong)}" if wrong else "all as they must be")


def chosen(arguments: argparse.Namespace) -> list[Check]:
    checks = [check for check in CHECKS if arguments.full or arguments.only or not check.full]
    checks = [check for check in checks if arguments.only in check.name]
    if not checks:
        raise Failed(
            f"no check is named like {arguments.only!r}: {', '.join(c.name for c in CHECKS)}"
        )
    return checks


def trace(name: str, models: Path) -> int:
    for check in CHECKS:
        if check.name == name:
            print(row(run(check, models, trace=True)))
            return 0
    raise Failed(f"no check is named {name!r}: {', '.join(check.name for check in CHECKS)}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Checks the Spin models in docs/models.")
    parser.add_argument("--full", action="store_true", help="the large checks too: some minutes")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the checks with TEXT in their name"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there too")
    parser.add_argument("--trace", metavar="CHECK", help="print the counter-example of one check")
    parser.add_argument(
        "--models", type=Path, default=MODELS, metavar="FOLDER", help="where they are"
    )
    arguments = parser.parse_args()
    try:
        need_tools()
        if arguments.trace:
            return trace(arguments.trace, arguments.models)
        outcomes = run_all(chosen(arguments), arguments.models)
    except Failed as error:
        print(f"models: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        arguments.json.write_text(
            json.dumps([asdict(outcome) for outcome in outcomes], indent=2) + "\n"
        )
    print(summary(outcomes))
    return 0 if all(outcome.as_expected for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
