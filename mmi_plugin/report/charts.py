"""Geometry of the page's charts, in the units of their SVG view boxes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from mmi_plugin.report.scores import Cell

PANEL_LEFT, PANEL_RIGHT, PANEL_WIDTH = 64, 270, 330
PANEL_TOP, ROW_HEIGHT = 8, 21


@dataclass(frozen=True)
class DotRow:
    """One training row of a panel: its line, a dot per seed, its mean."""

    name: str
    y: float
    dots: tuple[float, ...]
    mean_x: float
    mean: float


@dataclass(frozen=True)
class Panel:
    """A dot plot of one measure; `ticks` are (x, share), `baseline` is the first row's mean."""

    rows: tuple[DotRow, ...]
    ticks: tuple[tuple[float, float], ...]
    baseline: float
    bottom: float
    height: float


def dot_panel(cells: Mapping[str, Cell]) -> Panel:
    """Return the dot plot of one measure over the training rows, on an axis cut at tens of percent."""
    low, high = axis([value for cell in cells.values() for value in cell.values])

    def x(share: float) -> float:
        return PANEL_LEFT + (share - low) / (high - low) * (PANEL_RIGHT - PANEL_LEFT)

    rows = tuple(
        DotRow(name, PANEL_TOP + (i + 0.5) * ROW_HEIGHT, tuple(map(x, cell.values)), x(cell.mean), cell.mean)
        for i, (name, cell) in enumerate(cells.items())
    )
    bottom = PANEL_TOP + len(rows) * ROW_HEIGHT
    ticks = tuple((x(share), share) for share in (low, (low + high) / 2, high))
    return Panel(rows, ticks, rows[0].mean_x, bottom, bottom + 20)


def axis(values: list[float]) -> tuple[float, float]:
    """Return the tens of percent around `values`, at least 10 points apart."""
    low = min(math.floor(round(10 * min(values), 9)), 9)
    high = max(math.ceil(round(10 * max(values), 9)), low + 1)
    return low / 10, high / 10
