"""Untrusted text (prompts, model output, names) made fit to be shown."""

from __future__ import annotations

import unicodedata

# Marks that reorder or hide what stands around them; joiners are left alone, as scripts need them.
_DECEPTIVE = frozenset(
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
)


def visible(text: str) -> str:
    """Return `text` with control characters, direction marks and lone surrogates spelt out as ⟨U+202E⟩."""
    return "".join(f"⟨U+{ord(c):04X}⟩" if _hidden(c) else c for c in text)


def _hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _DECEPTIVE or unicodedata.category(character) in ("Cc", "Cs")


def shorten(text: str, limit: int) -> str:
    """Return `text`, cut at `limit` characters with a remark of its full length."""
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters in all)"
