"""Bars of medians with whiskers from the least to the most, as a PNG."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

_WIDTH, _ROW, _TITLE, _MARGIN = 620, 22, 30, 14
_NAME_WIDTH, _VALUE_WIDTH = 120, 80
_INK, _OURS, _THEIRS, _WHISKER = "#222222", "#d1602c", "#8aa4b8", "#444444"


@dataclass(frozen=True, slots=True)
class Panel:
    """One group of bars; `samples` of each name."""

    title: str
    names: Sequence[str]
    samples: Sequence[Sequence[float]]

    @property
    def height(self) -> int:
        return _TITLE + _ROW * len(self.names) + _MARGIN


def draw(panels: Sequence[Panel], to: Path) -> None:
    """Two columns: rates on the left, what they cost on the right."""
    pairs = [panels[number : number + 2] for number in range(0, len(panels), 2)]
    height = sum(max(panel.height for panel in pair) for pair in pairs) + 2 * _MARGIN
    image = Image.new("RGB", (2 * _WIDTH + _MARGIN, height), "white")
    pen = ImageDraw.Draw(image)
    top = _MARGIN
    for pair in pairs:
        for column, panel in enumerate(pair):
            _draw_panel(pen, panel, column * _WIDTH + _MARGIN, top)
        top += max(panel.height for panel in pair)
    image.save(to, optimize=True)


def _draw_panel(pen: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    title, plain = ImageFont.load_default(14), ImageFont.load_default(12)
    pen.text((left, top), panel.title, _INK, title)
    bars_left = left + _NAME_WIDTH
    most = max(max(values) for values in panel.samples)
    scale = (_WIDTH - _NAME_WIDTH - _VALUE_WIDTH - _MARGIN) / most
    for row, (name, values) in enumerate(zip(panel.names, panel.samples, strict=True)):
        y = top + _TITLE + row * _ROW
        median = statistics.median(values)
        ends = [bars_left + round(value * scale) for value in (min(values), median, max(values))]
        pen.text((left, y), name, _INK, plain)
        colour = _OURS if name == "sidecar" else _THEIRS
        pen.rectangle((bars_left, y, ends[1], y + _ROW - 8), colour)
        middle = y + (_ROW - 8) // 2
        pen.line((ends[0], middle, ends[2], middle), _WHISKER)
        for end in (ends[0], ends[2]):
            pen.line((end, middle - 4, end, middle + 4), _WHISKER)
        pen.text((ends[2] + 6, y), _short(median), _INK, plain)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
