"""Prompts whose irrelevant image is moved, through the processor and the whole model; what counts are whole bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from mmi_plugin.attacks.balls import Ball, as_bytes
from mmi_plugin.errors import InputError
from mmi_plugin.models.chats import images_of, with_image
from mmi_plugin.models.decoder import DecoderInputs, at_decoder, read_at
from mmi_plugin.models.generate import Query
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.space import option_ids, row_seeds
from mmi_plugin.models.tokens import Tensors, to_model


class Pixels:
    """B prompts with one image each, all of one size (H, W); a `Space` of `attacks.search`.

    A perturbation is (A, C, W) with C = 3 H, of images in [0, 1]. The processor is given it in single precision, so
    that it has gradients; the bytes that count are given it as it is always given images.
    """

    def __init__(self, model: PreTrainedModel, prompts: Prompts, rows: Sequence[Query]) -> None:
        self._model, self._prompts, self._queries, self.dtype = model, prompts, list(rows), model.dtype
        for row in rows:
            if len(images_of(row.chat)) != 1:
                raise InputError(
                    f"item {row.target.item_id}: its prompt shows not one image, which is what is attacked"
                )
        stem, last = option_ids(prompts, rows)
        device, attack = model.device, rows[0].target.attack
        shown = [images_of(row.chat)[0].convert("RGB") for row in rows]
        arrays = np.stack([np.asarray(image) for image in shown])  # (B, H, W, 3)
        self._size = arrays.shape[1:3]
        origin = torch.from_numpy(arrays).permute(0, 3, 1, 2).flatten(1, 2).to(device, torch.float32) / 255
        radius = torch.full((len(rows), 1, 1), attack.eps / 255, device=device)
        mask = torch.ones(origin.shape[:2], dtype=torch.bool, device=device)
        self.ball, self.width = Ball(attack.norm, radius, mask, origin), origin.shape[2]
        self.gold = torch.tensor([row.target.gold for row in rows], device=device)
        self._options = torch.tensor(last, device=device)
        inputs = to_model(prompts.inputs([row.chat for row in rows], stem, left=False), self._model)
        images = prompts.images([[image] for image in shown])[0]
        self._texts = {name: value for name, value in inputs.items() if name not in images}
        self._ends = inputs["attention_mask"].sum(1) - 1
        self._check()

    def seeds(self, restart: int) -> torch.Tensor:
        """Return a seed for each row, (B,) int64."""
        return row_seeds(self._queries, restart, self.gold.device)

    def logits(self, delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(A, C, W) perturbations of rows (A,) int64 -> (A, K) logits of their options."""
        moved = (self.ball.origin[rows] + delta).unflatten(1, (3, -1))
        images = self._prompts.images([[image] for image in 255 * moved])[0]
        inputs = to_model(images, self._model) | {name: value[rows] for name, value in self._texts.items()}
        with at_decoder(self._model.get_decoder(), DecoderInputs.call, read_at(self._ends[rows])):
            logits = self._model(**inputs, use_cache=False).logits[0][:, self._options]
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @contextmanager
    def moved(self, delta: torch.Tensor, rows: Sequence[int]) -> Iterator[Tensors]:
        """Yield inputs in which the images of rows (A) are moved by delta (A, C, W), in whole bytes."""
        images = self.images(delta, rows)
        chats = [with_image(self._queries[row].chat, image) for row, image in zip(rows, images, strict=True)]
        yield to_model(self._prompts.inputs(chats), self._model)

    def images(self, delta: torch.Tensor, rows: Sequence[int]) -> list[Image.Image]:
        """Return the images of rows (A) moved by delta (A, C, W), in bytes that are within the budget."""
        own = self.ball.take(torch.tensor(rows, device=delta.device))
        made = as_bytes(own.origin + delta, own).unflatten(1, (3, -1)).permute(0, 2, 3, 1)
        return [Image.fromarray(image) for image in made.to("cpu", torch.uint8).numpy()]

    def _check(self) -> None:
        """Raise InputError for a processor through which no gradient comes."""
        probe = torch.zeros_like(self.ball.origin[:1]).requires_grad_(True)
        with torch.enable_grad():
            value = self.logits(probe, torch.zeros(1, dtype=torch.long, device=probe.device)).sum()
        if not value.requires_grad or torch.autograd.grad(value, probe, allow_unused=True)[0] is None:
            name = type(self._prompts.processor.image_processor).__name__
            raise InputError(f"{name} gives no gradients to pixels: its version on torchvision does (use_fast=True)")
