"""Groups in, one right-padded batch of tensors out, through the prompts that inference has, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import ProcessorMixin

from mmi_plugin.attacks.balls import irrelevant
from mmi_plugin.errors import InputError
from mmi_plugin.item import FAMILIES, Item, stream, target
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.prompt import TrainingRow
from mmi_plugin.models.tokens import Tensors as Batch
from mmi_plugin.models.tokens import pad
from mmi_plugin.trainers.groups import Group
from mmi_plugin.trainers.method import IGNORED, origins
from mmi_plugin.trainers.plan import Plan

OWN_COLUMNS = ("items", "labels", "irrelevant", "origin", "seeds", "image_index", "image_tokens", "plan")
"""What a batch holds beside the model's own inputs."""


class GroupCollator:
    """Callable that turns B' groups into a batch of B rows, padded on the right to length L:

    input_ids, attention_mask, labels: (B, L) int64; labels are IGNORED outside the answer, which ends with its end
        token unless `end_token` is false: then no row has it as a label.
    irrelevant: (B, L) bool; the tokens that an adversary may move, method (1), where `attack_text` "after_image"
        and `attack_mask` "all" are its `after_image` and `whole_prompt`.
    items: B item ids. origin: (B,) int64, the row of the group's origin. seeds: (B,) int64, one per row and draw.
    image_index: (images shown, row by row,) int64 into the distinct images of the batch.
    image_tokens: (distinct images,) int64, the placeholder tokens of each.
    plan: Plan, what is known of the batch's passes on the host. With `own_images`, features of an image are each
        row's own; with `at_once`, its layout attends in one call.
    pixel_values and whatever else the image processor gives: one entry per distinct image.
    With `stand_in`, a batch without images has one that no row shows: where weights are sharded or gradients
    averaged, every process must run every part of the model.

    Raises:
        InputError: a row longer than `max_length`, or a chat template from which the answer
            cannot be told apart.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_length: int | None,
        seed: int,
        attack_text: str = "prompt",
        stand_in: bool = False,
        attack_mask: str = "irrelevant",
        system_prompt: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        end_token: bool = True,
        own_images: bool = False,
        at_once: bool = False,
    ) -> None:
        self._prompts = prompts_of(processor, system_prompt, chat_template_kwargs)
        self._prompts.ends_answers = end_token
        self._max_length = max_length
        self._seed = seed
        self._after_image = attack_text == "after_image"
        self._whole_prompt = attack_mask == "all"
        self._own_images, self._at_once = own_images, at_once
        self._stand_in = Image.new("RGB", (32, 32)) if stand_in else None

    def __call__(self, groups: Sequence[Group]) -> Batch:
        """Return the batch, (B, L), of B' groups."""
        rows = [row for group in groups for row in group.rows]
        chats = [self._prompts.chat(row, target(row)) for row in rows]
        batch, expansions = self._images(rows)
        made = self._prompts.rows(chats, expansions, [f"item {row.id}" for row in rows], self._max_length)
        self._check(groups, made)
        input_ids, inside = pad([row.ids for row in made], self._prompts.encoder.padding)
        answer = pad([row.answer for row in made], False)[0].bool()
        family = torch.tensor([FAMILIES.index(row.family) for row in rows])
        image, prompt = input_ids == self._prompts.placeholder_id, inside & ~answer
        streams = [stream("row", self._seed, group.name, i) for group in groups for i in range(len(group.rows))]
        batch |= {
            "input_ids": input_ids,
            "attention_mask": inside.long(),
            "labels": input_ids.masked_fill(~answer, IGNORED),
            "irrelevant": irrelevant(family, image, prompt, self._after_image, self._whole_prompt),
            "origin": origins(torch.tensor([len(group.rows) for group in groups])),
            "items": [row.id for row in rows],
            "seeds": torch.tensor([one.getrandbits(62) for one in streams]),
        }
        batch |= {"plan": Plan.of(batch, self._prompts.placeholder_id, self._own_images).made(self._at_once)}
        return batch | self._prompts.columns(chats, input_ids, answer)

    def _images(self, rows: Sequence[Item]) -> tuple[Batch, list[list[str]]]:
        """Process each distinct image object once; return tensors and each row's placeholder texts."""
        shown = [self._prompts.joined(row.images) for row in rows]
        distinct = {id(image): image for own in shown for image in own}
        if not distinct and self._stand_in is None:
            return {}, [[] for _ in rows]
        number = {key: i for i, key in enumerate(distinct)}
        index = [[number[id(image)] for image in own] for own in shown]
        inputs, texts = self._prompts.images([[image] for image in distinct.values()] or [[self._stand_in]])
        inputs["image_index"] = torch.tensor([i for own in index for i in own], dtype=torch.long)
        inputs["image_tokens"] = torch.tensor([text.count(self._prompts.placeholder) for (text,) in texts])
        return inputs, [[texts[i][0] for i in own] for own in index]

    def _check(self, groups: Sequence[Group], made: Sequence[TrainingRow]) -> None:
        """Raise InputError for a group whose rows have different answers."""
        # The consistency compares rows token by token.
        rest = iter([[token for token, said in zip(one.ids, one.answer, strict=True) if said] for one in made])
        for group in groups:
            first, *others = [next(rest) for _ in group.rows]
            if any(other != first for other in others):
                raise InputError(f"item {group.rows[0].id}: the conditions differ in the tokens of the answer")
