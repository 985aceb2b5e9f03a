"""A board in; in sentences what stands beside its ranking: whether VQA was harmed, which modality wins a conflict."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mmi_plugin.conditions import REFERENCE
from mmi_plugin.errors import plain
from mmi_plugin.report.board import Leaderboard
from mmi_plugin.results.measures import Measure
from mmi_plugin.results.reliance import reliance

_WIDTH = 120


def remarks(board: Leaderboard, margin: float) -> str:
    """Return the remarks, a paragraph each, "" where there are none. margin: how much worse VQA may get, in points."""
    lines = [*_not_harmed(board, margin), *_conflicts(board)]
    return "\n".join(part for line in lines for part in textwrap.wrap(plain(line), _WIDTH))


def _not_harmed(board: Leaderboard, margin: float) -> Iterator[str]:
    """Yield, for each VQA task, the accuracy of each model against the baseline's as a test of non-inferiority."""
    for key, change in board.changes.items():
        task = key.scope.name
        if key.scope.kind != "task" or board.outcomes[task].family != "vqa":
            continue
        if key.measure == Measure("accuracy", REFERENCE["vqa"]):
            shown = "shown" if change.not_worse_by(margin / 100) else "not shown"
            low, high = 100 * change.low, 100 * change.high
            yield (
                f"{key.model} is no more than {margin:g} points worse than {board.baseline} on {task}: {shown} "
                f"({100 * change.value:+.1f} points [{low:+.1f}, {high:+.1f}]; {change.n} items "
                f"find differences from {100 * change.detectable:.1f} points on in four of five cases)."
            )


def _conflicts(board: Leaderboard) -> Iterator[str]:
    """Yield, for each model and task that was asked for it, which modality is followed where they conflict."""
    for run in board.runs:
        for task, outcomes in run.outcomes.items():
            if (found := reliance(outcomes)) is None:
                continue
            balance = (
                ""
                if found.balance is None
                else (f"; as many follow either at a relative uncertainty of the text of {found.balance:+.2f}")
            )
            yield (
                f"{run.name} on {task}: of {found.n} items on which image and text alone lead to different options, "
                f"{100 * found.text_ratio:.1f}% follow the text{balance}."
            )
