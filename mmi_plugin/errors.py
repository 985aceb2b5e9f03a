"""The one exception for input that a user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, said in one line that names the file, row and field."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint for a misspelt `name`: the nearest valid one, or all of them."""
    options = sorted(valid)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(options)}"
