"""A leaderboard's figures: a radar per family, a heatmap, bars per data set."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmi_plugin.conditions import REFERENCE, get
from mmi_plugin.errors import shorten
from mmi_plugin.files import write_whole
from mmi_plugin.report.board import Key, Leaderboard, Scope, Sweep, sweeps
from mmi_plugin.report.files import FAMILY_LABELS, plain, words
from mmi_plugin.results.estimates import Estimate
from mmi_plugin.results.measures import Measure
from mmi_plugin.results.outcomes import Outcomes

# Okabe and Ito's colours, told apart also by the colour-blind; line styles and hatches tell more apart.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#000000")
_LINES, _HATCHES = ("-", "--", ":", "-."), ("", "//", "..", "xx")
_FORMATS = ("png", "svg")


def save_figures(made: Mapping[str, Figure], folder: Path) -> None:
    """Write figures into `folder` as PNG (200 dots an inch) and SVG."""
    for name, figure in made.items():
        for kind in _FORMATS:
            write_whole(folder / f"{name}.{kind}", _rendered(figure, kind))


def svg_figures(board: Leaderboard) -> dict[str, bytes]:
    """Return every figure by name as an SVG file."""
    return {name: _rendered(figure, "svg") for name, figure in figures(board).items()}


def figures(board: Leaderboard) -> dict[str, Figure]:
    """Return the figures by name, names fit for files: radar_FAMILY, heatmap, bars_TASK; for a sweep
    dose_TASK_CONDITION@STRENGTH in place of bars."""
    with _style():
        radars = {f"radar_{scope.name}": _radar(board, scope) for scope in board.scopes_of("family")}
        doses = dose_figures(board.numbers, board.outcomes)
        bars = {
            f"bars_{scope.name}": _bars(board, scope)
            for scope in board.scopes_of("task")
            if not sweeps(board.outcomes[scope.name].conditions)
        }
        return {name: made for name, made in radars.items() if made} | {"heatmap": _heatmap(board)} | bars | doses


def dose_figures(numbers: Mapping[Key, Estimate], outcomes: Mapping[str, Outcomes]) -> dict[str, Figure]:
    """Return the dose-response curves of every sweep among the data sets `outcomes`, a line per model."""
    scopes = {key.scope.name: key.scope for key in numbers if key.scope.kind == "task"}
    with _style():
        return {
            f"dose_{task}_{sweep.title}": _dose(numbers, scope, outcomes[task], sweep)
            for task, scope in scopes.items()
            for sweep in sweeps(outcomes[task].conditions)
        }


@contextmanager
def _style() -> Iterator[None]:
    """Names are shown as they are, never as mathematics; one board always gives one file."""
    settings = {"text.parse_math": False, "svg.hashsalt": "mmi", "font.size": 9, "axes.axisbelow": True}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def _rendered(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    with _style():
        figure.savefig(
            buffer, format=kind, dpi=200, bbox_inches="tight", metadata={"Date": None} if kind == "svg" else {}
        )
    return buffer.getvalue()


def _radar(board: Leaderboard, family: Scope) -> Figure | None:
    """Return accuracies of a family, one spoke per data set and condition; None with fewer than three."""
    spokes = _accuracies(board, family.tasks)
    if len(spokes) < 3:
        return None
    figure = Figure(figsize=(5.5, 4.5))
    axes = figure.add_subplot(projection="polar")
    angles = np.linspace(0, 2 * np.pi, len(spokes), endpoint=False)
    for name, colour, line, _ in _looks(board.names):
        shares = [100 * board.numbers[Key(name, scope, measure)].value for scope, measure in spokes]
        closed = [*angles, angles[0]], [*shares, shares[0]]
        axes.plot(*closed, color=colour, linestyle=line, label=_short(name))
        axes.fill(*closed, color=colour, alpha=0.08)
    axes.set_xticks(angles, [_spoke(scope, measure, len(family.tasks) > 1) for scope, measure in spokes])
    for spoke, angle in zip(axes.get_xticklabels(), angles, strict=True):
        side = np.cos(angle)
        spoke.set_horizontalalignment("left" if side > 0.1 else "right" if side < -0.1 else "center")
    axes.set_ylim(0, 100)
    axes.set_title(f"{FAMILY_LABELS[family.name]}: accuracy in percent (* not used in training)", pad=24)
    axes.legend(loc="upper left", bbox_to_anchor=(1.15, 1.05), frameon=False)
    return figure


def _heatmap(board: Leaderboard) -> Figure:
    """Return accuracies, a line per data set and condition, a column per model."""
    lines = _accuracies(board, tuple(scope.name for scope in board.scopes_of("task")))
    shares = np.array([[100 * board.numbers[Key(name, *line)].value for name in board.names] for line in lines])
    figure = Figure(figsize=(2.5 + 0.9 * len(board.names), 1 + 0.3 * len(lines)))
    axes = figure.add_subplot()
    shown = axes.imshow(shares, cmap="cividis", vmin=0, vmax=100, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share < 55 else "black"
        axes.text(column, row, f"{share:.1f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(board.names)), [_short(name) for name in board.names], rotation=30, ha="right")
    axes.set_yticks(range(len(lines)), [_spoke(scope, measure, True) for scope, measure in lines])
    figure.colorbar(shown, label="accuracy in percent")
    return figure


def _bars(board: Leaderboard, scope: Scope) -> Figure:
    """Return accuracies by condition and the worst case of one data set, with 95% intervals."""
    measures = [measure for _, measure in _accuracies(board, scope.tasks)]
    measures += [Measure("worst_case")] * (len(measures) > 1)
    names = sorted(board.names, key=lambda name: name != board.baseline)  # before stands first
    figure = Figure(figsize=(2 + 0.9 * len(measures) * max(1, len(names) / 3), 3.2))
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    looks = {name: (colour, hatch) for name, colour, _, hatch in _looks(board.names)}
    for index, name in enumerate(names):
        places = np.arange(len(measures)) + (index + 0.5) * width - 0.4
        _bar(
            axes,
            places,
            width,
            [board.numbers[Key(name, scope, m)] for m in measures],
            _short(name),
            *looks[name],
        )
    axes.set_xticks(range(len(measures)), [_under(measure) for measure in measures])
    axes.set_ylim(0, 105)
    axes.set_ylabel("accuracy in percent")
    axes.grid(axis="y", alpha=0.4)
    axes.set_title(f"{scope.name}, n = {len(board.outcomes[scope.name].items)} items (* not used in training)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _bar(
    axes: Axes, places: np.ndarray, width: float, estimates: Sequence[Estimate], label: str, colour: str, hatch: str
) -> None:
    shares = 100 * np.array([estimate.value for estimate in estimates])
    reach = 100 * np.array([[e.value - e.low, e.high - e.value] for e in estimates]).T
    style = {"color": colour, "hatch": hatch, "edgecolor": "white"}
    axes.bar(places, shares, width, label=label, yerr=reach.clip(0), error_kw={"elinewidth": 1}, **style)


def _dose(numbers: Mapping[Key, Estimate], scope: Scope, outcomes: Outcomes, sweep: Sweep) -> Figure:
    """Return accuracy and flip rate over the values of one strength, with 95% intervals; a thin line is
    the accuracy under the reference."""
    figure = Figure(figsize=(9, 3.4))
    left, right = figure.subplots(1, 2)
    reference = REFERENCE[outcomes.family]
    places = list(sweep.names) if all(isinstance(value, int) for value in sweep.names) else range(len(sweep.names))
    for name, colour, line, _ in _looks(dict.fromkeys(key.model for key in numbers)):
        for axes, measure in ((left, "accuracy"), (right, "flip_rate")):
            found = [numbers[Key(name, scope, Measure(measure, c))] for c in sweep.names.values()]
            shares, low, high = (100 * np.array([getattr(e, end) for e in found]) for end in ("value", "low", "high"))
            axes.plot(places, shares, color=colour, linestyle=line, marker="o", markersize=4, label=_short(name))
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
        plain_accuracy = numbers[Key(name, scope, Measure("accuracy", reference))].value
        left.axhline(100 * plain_accuracy, color=colour, linestyle=line, linewidth=0.8, alpha=0.7)
    for axes, label in ((left, "accuracy in percent"), (right, "flip rate in percent")):
        axes.set_xticks(places, [str(value) for value in sweep.names])
        axes.set_xlabel(words(sweep.parameter))
        axes.set_ylabel(label)
        axes.set_ylim(-3, 103)
        axes.grid(alpha=0.4)
    n = len(outcomes.items)
    left.set_title(f"{words(sweep.condition)}, n = {n} items (thin: {words(reference)})", loc="left")
    right.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return figure


def _accuracies(board: Leaderboard, tasks: Sequence[str]) -> list[tuple[Scope, Measure]]:
    """Return (data set, accuracy under a condition) for every condition of `tasks`."""
    return [
        (scope, Measure("accuracy", condition))
        for scope in board.scopes_of("task")
        if scope.name in tasks
        for condition in board.outcomes[scope.name].conditions
    ]


def _looks(names: Iterable[str]) -> Iterator[tuple[str, str, str, str]]:
    """Yield (name, colour, line style, hatch) of every model; no two alike among the first 28."""
    for index, name in enumerate(names):
        again = index // len(_COLOURS) % len(_LINES)
        yield name, _COLOURS[index % len(_COLOURS)], _LINES[again], _HATCHES[again]


def _short(name: str) -> str:
    return shorten(plain(name), 40)


def _under(measure: Measure) -> str:
    if measure.condition is None:
        return "worst\ncase"
    return words(measure.condition).replace(" ", "\n") + ("" if get(measure.condition).seen else "*")


def _spoke(scope: Scope, measure: Measure, several: bool) -> str:
    under = _under(measure).replace("\n", " ")
    return f"{scope.name.removeprefix('mmi_')}, {under}" if several else under
