"""Rounds: every contender of every workload in turn, each round in another order."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bench.doors_load import Load
from bench.doors_programs import CLOCK_TICKS_PER_S, Usage

# A run must not be so short that starting it is what is measured.
LEAST_OPERATIONS = 200


@dataclass(slots=True)
class Contender:
    """One server under one kind of load, and its samples, one a round."""

    name: str
    usage: Usage
    load: Load
    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    cpu_s_per_100k: list[float] = field(default_factory=list)
    expected_per_s: float = 0.0

    def warm_up(self, operations: int) -> None:
        """A short run that counts for nothing but what rate to expect."""
        self.expected_per_s = self.load.run(operations).per_s

    def measure(self, seconds: float) -> None:
        """One run of about so long, as the last one lets expect."""
        operations = max(LEAST_OPERATIONS, round(self.expected_per_s * seconds))
        before_s = self.usage.cpu_s()
        ran = self.load.run(operations)
        # Less than a tick of the clock can not be seen.
        used_s = max(self.usage.cpu_s() - before_s, 1 / CLOCK_TICKS_PER_S)
        self.load.check()
        self.expected_per_s = ran.per_s
        self.per_s.append(ran.per_s)
        self.p50_ms.append(ran.p50_ms)
        self.cpu_s_per_100k.append(used_s * 100_000 / ran.operations)


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of load and those that are driven with it."""

    name: str
    contenders: Sequence[Contender]

    def of(self, name: str) -> Contender:
        return next(contender for contender in self.contenders if contender.name == name)


def run_rounds(
    workloads: Sequence[Workload], rounds: int, seconds: float, progress: Callable[[str], None]
) -> None:
    """All rounds. Who begins changes from round to round."""
    for workload in workloads:
        progress(f"warming up: {workload.name}")
        for contender in workload.contenders:
            contender.warm_up(max(LEAST_OPERATIONS, math.ceil(2_000 * seconds)))
    for number in range(rounds):
        for workload in workloads:
            progress(f"round {number + 1} of {rounds}: {workload.name}")
            turn = number % len(workload.contenders)
            for contender in (*workload.contenders[turn:], *workload.contenders[:turn]):
                contender.measure(seconds)


def spread(samples: Sequence[float]) -> float:
    """How far apart they lie: (third quartile - first quartile) / median."""
    if len(samples) < 2:
        return 0.0
    first, middle, third = statistics.quantiles(samples, n=4, method="inclusive")
    return (third - first) / middle if middle else 0.0


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the ratios of each round, whose two runs the same noise has met."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def ratios(workloads: Mapping[str, Workload]) -> dict[str, float]:
    """D1 to D6 and the CPU ratios."""
    grpc, alone = workloads["grpc get"], workloads["get, one at a time"]
    found = proxy_ratios(workloads, "sidecar")
    for name, other in (("D4", "grpc.aio echo"), ("D5", "door echo")):
        found[name] = ratio(grpc.of("sidecar").per_s, grpc.of(other).per_s)
    found["D6"] = ratio(alone.of("sidecar").p50_ms, alone.of("straight").p50_ms)
    return found


def proxy_ratios(workloads: Mapping[str, Workload], who: str) -> dict[str, float]:
    """D1 to D3 and their CPU ratios, of `who` to the proxies."""
    plain, pipelined = workloads["get"], workloads["get, pipeline 16"]
    found: dict[str, float] = {}
    for name, workload, other in (
        ("D1", plain, "envoy"),
        ("D2", pipelined, "envoy"),
        ("D3", plain, "twemproxy"),
    ):
        ours, theirs = workload.of(who), workload.of(other)
        found[name] = ratio(ours.per_s, theirs.per_s)
        found[f"{name}_cpu"] = ratio(ours.cpu_s_per_100k, theirs.cpu_s_per_100k)
    return found
