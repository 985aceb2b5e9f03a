"""Settings of a task or a training in, the pools and the prompts that its conditions then have out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from mmi_plugin.conditions import Pools, get
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import read_text
from mmi_plugin.item import Form
from mmi_plugin.sources.registry import pool_images

NONE = "none"
CHOICES = {
    "sentence_draw": ("distinct", "any"),
    "fact_text": ("composed", "as_given"),
    "question_header": ("all", "choices", NONE),
}
PUBLISHED: dict[str, int | str] = {
    "pool": "$MMI_DATA_ROOT/published/irrelevant_images",
    "draws": 2**31,
    "canvas": 336,
    "unrelated_texts": "$MMI_DATA_ROOT/published/unrelated_texts.txt",
    "sentence_draw": "any",
    "fact_text": "as_given",
    "system_text": "$MMI_DATA_ROOT/published/system_text.txt",
    "closing_text": NONE,
    "question_header": "choices",
}
"""What the published code has; its wording comes from files of the user."""
ACTS_ON = {
    "pool": ("irrelevant_image", "both"),
    "draws": ("random_pixels", "screenshot", "irrelevant_image", "both"),
    "canvas": (
        *("random_pixels", "black", "white", "screenshot"),
        *("misleading_image", "matching_image", "rendered_question"),
    ),
    "unrelated_texts": ("unrelated_text", "both"),
    "sentence_draw": ("unrelated_text", "both"),
    "fact_text": ("misleading_text",),
}
"""Setting -> the conditions that it changes; the others change every prompt."""
PROFILES = {"published": PUBLISHED}


def acting(settings: Mapping[str, Any], conditions: Iterable[str]) -> dict[str, Any]:
    """Return those of `settings` that change a prompt or an image of one of `conditions`."""
    kinds = {get(name).kind for name in conditions}
    return {name: value for name, value in settings.items() if not kinds.isdisjoint(ACTS_ON.get(name, kinds))}


def settings_in(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a task's `dataset_kwargs` that are settings of materials."""
    return {name: options[name] for name in SETTINGS if name in options}


def profile(name: str, conditions: Iterable[str]) -> dict[str, Any]:
    """Return the settings of a profile that act on `conditions`. Raises InputError for an unknown profile."""
    if name not in PROFILES:
        raise InputError(f"key 'profile' is {name!r}: {nearest(name, PROFILES)}")
    return acting(PROFILES[name], conditions)


@dataclass(frozen=True)
class Materials:
    """What a user may set of the pools and prompts of a data set; None leaves them as they are.

    pool: a folder of images or a source: irrelevant photographs. draws: from how many images a condition draws, at
    most. canvas: side in pixels of noise, black and white images. unrelated_texts: a file of sentences, one a line.
    sentence_draw: `distinct` sentences that mention no option of the item, or `any`, with replacement. fact_text:
    `composed` of a caption and a fact on the option it names, or `as_given`: an item's first fact and nothing else.
    system_text: a file with the system turn of items with options. closing_text: a file with the line after the
    options (of free-form `records`, after the question), or `none`. question_header: which items have the line
    "Question:": `all`, those with `choices`, `none`.

    $NAME in a file or folder stands for an environment variable. Raises InputError that begins with the key for a
    value that is none of these; what files hold is found out by `over`.
    """

    pool: str | None = None
    draws: int | None = None
    canvas: int | None = None
    unrelated_texts: str | None = None
    sentence_draw: str | None = None
    fact_text: str | None = None
    system_text: str | None = None
    closing_text: str | None = None
    question_header: str | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            kind = int if name in ("draws", "canvas") else str
            if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
                raise InputError(f"key {name!r} is {value!r}, not {kind.__name__}")
            if value is not None and name in CHOICES and value not in CHOICES[name]:
                raise InputError(f"key {name!r} is {value!r}: {nearest(value, CHOICES[name])}")
        if self.draws is not None and self.draws < 1:
            raise InputError(f"key 'draws' is {self.draws}, not a positive number")
        if self.canvas is not None and not 8 <= self.canvas <= 4096:
            raise InputError(f"key 'canvas' is {self.canvas}, not from 8 to 4096 pixels")

    def to_dict(self) -> dict[str, int | str]:
        """Return what is set."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    def over(self, pools: Pools) -> Pools:
        """Return `pools` with what is set. Raises InputError that begins with the key for a file that is not there,
        cannot be read or holds nothing."""
        changed: dict[str, Any] = {}
        if self.pool is not None:
            changed["images"] = pool_images(_place("pool", self.pool))
        if self.draws is not None:
            changed |= {"images": changed.get("images", pools.images)[: self.draws], "draws": self.draws}
        if self.canvas is not None:
            changed["canvas"] = self.canvas
        if self.unrelated_texts is not None:
            lines = _text("unrelated_texts", self.unrelated_texts).splitlines()
            changed["sentences"] = tuple(line.strip() for line in lines if line.strip())
        if self.sentence_draw is not None:
            changed["any_sentence"] = self.sentence_draw == "any"
        if self.fact_text is not None:
            changed["facts_as_given"] = self.fact_text == "as_given"
        form = self._form(pools.form)
        if form != pools.form:
            changed["form"] = form
        return replace(pools, **changed) if changed else pools

    def _form(self, form: Form) -> Form:
        changed: dict[str, str] = {}
        if self.system_text is not None:
            changed["system"] = "" if self.system_text == NONE else _text("system_text", self.system_text)
        if self.closing_text is not None:
            closing = "" if self.closing_text == NONE else _text("closing_text", self.closing_text)
            changed |= {"closing": closing, **({"brief": closing} if form.brief else {})}
        if self.question_header is not None:
            changed["header"] = self.question_header
        return replace(form, **changed)


SETTINGS = tuple(field.name for field in fields(Materials))


def _place(key: str, value: str) -> str:
    """Return a path with its environment variables put in. Raises InputError for one that is not set."""
    whole = os.path.expandvars(value)
    if "$" in whole:
        raise InputError(f"key {key!r} is {value!r}, and that environment variable is not set: give {key} a path")
    return whole


def _text(key: str, value: str) -> str:
    """Return the text of a user's file, stripped. Raises InputError when there is none."""
    text = read_text(Path(_place(key, value)), f"key {key!r} is {value!r}").strip()
    if not text:
        raise InputError(f"key {key!r} is {value!r}: the file is empty")
    return text
