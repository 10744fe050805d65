"""Many runs: in how many processes, what they add up to, and the search for a violation."""

import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from buckets.bucket_map import Mode
from tests.sim.broken import VARIANTS
from tests.sim.run import Result, run_seed

CHUNK = 25  # seeds that a process takes at once


@dataclass
class Session:
    """What a number of runs came to."""

    fault: str = ""
    mode: Mode | None = None  # of the keys; None: of both
    runs: int = 0
    operations: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    changes: Counter[str] = field(default_factory=Counter)
    failed: list[tuple[int, list[str]]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, result: Result) -> None:
        """One more run."""
        self.runs += 1
        self.operations += result.operations
        self.outcomes.update(result.outcomes)
        self.faults.update(result.faults)
        self.changes.update(result.changes)
        if result.violations:
            self.failed.append((result.seed, result.violations))

    @property
    def runs_per_minute(self) -> int:
        """By the wall clock."""
        return round(60 * self.runs / self.seconds) if self.seconds else 0

    def trace_of(self, seed: int) -> list[str]:
        """The same run again, with its trace."""
        return run_seed(seed, fault=self.fault, mode=self.mode, trace=True).trace


def search(
    first: int, count: int, *, fault: str = "", mode: Mode | None = None, jobs: int = 0
) -> Session:
    """Runs `count` seeds from `first`; `jobs` processes, 0: one for each core."""
    session = Session(fault, mode)
    began_s = time.monotonic()
    seeds = range(first, first + count)
    jobs = min(jobs or os.cpu_count() or 1, 1 + count // CHUNK)
    if jobs == 1:
        for seed in seeds:
            session.add(run_seed(seed, fault=fault, mode=mode))
    else:
        with ProcessPoolExecutor(jobs) as pool:
            run = partial(run_seed, fault=fault, mode=mode)
            for result in pool.map(run, seeds, chunksize=CHUNK):
                session.add(result)
    session.seconds = time.monotonic() - began_s
    return session


def hunt(name: str, first: int, count: int, *, fault: str = "") -> Result | None:
    """The first seed that catches the broken variant `name`, with its trace; None: none did."""
    variant = VARIANTS[name]
    with variant.apply():
        for seed in range(first, first + count):
            run = partial(run_seed, seed, fault=fault or variant.fault, mode=variant.mode)
            if run().violations:
                return run(trace=True)
    return None
