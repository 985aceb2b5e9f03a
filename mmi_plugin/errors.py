"""What is said to users in one line, and untrusted text made fit to be shown."""

from __future__ import annotations

import difflib
import signal
import sys
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """Bad input, said in one line that names the file, row and field."""


class BadRows:
    """What becomes of a bad row: its error stops the run, or is noted in `lines` and the row left out.

    counts: what is odd about rows that are kept -> how many of them.
    """

    def __init__(self, skip: bool = False) -> None:
        self.lines: list[str] = []
        self.counts: Counter[str] = Counter()
        self._skip = skip

    def anew(self) -> BadRows:
        """Return the same for others, with no lines and counts yet."""
        return BadRows(self._skip)

    def hear(self, lines: Iterable[str], counts: Mapping[str, int] | None = None) -> None:
        """Note bad rows and counts that were found before. Raises InputError for the first row where one stops the
        run."""
        self.counts.update(counts or {})
        for line in lines:
            with self.watch():
                raise InputError(line)

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Within, an InputError is about one row."""
        try:
            yield
        except InputError as error:
            if not self._skip:
                raise
            self.lines.append(str(error))


class Stopped(KeyboardInterrupt):
    """The process was asked to end. `status`: what it ends with."""

    status = 128 + signal.SIGTERM


@contextmanager
def stoppable() -> Iterator[None]:
    """Within, SIGTERM raises Stopped, as Ctrl-C raises KeyboardInterrupt, so that both can be answered in one line."""

    def stop(*_: Any) -> None:
        raise Stopped("SIGTERM")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def stopped(stop: KeyboardInterrupt) -> tuple[str, int]:
    """Return by what a process was asked to end, and the status that it ends with."""
    return ("SIGTERM", stop.status) if isinstance(stop, Stopped) else ("Ctrl-C", 128 + signal.SIGINT)


def nearest(name: str, valid: Iterable[str]) -> str:
    """Return a hint for a misspelt `name`: the nearest valid one, or all of them."""
    options = sorted(valid)
    close = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"valid: {', '.join(options)}"


# Marks that reorder or hide what stands around them; joiners are left alone, as scripts need them.
_DECEPTIVE = frozenset(
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)


def visible(text: str) -> str:
    """Return `text` with control characters, direction marks and lone surrogates spelt out as ⟨U+202E⟩."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if _hidden(c) else c for c in text)


def plain(text: str) -> str:
    """Return `text` on one line, hidden characters spelt out: what may be printed, whoever wrote it."""
    return " ".join(visible(text).split())


def complain(error: object) -> None:
    """Say on stderr, in one line, what was wrong: control characters of whoever wrote a part of it are spelt out."""
    print(f"error: {plain(str(error))}", file=sys.stderr)


def _hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _DECEPTIVE or unicodedata.category(character) in ("Cc", "Cs")


def shorten(text: str, limit: int) -> str:
    """Return `text`, cut at `limit` characters with a remark of its full length."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters in all)"
