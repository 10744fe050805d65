"""How answers are printed: tables for people, one JSON object for programs."""

import sys
from collections.abc import Iterable, Sequence

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDTH_WHEN_PIPED = 240  # nobody looks, and a line that is cut can not be searched

_COLOURS = {
    "up": "green",
    "connected": "green",
    "synced": "green",
    "ok": "green",
    "down": "bold red",
    "rejected": "bold red",
    "error": "bold red",
    "unavailable": "bold red",
    "suspect": "yellow",
    "stale": "yellow",
    "connecting": "yellow",
    "warning": "yellow",
    "degraded": "yellow",
}


def console() -> Console:
    """Writes to standard output, in colour on a terminal. Markup is never interpreted."""
    width = None if sys.stdout.isatty() else _WIDTH_WHEN_PIPED
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


def print_json(value: object) -> None:
    """The value as one indented JSON object and nothing else."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def coloured(word: str) -> Text:
    """A state in the colour of its meaning."""
    return Text(word, style=_COLOURS.get(word.lower(), ""))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str | Text | int]]) -> Table:
    """A plain table; a column whose name ends with ">" is aligned to the right."""
    made = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
    )
    for column in columns:
        right = column.endswith(">")
        made.add_column(
            column.rstrip(">"), justify="right" if right else "left", header_style="dim"
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def pairs(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Names and their values, one a line."""
    made = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    made.add_column(style="dim")
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, value if isinstance(value, Text) else Text(value))
    return made


def next_commands(commands: Sequence[str]) -> Text:
    """What to type next."""
    text = Text("next: ", style="dim")
    text.append("   ".join(commands), style="cyan")
    return text


def size_text(size_bytes: int) -> str:
    """1536 -> "1.5 KiB"."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes any size")


def age_text(since_ms: int, now_ms: int) -> str:
    """How long ago, in the largest unit that fits: "12s", "3m", "2h", "5d"; "-" when never."""
    if since_ms <= 0:
        return "-"
    seconds = max(0, now_ms - since_ms) // 1000
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
