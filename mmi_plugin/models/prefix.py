"""Prompts in, what they have in common up to the end of their image out: computed once, kept while it serves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache, PreTrainedModel

from mmi_plugin.item import image_hash
from mmi_plugin.models.chats import images_of
from mmi_plugin.models.compat import DynamicLayer, DynamicSlidingWindowLayer, cache_argument, cache_layers
from mmi_plugin.models.generate import Query
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.tokens import Tensors, pad, pad_left, to_model
from mmi_plugin.models.trees import Branches, Prefix

Generate = Callable[[Tensors, int], Any]
Logits = Callable[[Tensors], torch.Tensor]
"""The inputs of B prompts -> the logits (B, V) after them."""
Names = tuple[str, ...]
Key = tuple[Names | int, ...]
"""The names of a prompt's images, and its ids up to the end of the last."""


def obstacle(model: PreTrainedModel) -> str | None:
    """Return why prompts to `model` cannot share a computed prefix; None when they can.

    It takes a forward that goes on from keys and values at positions it is given, and a decoder
    whose every layer keeps one key and value per token.
    """
    takes = inspect.signature(model.forward).parameters
    if cache_argument(model) is None or "position_ids" not in takes:
        return "its forward takes no keys and values, or no positions"
    if getattr(model.config, "image_token_id", None) is None:
        return "its configuration names no image token"
    if not all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache_layers(model)):
        return "its decoder keeps more than keys and values"
    return None


@torch.no_grad()
def looks_ahead(model: PreTrainedModel, inputs: Tensors, logits: Logits) -> tuple[bool, torch.Tensor]:
    """Return whether a token of a prompt sees later ones, as in a prefix LM, where no prefix is the same in two
    prompts; and the logits (1, V) after the prompt.

    inputs: of one prompt. Asks the model itself, by `logits`: where attention is causal, another last token changes no
    state before it, not by a bit, as the shapes are the same.
    """
    seen: list[torch.Tensor] = []
    hook = model.get_decoder().register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state[:, :-1]))
    ids = inputs["input_ids"].clone()
    ids[:, -1] = torch.where(ids[:, -1] == ids[:, -2], ids[:, -3], ids[:, -2])
    try:
        found = logits(inputs)
        logits({**inputs, "input_ids": ids})
    finally:
        hook.remove()
    return not torch.equal(*seen), found


def window(model: PreTrainedModel) -> int | None:
    """Return how far back the decoder's layers look, in tokens; None for all the way."""
    return min((layer.sliding_window for layer in cache_layers(model) if layer.is_sliding), default=None)


