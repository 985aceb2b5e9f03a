"""Rows that are too long, found before training."""

from __future__ import annotations

from PIL import Image
from transformers import ProcessorMixin

from mmi_plugin import prompts
from mmi_plugin.errors import InputError
from mmi_plugin.items import Item
from mmi_plugin.trainers.collator import GroupCollator
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.families import family_of
from mmi_plugin.trainers.groups import Group

SIDES = (64, 4096)  # pixels: no image has more tokens than one of such sides


class LengthCheck:
    """Holds groups against `max_length`. A group that cannot be too long, as a text has no more tokens
    than bytes, is not tokenized for it."""

    def __init__(self, args: MMIConfig, processor: ProcessorMixin) -> None:
        self._most = args.max_length
        self._collate = GroupCollator(processor, args.max_length, args.data_seed)
        self._turn = _turn_bytes(processor)
        self._fixed = self._turn + _longest_probe(processor)

    def check(self, group: Group, where: str) -> None:
        """Raise an InputError that begins with `where` if a row of the group has too many tokens."""
        earlier = len(group.rows[0].history) * self._turn
        shown = max(1, *(len(row.pictures) for row in group.rows))
        if self._most is None or max(map(_bytes, group.rows)) + earlier + shown * self._fixed <= self._most:
            return
        try:
            self._collate([group])
        except InputError as error:
            item = group.rows[0]
            longest = max(("answer", "question"), key=lambda name: len(getattr(item, name)))
            raise InputError(f"{where}: field '{longest}': {error}") from error


def _bytes(row: Item) -> int:
    texts = [prompts.user_text(row), prompts.target(row), *(text for turn in row.history for text in turn)]
    return sum(len(text.encode()) for text in texts)


def _turn_bytes(processor: ProcessorMixin) -> int:
    """Return what the chat template adds to a turn at most, in bytes."""
    return len(family_of(processor).render(Item("", "vqa", "", ""))[-1].encode())


def _longest_probe(processor: ProcessorMixin) -> int:
    """Return the tokens of a row with hardly any text and the image that becomes most tokens."""
    images = [Image.new("RGB", (width, height)) for width in SIDES for height in SIDES]
    probes = [Group("", "vqa", (Item("probe", "vqa", "?", "?", image=image),)) for image in images]
    collate = GroupCollator(processor, None, 0)
    return max(len(collate([probe])["input_ids"][0]) for probe in probes)
