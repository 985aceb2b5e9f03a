"""Conditions: pure functions that change only the modality that must not matter."""

from mmi_plugin.conditions import attack as _attack  # noqa: F401  (registers its conditions)
from mmi_plugin.conditions import given as _given  # noqa: F401
from mmi_plugin.conditions import image as _image  # noqa: F401
from mmi_plugin.conditions import text as _text  # noqa: F401
from mmi_plugin.conditions.pools import Pools
from mmi_plugin.conditions.registry import (
    CONDITIONS,
    FLOOR,
    IN_IMAGE,
    REFERENCE,
    Condition,
    check_names,
    condition,
    fitting,
    for_family,
    get,
    perturbing,
)

__all__ = [
    "CONDITIONS",
    "FLOOR",
    "IN_IMAGE",
    "REFERENCE",
    "Condition",
    "Pools",
    "check_names",
    "condition",
    "fitting",
    "for_family",
    "get",
    "perturbing",
]
