"""Prompts whose embeddings of the irrelevant modality are moved.

prompts -> model -> [door of the decoder] rows as it is given them -> replay -> logits of the options
                                                |  delta  ^                 |
                                                +-- search (attacks) <------+
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mmi_plugin.attacks.balls import Ball, irrelevant, masked_rms
from mmi_plugin.errors import InputError
from mmi_plugin.item import FAMILIES
from mmi_plugin.models.attention import ATTENTION, attend
from mmi_plugin.models.compat import attending
from mmi_plugin.models.decoder import Call, DecoderInputs, at_decoder, read_at
from mmi_plugin.models.generate import Query
from mmi_plugin.models.layout import Tree, packable
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.replay import replay
from mmi_plugin.models.space import option_ids, row_seeds
from mmi_plugin.models.tokens import Tensors, to_model

SAME = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Of a logit, relative to the largest: how far a replay may be from the whole model; more in half precision."""
COARSE = 5e-2


class Embeddings:
    """B prompts whose embeddings of the irrelevant modality are moved; a `Space` of `attacks.search`.

    What comes before the first of them is computed once for a set of rows, and only the options' logits after the
    last token of each row are wanted. `packed`: whether rows are laid out as one sequence.
    """

    def __init__(
        self, model: PreTrainedModel, prompts: Prompts, rows: Sequence[Query], packed: bool | None = None
    ) -> None:
        """packed: whether rows are laid out as one sequence, as prompts like these were found to be; None: find it."""
        self._model, self._prompts, self._queries = model, prompts, list(rows)
        self._decoder, self._head, self.dtype = model.get_decoder(), model.get_output_embeddings(), model.dtype
        stem, last = option_ids(prompts, rows)
        inputs = to_model(prompts.inputs([row.chat for row in rows], stem, left=False), self._model)
        inside = inputs["attention_mask"].bool()
        self._lengths = inside.sum(1).tolist()
        self._own = [length - len(stem) for length in self._lengths]
        columns = torch.arange(inside.shape[1], device=inside.device)
        prompt = inside & (columns < torch.tensor(self._own, device=inside.device)[:, None])
        image = inputs["input_ids"] == prompts.placeholder_id
        family = torch.tensor([FAMILIES.index(row.target.family) for row in rows], device=inside.device)
        attack = rows[0].target.attack
        mask = irrelevant(family, image, prompt, attack.text == "after_image")
        if not mask.any(1).all():
            row = int((~mask.any(1)).nonzero()[0, 0])
            raise InputError(f"item {rows[row].target.item_id}: nothing of its prompt is of the irrelevant modality")
        self._options = torch.tensor(last, device=inside.device)
        self.gold = torch.tensor([row.target.gold for row in rows], device=inside.device)
        self._given, plain = self._capture(inputs)
        embeds = self._given.embeds
        exact = embeds.to(torch.promote_types(embeds.dtype, torch.float32))
        self.ball, self.width = Ball("linf", attack.eps * masked_rms(exact, mask), mask), embeds.shape[2]
        first = mask.int().argmax(1).tolist()
        self._trees = [Tree((0,), min(start, length - 1)) for start, length in zip(first, self._lengths, strict=True)]
        self.packed, self._rows, self._replay = packable(model) if packed is None else packed, None, None
        if packed is None:
            self._check(plain)

    def seeds(self, restart: int) -> torch.Tensor:
        """Return a seed for each row, (B,) int64."""
        return row_seeds(self._queries, restart, self.gold.device)

    def logits(self, delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(A, L, D) perturbations of rows (A,) int64 -> (A, K) logits of their options."""
        self._serve(rows)
        embeds = self._given.embeds[self._rows]
        if len(rows) == len(self._rows):
            moved = embeds + delta.to(embeds.dtype)
            at = slice(None)
        else:
            at = torch.searchsorted(self._rows, rows)
            moved = embeds.index_add(0, at, delta.to(embeds.dtype))
        with self._attending():
            hidden = self._replay(moved)
        return self._head(hidden[at])[:, self._options].to(torch.promote_types(delta.dtype, torch.float32))

    @contextmanager
    def moved(self, delta: torch.Tensor, rows: Sequence[int]) -> Iterator[Tensors]:
        """Within, generation from the inputs that this yields sees rows (A) moved by delta (A, L, D)."""
        asked = to_model(self._prompts.inputs([self._queries[row].chat for row in rows]), self._model)
        width = asked["input_ids"].shape[1]
        shifted = delta.new_zeros(len(rows), width, delta.shape[2])
        for place, row in enumerate(rows):
            shifted[place, width - self._own[row] :] = delta[place, : self._own[row]]

        def enter(module: nn.Module, args: tuple[Any, ...], call: Call) -> tuple[tuple[Any, ...], Call]:
            embeds = call["inputs_embeds"]
            if embeds.shape[1] != width:  # a token of the answer
                return args, call
            return args, {**call, "inputs_embeds": embeds + shifted.to(embeds.dtype)}

        handle = self._decoder.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            yield asked
        finally:
            handle.remove()

    def _capture(self, inputs: Tensors) -> tuple[DecoderInputs, torch.Tensor]:
        """Return the rows as the decoder is given them, and the whole model's logits of their options, (B, K)."""
        seen: list[DecoderInputs] = []
        ends = torch.tensor(self._lengths, device=self._options.device) - 1

        def before(rows: DecoderInputs) -> Call:
            seen.append(rows.detached())
            return rows.call()

        with torch.no_grad(), at_decoder(self._decoder, before, read_at(ends)):
            logits = self._model(**inputs, use_cache=False).logits[0]
        return seen[0], logits[:, self._options].float()

    def _serve(self, rows: torch.Tensor) -> None:
        """Prepare the replay of `rows` (A,), unless that of few more is at hand."""
        if self._rows is not None and len(rows) > len(self._rows) // 2 and torch.isin(rows, self._rows).all():
            return
        self._rows = rows.sort().values
        numbers = self._rows.tolist()
        lengths = [self._lengths[row] for row in numbers]
        trees = [Tree((place,), self._trees[row].prefix) for place, row in enumerate(numbers)]
        read = torch.zeros(len(numbers), self._given.embeds.shape[1], dtype=torch.bool)
        read[torch.arange(len(numbers)), torch.tensor(lengths) - 1] = True
        with self._attending():
            given = self._given.take(self._rows)
            self._replay = replay(self._decoder, given, read, lengths, trees if self.packed else None)

    def _attending(self) -> AbstractContextManager[None]:
        way: Callable[..., Any] = partial(attend, way="pieces")
        return attending(self._decoder, f"{ATTENTION}_pieces", way) if self.packed else nullcontext()

    def _check(self, plain: torch.Tensor) -> None:
        """Raise InputError if a replay gives other logits than the whole model, (B, K); padded rows are tried, too."""
        rows = torch.arange(len(self.gold), device=self.gold.device)
        for packed in (True, False) if self.packed else (False,):
            self.packed, self._rows = packed, None
            with torch.no_grad():
                found = self.logits(torch.zeros_like(self._given.embeds, dtype=self.ball.radius.dtype), rows)
            apart = ((found - plain).abs().max() / plain.abs().max()).item()
            if apart <= SAME.get(self.dtype, COARSE):
                return
        name = type(self._model).__name__
        raise InputError(f"{name} cannot be attacked: its logits differ by {apart:.1%} from those of decoder and head")
