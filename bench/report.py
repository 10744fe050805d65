"""What a benchmark found: figures beside what they must reach, as a table or as JSON."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. `reach` is the bound it must keep, None for what is only shown."""

    name: str
    value: float
    unit: str = ""
    reach: float | None = None
    at_least: bool = False  # whether `reach` is a lower bound

    @property
    def reached(self) -> bool | None:
        """Whether the bound is kept; None without one."""
        if self.reach is None:
            return None
        return self.value >= self.reach if self.at_least else self.value <= self.reach

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.reach is None:
            return ""
        return f"{'>=' if self.at_least else '<='} {self.reach:,.6g}"


@dataclass(frozen=True, slots=True)
class Report:
    """All figures of one benchmark."""

    name: str
    figures: Sequence[Figure]
    notes: Sequence[str] = field(default_factory=list)


def show(report: Report) -> None:
    """Prints the table."""
    table = Table(title=report.name, title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("reach", justify="right")
    table.add_column("")
    for figure in report.figures:
        verdict = {None: "", True: "[green]reached[/green]", False: "[red]missed[/red]"}
        value = f"{figure.value:,.6g}"
        table.add_row(figure.name, value, figure.unit, figure.bound, verdict[figure.reached])
    console = Console()
    console.print(table)
    for note in report.notes:
        console.print(note)


def as_json(report: Report) -> bytes:
    """One object: the name, and each figure by its name with value, unit, reach and reached."""
    figures = {
        figure.name: {
            "value": figure.value,
            "unit": figure.unit,
            "reach": figure.reach,
            "reached": figure.reached,
        }
        for figure in report.figures
    }
    return msgspec.json.encode(
        {"benchmark": report.name, "figures": figures, "notes": list(report.notes)}
    )


def publish(report: Report, json_to: str | None) -> None:
    """Prints the table, or with `json_to` writes the JSON there ("-": to standard output)."""
    if json_to is None:
        show(report)
    elif json_to == "-":
        print(as_json(report).decode())
    else:
        show(report)
        Path(json_to).write_bytes(as_json(report) + b"\n")
