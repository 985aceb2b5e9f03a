"""Paired statistics over records: per-item values, estimates with intervals, comparisons (method section 1)."""

from mmi_plugin.statistics.comparison import Difference, check_comparable, difference, holm
from mmi_plugin.statistics.estimates import Estimate, estimate
from mmi_plugin.statistics.measures import Measure, PerItem, per_item
from mmi_plugin.statistics.outcomes import Outcomes

__all__ = [
    "Difference",
    "Estimate",
    "Measure",
    "Outcomes",
    "PerItem",
    "check_comparable",
    "difference",
    "estimate",
    "holm",
    "per_item",
]
