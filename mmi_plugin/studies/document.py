"""An analysis in; a figure, and a document with tables and the sentences that its numbers make, out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmi_plugin.report.files import interval, p_value
from mmi_plugin.results.estimates import Difference, Estimate
from mmi_plugin.studies.analysis import Analysis, Endpoint, Trial
from mmi_plugin.studies.demo import TASKS
from mmi_plugin.studies.plan import BASE, OWN, Axis, Setting

# Okabe and Ito's colours, told apart also by the colour-blind; markers tell them apart in print.
_LOOKS = (("#0072b2", "o"), ("#e69f00", "s"), ("#009e73", "^"), ("#cc79a7", "D"), ("#56b4e9", "v"), ("#d55e00", "P"))
_WIDE = 12  # characters of a value that fit below a panel in one line
_COLUMNS = 4


def sweep_figure(axes: Sequence[Axis], analysis: Analysis) -> Figure:
    """Return shares in percent over each axis's values, with 95% intervals; the config's own value is shaded."""
    rows = -(-len(axes) // _COLUMNS)
    columns = -(-len(axes) // rows)
    figure = Figure(figsize=(1 + 2.9 * columns, 0.8 + 2.6 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
    for panel, axis in zip(panels, axes, strict=False):
        _draw(panel, axis, analysis)
    for panel in panels[len(axes) :]:
        panel.set_axis_off()
    for row in range(rows):
        figure.axes[row * columns].set_ylabel("percent")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(analysis.endpoints), 3), frameon=False)
    return figure


def _draw(panel: Axes, axis: Axis, analysis: Analysis) -> None:
    settings = [OWN if value == axis.own else Setting(axis.field, value) for value in axis.values]
    places = np.arange(len(settings))
    own = axis.values.index(axis.own)
    panel.axvspan(own - 0.4, own + 0.4, color="0.92", linewidth=0)
    shifts = 0.08 * (np.arange(len(analysis.endpoints)) - (len(analysis.endpoints) - 1) / 2)
    for shift, endpoint, (colour, marker) in zip(shifts, analysis.endpoints, cycle(_LOOKS), strict=False):
        found = [analysis.numbers[setting, endpoint] for setting in settings]
        shares = 100 * np.array([one.value for one in found])
        reach = 100 * np.array([[one.value - one.low, one.high - one.value] for one in found]).T.clip(0)
        style = {"color": colour, "marker": marker, "markersize": 4, "capsize": 2, "label": endpoint.label}
        panel.errorbar(places + shift, shares, reach, linestyle="-" if _are_numbers(axis.values) else "none", **style)
    panel.set_xticks(places, [v.replace(":", "\n").replace("_", " ") if len(v) > _WIDE else v for v in axis.values])
    panel.set_xlim(-0.5, len(settings) - 0.5)
    panel.set_title(axis.name if axis.name == axis.field else f"{axis.name} ({axis.field})", fontsize=9)
    panel.grid(axis="y", alpha=0.4)


def _are_numbers(values: Sequence[str]) -> bool:
    """Whether values are those of a scale, along which a line between two of them means something."""
    try:
        list(map(float, values))
    except ValueError:
        return False
    return True


_INTRO = """One field of `{config}` at a time is changed, everything else is kept; each setting is trained from the
same base with each of {seeds}, and asked {items} validation items under all conditions, those
not used in training among them. *Worst case*: right under every condition of the item.

