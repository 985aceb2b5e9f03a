"""The table for a terminal: training rows down, tasks and conditions across."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from mmi_plugin.report.scores import Cell, Measure, Row, Scores, Task, shown

GAP = " "
RULE = " |"


def table(rows: Sequence[Row], width: int = 120) -> str:
    """Return the rows of `demo.json` as plain text of at most `width` columns.

    Tasks stand side by side while they fit and go on below otherwise. Raises InputError as
    `Scores` does.
    """
    scores = Scores(rows)
    columns = [_Column(scores, task, measure) for task in scores.tasks for measure in task.measures()]
    name_width = max(len(shown(name)) for name in scores.names)
    blocks = [_block(scores, block, name_width) for block in _pack(columns, width - name_width)]
    return "\n\n".join([*blocks, "\n".join(_notes(scores, width))]) + "\n"


class _Column:
    """The header lines and cells of one measure, all of one width."""

    def __init__(self, scores: Scores, task: Task, measure: Measure) -> None:
        self.task = task
        label = measure.label + ("*" if measure.unseen else "")
        self.head = _two_lines(label)
        self.cells = _format([scores.cell(name, task, measure) for name in scores.names])
        self.width = max(map(len, [*self.head, *self.cells]))

    def lines(self) -> list[str]:
        return [text.rjust(self.width) for text in (*self.head, *self.cells)]


def _two_lines(label: str) -> tuple[str, str]:
    first, _, rest = label.partition(" ")
    return first, rest


def _format(cells: Sequence[Cell]) -> list[str]:
    """Return the cells as text with their decimal points in one line."""
    means = [f"{100 * cell.mean:.1f}" for cell in cells]
    ranges = [f"±{100 * cell.half_range:.1f}" if len(cell.values) > 1 else "" for cell in cells]
    width = max(map(len, ranges))
    return [mean + half.ljust(width) for mean, half in zip(means, ranges, strict=True)]


def _titles(task: Task) -> tuple[str, str]:
    return task.label, f"n={task.n}"


def _pack(columns: Sequence[_Column], width: int) -> list[list[list[_Column]]]:
    """Return blocks of groups of columns: a group is of one task, a block fits in `width`."""
    blocks: list[list[list[_Column]]] = [[]]
    for group in _groups(columns, width):
        if blocks[-1] and _width([*blocks[-1], group]) > width:
            blocks.append([])
        blocks[-1].append(group)
    return blocks


def _groups(columns: Sequence[_Column], width: int) -> list[list[_Column]]:
    """Return the columns by task, a task that is too wide in several pieces."""
    groups: list[list[_Column]] = []
    for column in columns:
        if groups and groups[-1][-1].task == column.task and _width([[*groups[-1], column]]) <= width:
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _width(block: Sequence[Sequence[_Column]]) -> int:
    return sum(map(_group_width, block)) + len(RULE) * (len(block) - 1)


def _group_width(group: Sequence[_Column]) -> int:
    """The columns' width with their gaps, or the title's where that is longer."""
    return max(sum(len(GAP) + column.width for column in group), len(GAP) + max(map(len, _titles(group[0].task))))


def _block(scores: Scores, block: Sequence[Sequence[_Column]], name_width: int) -> str:
    heads = 4  # two lines of titles, two of labels
    names = [name.ljust(name_width) for name in [*[""] * heads, *map(shown, scores.names)]]
    lines = [name + RULE.join(texts) for name, *texts in zip(names, *map(_group_lines, block), strict=True)]
    rule = "-" * max(map(len, lines))
    return "\n".join(line.rstrip() for line in [*lines[:heads], rule, *lines[heads:]])


def _group_lines(group: Sequence[_Column]) -> list[str]:
    """Return the group's title, header and row lines, all of one width."""
    width = _group_width(group)
    titles = [(GAP + title).ljust(width) for title in _titles(group[0].task)]
    body = ["".join(GAP + text for text in parts) for parts in zip(*(c.lines() for c in group), strict=True)]
    return [*titles, *(text.rjust(width) for text in body)]


def _notes(scores: Scores, width: int) -> list[str]:
    notes = [
        "Accuracy in percent. Worst case: right under every condition. Flip rate: answers that differ from "
        "those under the first condition, mean over the other conditions. * not used in training.",
    ]
    several = sorted({len(scores.seeds(name)) for name in scores.names} - {1})
    if several:
        counts = " or ".join(map(str, several))
        notes.append(f"± half the range over {counts} seeds; figures without ± are of one seed.")
    for task in scores.tasks:
        measure = task.whole("unparseable", "unparseable")
        shares = {name: scores.cell(name, task, measure).mean for name in scores.names}
        found = [f"{shown(name)} {100 * share:.1f}%" for name, share in shares.items() if share]
        if found:
            notes.append(f"Answers without an option on {task.label}, counted as wrong: {', '.join(found)}.")
    return [line for note in notes for line in textwrap.wrap(note, width)]
