"""Rows that are too long, or that the chat template does not take, found before training."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import product

from PIL import Image
from transformers import ProcessorMixin

from mmi_plugin import prompts
from mmi_plugin.errors import InputError
from mmi_plugin.items import Item
from mmi_plugin.models.families import prompts_of
from mmi_plugin.pictures import Picture
from mmi_plugin.trainers.collator import GroupCollator
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.groups import Group

SIDES = (64, 4096)  # pixels: no image has more tokens than one of such sides
SEAM = 4  # tokens by which those around an image may differ from text without it
_STAND_IN = Image.new("RGB", (32, 32))


class LengthCheck:
    """Holds items against `max_length`. Most need no image for it, and many no tokenizer: a text has no
    more tokens than bytes, an image no more than the largest."""

    def __init__(self, args: MMIConfig, processor: ProcessorMixin) -> None:
        self._most = args.max_length
        turns = {"system_prompt": args.system_prompt, "chat_template_kwargs": args.chat_template_kwargs}
        self._exact = GroupCollator(processor, args.max_length, args.data_seed, **turns)
        self._loose = GroupCollator(processor, None, args.data_seed, **turns)
        self._prompts = prompts_of(processor, *turns.values())
        self._turn = len(self._prompts.said(self._prompts.chat(Item("", "vqa", "", ""), "")).text.encode())
        self._turns = {0}  # of earlier turns, numbers that the chat template is known to render
        self._image = self._most_image_tokens() if self._most else 0

    def check(self, item: Item, draw: Callable[[Item], Group], where: str) -> None:
        """Raise an InputError that begins with `where` if a row of the item has too many tokens, or earlier turns
        that the chat template refuses or rewrites.

        draw: from the item, or the item with another image, to its group.
        """
        if len(item.history) not in self._turns:
            self._check_turns(item, where)
        if self._most is None:
            return
        # Conditions that add text do not look at the image, and would decode it.
        light = draw(replace(item, image=_STAND_IN) if isinstance(item.picture, Picture) else item)
        room = self._most - self._image * max(len(row.pictures) for row in light.rows)
        if max(map(_bytes, light.rows)) + self._turn * (1 + len(item.history)) <= room:
            return
        try:
            if self._tokens(light) > room:
                self._exact([draw(item)])
        except InputError as error:
            longest = max(("answer", "question"), key=lambda name: len(getattr(item, name)))
            raise InputError(f"{where}: field '{longest}': {error}") from error

    def _check_turns(self, item: Item, where: str) -> None:
        try:
            self._prompts.said(self._prompts.chat(replace(item, image=None), prompts.target(item)), f"item {item.id}")
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        self._turns.add(len(item.history))

    def _tokens(self, group: Group) -> int:
        """Return the tokens of the group's longest row without its images."""
        bare = tuple(replace(row, image=None, added_images=()) for row in group.rows)
        return self._loose([replace(group, rows=bare)])["input_ids"].shape[1]

    def _most_image_tokens(self) -> int:
        tokens = []
        for width, height in product(SIDES, SIDES):
            item = Item("probe", "vqa", "?", "?", image=Image.new("RGB", (width, height)))
            # A processor refuses shapes that it cannot scale, which no row can then have either.
            with suppress(ValueError, ZeroDivisionError):
                tokens.append(self._loose([Group("", "vqa", (item,))])["input_ids"].shape[1])
        return max(tokens, default=0) - self._tokens(Group("", "vqa", (Item("probe", "vqa", "?", "?"),))) + SEAM


def _bytes(row: Item) -> int:
    texts = [prompts.user_text(row), prompts.target(row), *(text for turn in row.history for text in turn)]
    return sum(len(text.encode()) for text in texts)
