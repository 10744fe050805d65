"""The simulator's command line: `python -m tests.sim --seeds 2000`, `--broken all`."""

import argparse
import json
import sys
import time
from collections.abc import Sequence

from buckets.bucket_map import Mode
from tests.sim.broken import VARIANTS
from tests.sim.faults import KINDS
from tests.sim.session import Session, hunt, search

MODES = {mode.name.lower(): mode for mode in (Mode.TUNABLE, Mode.LINEARIZABLE)}
BOUND = 3000  # seeds within which a broken variant has to be caught


def main(arguments: Sequence[str] | None = None) -> int:
    """0: as it should be. 1: a violation, or a broken variant that was not caught."""
    options = _parser().parse_args(arguments)
    if options.broken:
        names = sorted(VARIANTS) if options.broken == "all" else [options.broken]
        return _broken(names, options)
    return _good(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=0, help="how many runs (2000; broken: 3000)")
    parser.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--mode", choices=sorted(MODES), default="", help="of the keys (both)")
    parser.add_argument("--fault", choices=sorted(KINDS), default="", help="mostly this fault")
    parser.add_argument(
        "--broken", choices=["all", *sorted(VARIANTS)], default="", help="with a rule taken away"
    )
    parser.add_argument("--jobs", type=int, default=0, help="processes (one for each core)")
    parser.add_argument("--trace", action="store_true", help="print the trace of the first seed")
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    return parser


def _good(options: argparse.Namespace) -> int:
    count = options.seeds or 2000
    found = search(
        options.seed, count, fault=options.fault, mode=MODES.get(options.mode), jobs=options.jobs
    )
    if options.json:
        _say(json.dumps(_as_json(found)))
    else:
        _print_summary(found)
        if found.failed:
            seed = found.failed[0][0]
            _print_trace(found.trace_of(seed), seed, found.failed[0][1])
        elif options.trace:
            _print_trace(found.trace_of(options.seed), options.seed, [])
    return 1 if found.failed else 0


def _broken(names: Sequence[str], options: argparse.Namespace) -> int:
    count = options.seeds or BOUND
    missed = []
    report = {}
    for name in names:
        began_s = time.monotonic()
        caught = hunt(name, options.seed, count, fault=options.fault)
        took_s = round(time.monotonic() - began_s, 1)
        report[name] = {
            "seed": caught.seed if caught else None,
            "violation": caught.violations[0] if caught else "",
            "seconds": took_s,
        }
        if caught is None:
            missed.append(name)
        if options.json:
            continue
        if caught is None:
            _say(f"{name:<26} NOT CAUGHT in {count} seeds, {took_s} s")
        else:
            _say(f"{name:<26} seed {caught.seed:>5}, {took_s} s: {caught.violations[0]}")
            if options.trace:
                _print_trace(caught.trace, caught.seed, caught.violations)
    if options.json:
        _say(json.dumps({"broken": report, "missed": missed}))
    return 1 if missed else 0


def _as_json(found: Session) -> dict[str, object]:
    return {
        "runs": found.runs,
        "operations": found.operations,
        "outcomes": dict(sorted(found.outcomes.items())),
        "changes": dict(sorted(found.changes.items())),
        "faults": dict(sorted(found.faults.items())),
        "violations": [{"seed": seed, "what": what} for seed, what in found.failed],
        "runs_per_minute": found.runs_per_minute,
    }


def _print_summary(found: Session) -> None:
    _say(f"runs        {found.runs}, {found.runs_per_minute} a minute")
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(found.outcomes.items()))
    _say(f"operations  {found.operations}: {outcomes}")
    changes = ", ".join(f"{count} {name}" for name, count in sorted(found.changes.items()))
    _say(f"of the map  {changes}")
    _say(f"faults      {sum(found.faults.values())}")
    for name, count in sorted(found.faults.items()):
        _say(f"  {count:>6}  {name}")
    _say(f"violations  {len(found.failed)}")
    for seed, what in found.failed[:20]:
        _say(f"  seed {seed}: {what[0]}")


def _print_trace(trace: Sequence[str], seed: int, what: Sequence[str]) -> None:
    _say(f"\ntrace of seed {seed}")
    for line in (*trace, *what):
        _say(line)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
