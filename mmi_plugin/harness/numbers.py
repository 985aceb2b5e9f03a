"""The names under which a task's numbers stand in lmms-eval's table and results file."""

from __future__ import annotations

from mmi_plugin.results import Summary


def flatten(summary: Summary) -> dict[str, float]:
    """Return metric name -> number: shares in [0, 1], `items` and `incomplete` as counts."""
    return {
        **{f"accuracy/{name}": share for name, share in summary.accuracy.items()},
        **{f"flip_rate/{name}": share for name, share in summary.flip_rate.items()},
        "worst_case": summary.worst_case,
        "worst_case_seen": summary.worst_case_seen,
        "unparseable": summary.unparseable,
        "cut_off": summary.cut_off,
        "items": summary.items,
        "incomplete": len(summary.incomplete),
    }


def higher_is_better(name: str) -> bool | None:
    """Return the direction of a metric; None for a plain count."""
    if name.startswith("accuracy/") or name in ("worst_case", "worst_case_seen"):
        return True
    return None if name == "items" else False
