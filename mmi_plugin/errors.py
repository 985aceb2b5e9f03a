"""The one exception for input that a user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input, said in one line that names the file, row and field."""


class BadRows:
    """What becomes of a bad row: its error stops the run, or is noted in `lines` and the row left out."""

    def __init__(self, skip: bool = False) -> None:
        self.lines: list[str] = []
        self._skip = skip

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Within, an InputError is about one row."""
        try:
            yield
        except InputError as error:
            if not self._skip:
                raise
            self.lines.append(str(error))


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint for a misspelt `name`: the nearest valid one, or all of them."""
    options = sorted(valid)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(options)}"
