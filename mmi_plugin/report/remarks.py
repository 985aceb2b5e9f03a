"""A board in; in sentences what stands beside its ranking: how it was made, VQA not harmed, which modality wins."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mmi_plugin.answers.agreement import METRICS
from mmi_plugin.conditions import REFERENCE
from mmi_plugin.report.board import Leaderboard, is_primary
from mmi_plugin.results.attacks import warnings
from mmi_plugin.results.measures import Measure
from mmi_plugin.results.runs import differences, unknown

Show = Callable[[str], str]
"""What makes the name of a model or a task fit where it is shown."""


def remarks(board: Leaderboard, show: Show) -> list[str]:
    """Return the remarks on VQA and on conflicts, a sentence each."""
    return [*_not_harmed(board, show), *_conflicts(board, show)]


def _not_harmed(board: Leaderboard, show: Show) -> Iterator[str]:
    """Yield, for each VQA task, the accuracy of each model against the baseline's as a test of non-inferiority."""
    for key, change in board.changes.items():
        task = key.scope.name
        if key.scope.kind != "task" or board.outcomes[task].family != "vqa":
            continue
        if key.measure == Measure("accuracy", REFERENCE["vqa"]):
            shown = "shown" if change.not_worse_by(board.margin / 100) else "not shown"
            low, high = 100 * change.low, 100 * change.high
            yield (
                f"{show(key.model)} is no more than {board.margin:g} points worse than {show(board.baseline)} on "
                f"{show(task)}: {shown} ({100 * change.value:+.1f} points [{low:+.1f}, {high:+.1f}]; {change.n} items "
                f"find differences from {100 * change.detectable:.1f} points on in four of five cases)."
            )


def _conflicts(board: Leaderboard, show: Show) -> Iterator[str]:
    """Yield, for each model and task that was asked for it, which modality is followed where they conflict."""
    for name, task, found in board.reliances:
        balance = (
            ""
            if found.balance is None or abs(found.balance) > 2  # no relative uncertainty is beyond
            else f"; as many follow either at a relative uncertainty of the text of {found.balance:+.2f}"
        )
        low, high, gap = 100 * found.text_ratio.low, 100 * found.text_ratio.high, found.logit_gap
        yield (
            f"{show(name)} on {show(task)}: of {found.n} items on which image and text alone lead to different "
            f"options, {100 * found.text_ratio.value:.1f}% [{low:.1f}, {high:.1f}] follow the text, whose option is "
            f"ahead of the image's by {gap.value:.2f} nats [{gap.low:.2f}, {gap.high:.2f}]{balance}."
        )


def note(board: Leaderboard, show: Show, doubts: bool = True) -> str:
    """Return what a reader must know of the numbers, in one paragraph; doubts: of attacks, too."""
    text = (
        "Percent with 95% intervals over items (Wilson for shares, Tango for their differences, bootstrap for others; "
        "over data sets MOVER), and over seeds where there are several; JS in bits times 100. "
        "Ranked by worst case: right under every condition, mean over the perturbed data sets. * not used in training."
    )
    if board.baseline is not None:
        primary = sum(map(is_primary, board.changes))
        text += (
            f" Δ: difference to {show(board.baseline)} in points, paired by item, with p "
            "(McNemar's exact test; exchanges of the two models for the rest) after Holm's correction over "
            f"{primary} tests of the worst case, and apart from them over {len(board.changes) - primary} others."
        )
    if found := differences(board.runs):
        text += f" Not all were asked in the same way: {'; '.join(one.say(show) for one in found)}."
    text += _free(board, show) + _letters(board, show) + (_doubts(board, show) if doubts else "")
    if lacking := unknown(board.runs):
        text += f" Unknown of some, and so not compared: {', '.join(lacking)}."
    return text


def _free(board: Leaderboard, show: Show) -> str:
    """Return which data sets are free-form, and how their answers were compared."""
    found = {task: outcomes.metric for task, outcomes in board.outcomes.items() if outcomes.metric}
    if not found:
        return ""
    named = "; ".join(f"{show(task)} by {METRICS[metric]}" for task, metric in found.items())
    return (
        f" Free-form answers are scored from 0 to 1: {named}. Their accuracy is the mean score, their worst case the "
        "least of an item; they flip where the metric takes them for different ones and not both are right."
    )


def _letters(board: Leaderboard, show: Show) -> str:
    """Return whose letters, read anew from the answers, were others than logged."""
    text = ""
    for run in board.runs:
        if changed := sum(result.read_anew for result in run.results.values()):
            text += f" {changed} letters of {show(run.name)}, read anew from its answers, are others than logged."
    return text


def _doubts(board: Leaderboard, show: Show) -> str:
    """Return why attacks at evaluation may be weaker than they look."""
    found: list[str] = []
    for run in board.runs:
        for task, result in run.results.items():
            doubts = warnings(result.records, result.conditions)
            found += [f"{show(run.name)}, {show(task)}, {doubt}" for doubt in doubts]
    return f" Attacks to be doubted: {'; '.join(found)}." if found else ""
