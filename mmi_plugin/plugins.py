"""A group of entry points in, the modules that other packages name under it imported, which register what they have."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from mmi_plugin.errors import InputError


@cache
def load_plugins(group: str) -> None:
    """Import every module that installed packages name under `group`, by name; called when names are
    looked up, not at import, as such a module imports ours.

    Raises InputError that names the package and the entry point when one cannot be imported: a run without it would
    not know names that its user relies on.
    """
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            point.load()
        except Exception as error:  # of foreign code, which may raise anything
            package = point.dist.name if point.dist else "a package"
            reason = f"{type(error).__name__}: {error}"
            raise InputError(f"{package}: entry point {group}:{point.name} cannot be loaded: {reason}") from error
