"""Prompts in, what they have in common up to the end of their image out: computed once, kept while it serves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from mmi_plugin.models.compat import DynamicLayer, DynamicSlidingWindowLayer, cache_argument, cache_layers
from mmi_plugin.models.tokens import Tensors, pad_left
from mmi_plugin.models.trees import Prefix

Generate = Callable[[Tensors, int], Any]


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
def looks_ahead(model: PreTrainedModel, inputs: Tensors) -> bool:
    """Whether a token of a prompt sees later ones, as in a prefix LM: then no prefix is the same in two prompts.

    inputs: of one prompt. Asks the model itself: where attention is causal, another last token changes no state
    before it, not by a bit, as the shapes are the same.
    """
    seen: list[torch.Tensor] = []
    hook = model.get_decoder().register_forward_hook(lambda *call: seen.append(call[-1].last_hidden_state[:, :-1]))
    try:
        for _ in range(2):
            model(**inputs, use_cache=False, logits_to_keep=1)
            ids = inputs["input_ids"].clone()
            ids[:, -1] = torch.where(ids[:, -1] == ids[:, -2], ids[:, -3], ids[:, -2])
            inputs = {**inputs, "input_ids": ids}
    finally:
        hook.remove()
    return not torch.equal(*seen)


def window(model: PreTrainedModel) -> int | None:
    """Return how far back the decoder's layers look, in tokens; None for all the way."""
    return min((layer.sliding_window for layer in cache_layers(model) if layer.is_sliding), default=None)


class Prefixes:
    """The prefixes of the prompts asked last. `generate(inputs, steps)` lets `model` speak."""

    def __init__(self, model: PreTrainedModel, generate: Generate) -> None:
        self._model, self._generate = model, generate
        self._kept: dict[Hashable, Prefix] = {}

    def get(self, keys: Sequence[Hashable], inputs: Callable[[list[int]], Tensors]) -> list[Prefix]:
        """Return the prefix of every row. `inputs(rows)`: the whole prompts of rows whose prefix is not at hand."""
        rows = {key: row for row, key in reversed(list(enumerate(keys)))}  # the first row of each key
        self._kept = {key: self._kept[key] for key in rows if key in self._kept}
        missing = [key for key in rows if key not in self._kept]
        if missing:
            computed = _compute(self._model, inputs([rows[key] for key in missing]), self._generate)
            self._kept.update(zip(missing, computed, strict=True))
        return [self._kept[key] for key in keys]


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
