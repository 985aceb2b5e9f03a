"""What an item knows about its wrong options: the data set's own sentences, else templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmi_plugin.conditions.text import with_article
from mmi_plugin.errors import InputError
from mmi_plugin.seeding import stream

TEMPLATES = (
    "The outline in the middle is typical of {}.",
    "Its colours are those of {}.",
    "The background is where one would expect {}.",
    "Its size relative to its surroundings fits {}.",
    "The texture of its surface is characteristic of {}.",
    "Most people who see such a picture think of {}.",
    "Encyclopedias illustrate their article on {} with pictures like this one.",
    "Photographs of {} are often taken from this angle.",
)


def template_facts(options: Sequence[str], answer: str) -> dict[str, str]:
    """Return wrong option -> sentence; the same sentence for one option wherever it occurs."""
    wrong = [option for option in options if option != answer]
    return {option: stream("facts", option).choice(TEMPLATES).format(with_article(option)) for option in wrong}


def given_facts(facts: Any, where: str) -> dict[str, str]:
    """Return the facts of a row, without the nulls that a table pads them with."""
    if not isinstance(facts, dict) or not all(isinstance(text, str | None) for text in facts.values()):
        raise InputError(f"{where}: field 'facts' is not a map from option to text")
    return {option: text for option, text in facts.items() if text}
