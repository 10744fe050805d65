"""What the doors' benchmark found: tables for people, one JSON object, a drawing."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from bench.doors_plot import Panel, draw
from bench.doors_rounds import Contender, Workload, spread
from bench.report import Figure, Report, show

# Name, what it says, and the bound with its direction.
REACH: Mapping[str, tuple[str, float, bool]] = {
    "D1": ("GET at ONE / Envoy", 1.1, True),
    "D1_cpu": ("the same, CPU", 0.95, False),
    "D2": ("pipelines of 16 / Envoy", 1.0, True),
    "D2_cpu": ("the same, CPU", 1.0, False),
    "D3": ("GET at ONE / twemproxy", 0.95, True),
    "D3_cpu": ("the same, CPU", 1.1, False),
    "D4": ("gRPC Get at QUORUM / grpc.aio echo", 4.0, True),
    "D5": ("the same / an echo of our door", 0.7, True),
    "D6": ("GET one at a time, p50 / straight", 2.2, False),
    "D7": ("memory with the wide map", 80.0, False),
}
_WIDTH = 120


@dataclass(frozen=True, slots=True)
class Outcome:
    """`ratios` by the names of REACH; D7 in MB (10^6 bytes). `interpreted`: those of D1 to D3 for
    the sidecar that is not compiled, if it was measured beside the one that is.
    """

    ratios: Mapping[str, float]
    interpreted: Mapping[str, float]
    workloads: Sequence[Workload]
    resident_bytes: Mapping[str, int]
    settings: Mapping[str, object]


def as_json(outcome: Outcome) -> bytes:
    """D1 to D7 and, under "raw", every sample."""
    workloads = {
        workload.name: {contender.name: _samples(contender) for contender in workload.contenders}
        for workload in outcome.workloads
    }
    raw = {
        "settings": outcome.settings,
        "resident_bytes": outcome.resident_bytes,
        "interpreted": {name: round(value, 4) for name, value in outcome.interpreted.items()},
        "workloads": workloads,
    }
    found = {name: round(value, 4) for name, value in outcome.ratios.items()}
    return msgspec.json.format(
        msgspec.json.encode({"benchmark": "doors", **{n: found[n] for n in REACH}, "raw": raw})
    )


def _samples(contender: Contender) -> dict[str, object]:
    samples = {
        "per_s": contender.per_s,
        "p50_ms": contender.p50_ms,
        "cpu_s_per_100k": contender.cpu_s_per_100k,
    }
    return {
        name: {"median": statistics.median(values), "spread": spread(values), "samples": values}
        for name, values in samples.items()
        if any(values)
    }


def publish_outcome(outcome: Outcome, json_to: str | None, plot_to: Path | None) -> None:
    """Tables, unless the JSON goes to standard output ("-"); the drawing when it has a file."""
    if plot_to is not None:
        draw(_panels(outcome), plot_to)
    if json_to == "-":
        print(as_json(outcome).decode())
        return
    _show_workloads(outcome)
    show(Report("D1 to D7", [_figure(name, outcome.ratios[name]) for name in REACH]))
    if outcome.interpreted:
        found = ", ".join(f"{name} {value:.3g}" for name, value in outcome.interpreted.items())
        print(f"not compiled: {found}")
    if json_to is not None:
        Path(json_to).write_bytes(as_json(outcome) + b"\n")


def _figure(name: str, value: float) -> Figure:
    words, bound, at_least = REACH[name]
    unit = "MB" if name == "D7" else ""
    return Figure(f"{name}: {words}", float(f"{value:.3g}"), unit, bound, at_least)


def _show_workloads(outcome: Outcome) -> None:
    table = Table(title=f"doors: {_in_words(outcome.settings)}", title_justify="left")
    table.add_column("load")
    table.add_column("server")
    for name in ("per second", "spread", "p50 ms", "CPU s/100,000", "spread", "resident MB"):
        table.add_column(name, justify="right")
    for workload in outcome.workloads:
        for number, contender in enumerate(workload.contenders):
            name = workload.name if number == 0 else ""
            table.add_row(name, contender.name, *_cells(contender, outcome.resident_bytes))
        table.add_section()
    console = Console()
    console.width = max(console.width, _WIDTH)  # a file has no width, and cuts nothing off
    console.print(table)


def _cells(contender: Contender, resident: Mapping[str, int]) -> list[str]:
    p50_ms, size = statistics.median(contender.p50_ms), resident.get(contender.name, 0)
    return [
        f"{statistics.median(contender.per_s):,.0f}",
        f"{spread(contender.per_s):.0%}",
        f"{p50_ms:.3f}" if p50_ms else "",
        f"{statistics.median(contender.cpu_s_per_100k):.2f}",
        f"{spread(contender.cpu_s_per_100k):.0%}",
        f"{size / 1e6:,.0f}" if size else "",
    ]


def _in_words(settings: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _panels(outcome: Outcome) -> list[Panel]:
    """Rates and CPU of each load that has more than one contender."""
    panels = []
    for workload in outcome.workloads:
        if len(workload.contenders) == 1:
            continue
        for title, values in (
            ("operations per second", [contender.per_s for contender in workload.contenders]),
            ("CPU s per 100,000", [contender.cpu_s_per_100k for contender in workload.contenders]),
        ):
            names = [contender.name for contender in workload.contenders]
            panels.append(Panel(f"{workload.name}: {title}", names, values))
    return panels