A cell is the mean over seeds in percent, [its 95% interval], and (lowest to highest seed). Intervals are over items and
seeds: they say what other items and other seeds might change; sweep.json has the interval over items alone, and the
standard deviation between seeds. Tests are over items, an item's value being its mean over seeds. A value *differs*
from the config's own where the paired 95% interval of the difference leaves out 0 and the paired test ({test}) has
p < 0.05 after Holm's correction over all {tests} tests here.
{asked}Attack strength: adversarial minus clean loss in nats, as last logged, mean over seeds."""


TITLE = "Sensitivity: what each part and each number of the method buys"


@dataclass(frozen=True)
class Made:
    """What the document says of how it came about."""

    command: str
    config: str
    seeds: int
    provenance: Mapping[str, Any]
    title: str = TITLE


def document(axes: Sequence[Axis], analysis: Analysis, trials: Sequence[Trial], made: Made, figure: str) -> str:
    """Return the Markdown, which shows the file `figure`."""
    pages = _Pages(analysis, trials)
    items = [f"{len(trials[0].answers[task]['items'])} of {task.removeprefix('mmi_')}" for task in TASKS]
    seeds = f"{made.seeds} seeds (0 to {made.seeds - 1})" if made.seeds > 1 else "1 seed (0)"
    tests = sorted({change.test for change in analysis.changes.values()})
    parts = [
        f"# {made.title}",
        f"Made by this command; do not edit it by hand:\n\n    {made.command}",
        _INTRO.format(
            config=made.config,
            seeds=seeds,
            items=", ".join(items[:-1]) + f" and {items[-1]}",
            test=" or ".join(tests) or "none",
            tests=len(analysis.changes),
            asked=_asked(axes),
        ),
        f"![worst cases and VQA over each axis]({figure})",
        "## In short",
        "\n".join(f"- **{axis.name}**: {pages.short(axis)}" for axis in axes),
        "## The base and the config as it is",
        pages.table("", [("base, not trained", BASE), ("config as it is", OWN)]),
    ]
    for axis in axes:
        rows = [(f"{v} (own)", OWN) if v == axis.own else (v, Setting(axis.field, v)) for v in axis.values]
        parts += [f"## {axis.name}", pages.table(f"`{axis.field}`", rows), "\n".join(pages.sentences(axis))]
    return "\n\n".join([*parts, *_provenance(made)]) + "\n"


def _asked(axes: Sequence[Axis]) -> str:
    """Return what all settings were asked beside the conditions of the tasks."""
    names = list(dict.fromkeys(name for axis in axes for name in axis.asks))
    if not names:
        return ""
    said = "which count in no worst case: whether a model still uses what helps"
    return f"All settings were asked under {_listed(names)}, too, {said}.\n"


class _Pages:
    """Tables and sentences over one analysis."""

    def __init__(self, analysis: Analysis, trials: Sequence[Trial]) -> None:
        self._analysis, self._trials = analysis, trials

    def table(self, head: str, rows: Sequence[tuple[str, Setting]]) -> str:
        labels = [head, *(endpoint.label for endpoint in self._analysis.endpoints), "attack strength"]
        lines = [f"| {' | '.join(labels)} |", "|---" * len(labels) + "|"]
        for name, setting in rows:
            numbers = [_cell(self._analysis.numbers[setting, endpoint]) for endpoint in self._analysis.endpoints]
            lines.append(f"| {' | '.join([name, *numbers, self._strength(setting)])} |")
        return "\n".join(lines)

    def sentences(self, axis: Axis) -> Iterator[str]:
        """Yield a line per value: how it differs from the config's own, endpoint by endpoint."""
        for setting in axis.others:
            said = [f"{o.words} {_said(o, self._analysis.changes[setting, o])}" for o in self._analysis.endpoints]
            yield f"- `{setting.value}` instead of `{axis.own}`: {'; '.join(said)}."

    def short(self, axis: Axis) -> str:
        """Return one or two sentences: what the config's own value buys, or that nothing was found."""
        found = {(s, o): self._analysis.changes[s, o] for s in axis.others for o in self._analysis.endpoints}
        if not found:
            return "no other value was tried."
        if not any(change.differs for change in found.values()):
            others = [setting.value for setting in axis.others]
            return (
                f"{_listed(others)} {'differ' if len(others) > 1 else 'differs'} from `{axis.own}` on none of the"
                f" {len(self._analysis.endpoints)} numbers: within this range the choice makes no difference beyond"
                " chance."
            )
        return " ".join(self._against(axis, setting) for setting in axis.others)

    def _against(self, axis: Axis, setting: Setting) -> str:
        """Return what the own value buys over another one."""
        changes = {endpoint: self._analysis.changes[setting, endpoint] for endpoint in self._analysis.endpoints}
        apart = {o: c for o, c in changes.items() if c.differs}
        gains = [f"buys {_points(o, c)}" for o, c in apart.items() if (c.value < 0) == o.more_is_better]
        costs = [f"costs {_points(o, c)}" for o, c in apart.items() if (c.value < 0) != o.more_is_better]
        same = [endpoint.words for endpoint, change in changes.items() if not change.differs]
        nothing = [f"makes no difference beyond chance on {' and '.join(same)}"] if same else []
        return f"`{axis.own}` over `{setting.value}` {', '.join([*gains, *costs, *nothing])}."

    def _strength(self, setting: Setting) -> str:
        found = [trial.attack_strength for trial in self._trials if trial.setting == setting]
        known = [strength for strength in found if strength is not None]
        return f"{sum(known) / len(known):.2f}" if known else "-"


def _points(endpoint: Endpoint, change: Difference) -> str:
    doubt = "" if change.in_every_seed else " (though not with every seed)"
    less = "" if endpoint.more_is_better else " less" if change.value > 0 else " more"
    return f"{100 * abs(change.value):.1f} points{less} of {endpoint.words}{doubt}"


def _said(endpoint: Endpoint, change: Difference) -> str:
    if not change.n:
        return "has no item that counts for both"
    ends = f"[{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
    number = f"{100 * change.value:+.1f} points {ends}, {p_value(change.p_holm)}"
    if not change.differs:
        return f"{number}, no difference beyond chance"
    doubt = "" if change.in_every_seed else ", though not with every seed"
    return f"{number}, **{'better' if (change.value > 0) == endpoint.more_is_better else 'worse'}**{doubt}"


def _cell(number: Estimate) -> str:
    seeds = number.seeds
    spread = f" ({100 * min(seeds):.1f} to {100 * max(seeds):.1f})" if len(seeds) > 1 else ""
    return f"{interval(number)}{spread}"


def _listed(values: Sequence[str]) -> str:
    return " and ".join(f"`{value}`" for value in values)


def _provenance(made: Made) -> list[str]:
    found = made.provenance
    facts = {
        "base (SHA-256 of its weights)": f"`{found['base']}`",
        "config (SHA-256)": f"`{found['config']}`",
        "fields given on the command line": f"`{' '.join(found['options'])}`" if found["options"] else "none",
        "seeds": str(made.seeds),
        **{name: f"`{digest}`" for name, digest in found["data"].items()},
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
    }
    return [
        "## Provenance",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in facts.items())]),
    ]
