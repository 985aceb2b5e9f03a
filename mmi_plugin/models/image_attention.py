"""A prompt's image tokens in, more attention to them out: what PAI (arXiv 2407.21771) does inside the decoder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mmi_plugin.errors import InputError
from mmi_plugin.models.baselines import Baseline
from mmi_plugin.models.compat import attending, cache_layers, sdpa_attention_forward
from mmi_plugin.models.tokens import Tensors

_BESIDE = ("softcap", "s_aux", "position_bias")
"""What some decoders do to attention logits besides, of which sdpa knows nothing."""


class ImageAttention:
    """Lets the query from which the next token comes attend more to images, in some layers of a decoder:

    w <- w + alpha |w|    of a logit w = q k / sqrt(d) on an image token, before softmax
    """

    def __init__(self, model: PreTrainedModel, baseline: Baseline) -> None:
        """Raise InputError for a model in which no layer, or no token, is to be found."""
        self._model, self._alpha = model, baseline.settings["alpha"]
        self._name, size = baseline.name, len(cache_layers(model))
        self._token = getattr(model.config, "image_token_id", None)
        if self._token is None:
            raise self._refusal("its configuration names no image token")
        first, last = (baseline.settings[key] for key in ("start_layer", "end_layer"))
        self._layers = range(first, min(last or size, size))
        if not self._layers:
            raise InputError(
                f"--model_args: {self._name}_start_layer is {first} and {self._name}_end_layer {last}, which is none "
                f"of the decoder's {size} layers (from 0 on; 0 as the end is all of them)"
            )

    def _refusal(self, why: str) -> InputError:
        name = type(self._model).__name__
        return InputError(f"baseline {self._name}: {name}: {why}: {self._name}_alpha=0 leaves the guidance alone")

    @contextmanager
    def on(self, inputs: Tensors) -> Iterator[None]:
        """Within, prompts are gone on with so, once. inputs: `input_ids` (B, L), padded on the left.

        Raises InputError for a decoder that attends in a way of its own.
        """
        places = inputs["input_ids"] == self._token
        seen: dict[int, int] = {}  # how many tokens a layer was given so far

        def attend(
            module: nn.Module,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attention_mask: torch.Tensor | None,
            **kwargs: Any,
        ) -> tuple[torch.Tensor, None]:
            """query (B, H, Q, d), keys and values (B, H', K, d) -> (B, Q, H, d). mask: (B, 1, Q, K)."""
            if any(kwargs.get(name) is not None for name in _BESIDE):
                raise self._refusal("its decoder changes attention logits in a way of its own")
            out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
            if module.layer_idx in self._layers:
                seen[module.layer_idx] = total = seen.get(module.layer_idx, 0) + query.shape[2]
                if total < places.shape[1]:
                    raise self._refusal("its decoder is not given the tokens of the prompt one for one")
                shown = nn.functional.pad(places, (0, total - places.shape[1]))[:, total - key.shape[2] :]
                mask = None if attention_mask is None else attention_mask[:, :, -1:]
                out[:, -1] = self._last(query[:, :, -1], key, value, shown, mask, kwargs.get("scaling"))
            return out, None

        if not places.any():
            yield
            return
        with attending(self._model.get_decoder(), f"mmi_{self._name}", attend):
            yield
        if not seen:
            raise self._refusal("its decoder does not attend through transformers' interface")

    def _last(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        shown: torch.Tensor,
        mask: torch.Tensor | None,
        scaling: float | None,
    ) -> torch.Tensor:
        """Return what the last query (B, H, d) attends to, (B, H, d). shown: (B, K) bool. mask: (B, 1, 1, K)."""
        heads = query.unflatten(1, (key.shape[1], -1))
        logits = heads @ key.transpose(2, 3) * (1 / math.sqrt(query.shape[-1]) if scaling is None else scaling)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits = torch.where(shown[:, None, None], logits + self._alpha * logits.abs(), logits)
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else logits + mask
        return (logits.softmax(-1).to(value.dtype) @ value).flatten(1, 2)