class Prefixes:
    """The prefixes of the prompts asked last, and what was made of their images.

    `generate(inputs, steps)` lets `model` speak.
    """

    def __init__(self, model: PreTrainedModel, prompts: Prompts, generate: Generate) -> None:
        self._model, self._prompts, self._generate = model, prompts, generate
        self._kept: dict[Key, Prefix] = {}
        self._marks: dict[Names, list[str]] = {}  # what stands for the images of the last prompts

    @cached_property
    def _look_back(self) -> int | None:
        return window(self._model)  # asked of models that can share alone

    def branches(self, rows: Sequence[Query]) -> tuple[list[int], Branches]:
        """Return an order of rows in which those that share a prefix stand together, and their branches in it.

        Raises ValueError for prompts that do not show where an image ends.
        """
        batch = self._encode(rows)
        ids, inside = pad(batch.ids, self._prompts.encoder.padding, left=True)
        stops = ends(ids, self._model.config.image_token_id)
        if min(stops) == 0:
            raise ValueError("no image token in the prompt")
        starts = [ids.shape[1] - len(own) for own in batch.ids]
        heads = [own[: stop - start] for own, start, stop in zip(batch.ids, starts, stops, strict=True)]
        keys = [(name, *head) for name, head in zip(batch.names, heads, strict=True)]
        first: dict[Key, int] = {}
        for row, key in enumerate(keys):
            first.setdefault(key, row)
        order = sorted(range(len(rows)), key=lambda row: first[keys[row]])
        self._keep(first, batch)
        inputs = to_model({"input_ids": ids[order], "attention_mask": inside[order].long()}, self._model)
        rests = [own[stops[row] :] for own, row in zip(inputs["input_ids"], order, strict=True)]
        known = [self._kept[keys[row]] for row in order]
        return order, Branches(self._model, known, rests, inputs, self._look_back)

    def _encode(self, rows: Sequence[Query]) -> _Batch:
        """Encode prompts; an image, known by its name, is prepared once, to see what stands for it in a prompt."""
        names = [tuple(map(image_hash, images_of(row.chat))) for row in rows]
        shown = {name: images_of(row.chat) for name, row in zip(names, rows, strict=True)}
        self._marks = {name: texts for name, texts in self._marks.items() if name in shown}
        new = [name for name in shown if name not in self._marks]
        tensors, marks = self._prompts.images([self._prompts.joined(shown[name]) for name in new])
        self._marks.update(zip(new, marks, strict=True))
        texts = [self._prompts.text(row.chat) for row in rows]
        ids = self._prompts.encode(texts, [self._marks[name] for name in names])
        return _Batch(rows, names, ids, new, tensors)

    def _keep(self, rows: Mapping[Key, int], batch: _Batch) -> None:
        """Keep the prefixes of these keys alone, and compute those that are missing. rows: the first with each."""
        self._kept = {key: self._kept[key] for key in rows if key in self._kept}
        missing = [key for key in rows if key not in self._kept]
        if not missing:
            return
        places = [rows[key] for key in missing]
        chats = [batch.rows[row].chat for row in places]
        if [batch.names[row] for row in places] == batch.new:
            inputs = {**batch.tensors, **self._prompts.tokens(chats, [batch.ids[row] for row in places])}
        else:  # an image that was there before, or is in two prefixes
            inputs = self._prompts.inputs(chats)
        computed = _compute(self._model, to_model(inputs, self._model), self._generate)
        self._kept.update(zip(missing, computed, strict=True))


class _Batch(NamedTuple):
    """Prompts, their images' names, their ids, and the model's inputs for those images that are new."""

    rows: Sequence[Query]
    names: list[Names]
    ids: list[list[int]]
    new: list[Names]
    tensors: Tensors


def ends(input_ids: torch.Tensor, image_token: int) -> list[int]:
    """Return, per row of input_ids (B, L), the column after its last image token; 0 for a row without."""
    columns = torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)
    return ((input_ids == image_token) * columns).amax(1).tolist()


def _compute(model: PreTrainedModel, prompts: Tensors, generate: Generate) -> list[Prefix]:
    """Run the prompts up to the end of their images, and return what the decoder made of each.

    Raises ValueError if the decoder is not told the positions of its tokens.
    """
    inputs = _cut(prompts, ends(prompts["input_ids"], model.config.image_token_id))
    cache, positions = DynamicCache(), []

    def watch(module: torch.nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> None:
        positions.append(call.get("position_ids"))

    handle = model.get_decoder().register_forward_pre_hook(watch, with_kwargs=True)
    try:
        generate({**inputs, cache_argument(model): cache}, 1)
    finally:
        handle.remove()
    if positions[0] is None:
        raise ValueError("its decoder is told no positions")
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    place = positions[0] if positions[0].ndim == 3 else positions[0][None]
    place = place[-3:].expand(-1, len(ids), -1)  # some models put the plain count before the three of RoPE
    # Padding is on the left: a mask as an index would wait for the device, once for every layer of every row.
    sizes, last = torch.stack([mask.sum(1), place.masked_fill(~mask, -1).amax((0, 2))]).tolist()
    return [
        Prefix(
            ids[row, -size:],
            [(layer.keys[row][:, -size:].clone(), layer.values[row][:, -size:].clone()) for layer in cache.layers],
            last[row] + 1,
            len(place),
        )
        for row, size in enumerate(sizes)
    ]


def _cut(prompts: Tensors, stops: Sequence[int]) -> Tensors:
    """Return `prompts` without the tokens from column `stops[row]` on."""
    mask = prompts["attention_mask"].clone()
    for row, stop in enumerate(stops):
        mask[row, stop:] = 0
    return pad_left({**prompts, "attention_mask": mask})
