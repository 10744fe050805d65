"""What `dabba dev` shows: plain lines in a pipe, colours and a progress bar on a terminal."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Self

import orjson
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from control_plane.dev.load_report import DoorReport, Finished, NodeReads
from control_plane.dev.load_report import Progress as PhaseProgress

_LINE_EVERY_S = 5.0
_WIDTH_WHEN_PIPED = 160
_PHASES = {
    "prepare": "read the data set",
    "load": "write at QUORUM, gRPC door",
    "verify": "read back at QUORUM, Redis door",
    "read": "read by popularity, both doors",
}


class Screen:
    """`as_json`: standard output is for one object, so people read standard error."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        stream = sys.stderr if as_json else sys.stdout
        self.console = Console(
            file=stream,
            width=None if stream.isatty() else _WIDTH_WHEN_PIPED,
            highlight=False,
            markup=False,
            emoji=False,
            soft_wrap=True,
        )

    def line(self, text: str | Text = "", style: str = "") -> None:
        """One line, at once."""
        self.console.print(text, style=style)
        self.console.file.flush()

    def table(self, made: Table) -> None:
        """A table as rich makes it."""
        self.console.print(made)
        self.console.file.flush()

    def object(self, value: Mapping[str, object]) -> None:
        """The one object of `-o json`."""
        sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")
        sys.stdout.flush()


class PhaseDisplay:
    """Shows the phases of a load: bars on a terminal, else a line now and then."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._next_line = 0.0
        if screen.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:32}"),
                BarColumn(),
                TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
                TimeElapsedColumn(),
                console=screen.console,
            )

    def __enter__(self) -> Self:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, event: PhaseProgress) -> None:
        """One event of the loader."""
        title = _PHASES.get(event.phase, event.phase)
        if self._bars is not None:
            if event.phase not in self._tasks:
                self._tasks[event.phase] = self._bars.add_task(title, total=event.total)
            self._bars.update(self._tasks[event.phase], completed=event.done)
            return
        now = time.monotonic()
        if event.done >= event.total or event.done == 0 or now >= self._next_line:
            self._next_line = now + _LINE_EVERY_S
            self._screen.line(f"{title}: {event.done:,.0f} of {event.total:,.0f}")


def show_finished(screen: Screen, finished: Finished) -> None:
    """The tables at the end of a load, and what was wrong."""
    report = finished.report
    screen.line()
    screen.line(
        f"{report.records_loaded:,} records loaded in {report.seconds.load:.1f} s,"
        f" {report.records_verified:,} verified in {report.seconds.verify:.1f} s,"
        f" {report.mismatches} mismatches, {report.errors} errors,"
        f" {finished.retries} retries"
    )
    doors = (("gRPC", report.doors.grpc), ("Redis", report.doors.redis))
    screen.table(_doors_table(doors, report.seconds.run))
    screen.table(_nodes_table(report.nodes))
    for zone in report.zones:
        screen.line(f"zone {zone.zone}: {zone.reads:,} reads")
    screen.line(
        f"most loaded node / mean: {report.max_over_mean:.2f}; sidecar:"
        f" {report.sidecar_rss_bytes / 2**20:.0f} MiB resident"
    )
    for text in finished.first_errors:
        screen.line(f"error: {text}", "red")
    for text in finished.wrong:
        screen.line(f"WRONG: {text}", "bold red")
    if not finished.wrong:
        screen.line("nothing was wrong", "green")
    screen.line("place names and populations: GeoNames (geonames.org), CC BY 4.0", "dim")


def _doors_table(doors: Sequence[tuple[str, DoorReport]], run_s: float) -> Table:
    made = Table(title=f"both doors at once, {run_s:.1f} s", title_justify="left", box=None)
    made.add_column("DOOR", header_style="dim")
    for column in ("READS/S", "P50 MS", "P99 MS", "READS", "ERRORS"):
        made.add_column(column, justify="right", header_style="dim")
    for name, door in doors:
        made.add_row(
            name,
            f"{door.reads_per_s:,.0f}",
            f"{door.p50_ms:.2f}",
            f"{door.p99_ms:.2f}",
            f"{door.reads:,}",
            str(door.errors),
        )
    return made


def _nodes_table(nodes: Sequence[NodeReads]) -> Table:
    mean = sum(node.reads for node in nodes) / len(nodes) if nodes else 0.0
    made = Table(title="reads taken to each node", title_justify="left", box=None)
    made.add_column("NODE", header_style="dim")
    made.add_column("ZONE", header_style="dim")
    for column in ("READS", "OF MEAN"):
        made.add_column(column, justify="right", header_style="dim")
    for node in nodes:
        share = f"{node.reads / mean:.2f}" if mean else "-"
        made.add_row(node.id, node.zone, f"{node.reads:,}", share)
    return made
