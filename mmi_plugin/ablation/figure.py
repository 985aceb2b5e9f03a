"""The figure of a sweep: a panel per axis, a line per outcome."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmi_plugin.ablation.analysis import OUTCOMES, Analysis
from mmi_plugin.ablation.plan import OWN, Axis, Setting

# Okabe and Ito's colours, told apart also by the colour-blind; markers tell them apart in print.
_LOOKS = (("#0072b2", "o"), ("#e69f00", "s"), ("#009e73", "^"))
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
    figure.legend(handles, labels, loc="outside upper center", ncols=len(OUTCOMES), frameon=False)
    return figure


def _draw(panel: Axes, axis: Axis, analysis: Analysis) -> None:
    settings = [OWN if value == axis.own else Setting(axis.field, value) for value in axis.values]
    places = np.arange(len(settings))
    own = axis.values.index(axis.own)
    panel.axvspan(own - 0.4, own + 0.4, color="0.92", linewidth=0)
    for shift, outcome, (colour, marker) in zip((-0.08, 0, 0.08), OUTCOMES, _LOOKS, strict=True):
        found = [analysis.numbers[setting, outcome].estimate for setting in settings]
        shares = 100 * np.array([one.value for one in found])
        reach = 100 * np.array([[one.value - one.low, one.high - one.value] for one in found]).T.clip(0)
        panel.errorbar(
            places + shift, shares, reach, color=colour, marker=marker, markersize=4, capsize=2, label=outcome.label
        )
    panel.set_xticks(places, axis.values)
    panel.set_xlim(-0.5, len(settings) - 0.5)
    panel.set_title(axis.name if axis.name == axis.field else f"{axis.name} ({axis.field})", fontsize=9)
    panel.grid(axis="y", alpha=0.4)
