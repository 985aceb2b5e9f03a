"""At the decoder's door: a call of it in, the same call over other rows or in another layout out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mmi_plugin.trainers.compat import DEEP_FEATURES, VISUAL_PLACES
from mmi_plugin.trainers.layout import Layout

Call = dict[str, Any]


def unwrap(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside DDP or DeepSpeed (`.module`) and PEFT."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode (no dropout, no gradient checkpointing), each submodule restored on the way out."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@dataclass
class DecoderInputs:
    """R rows as the decoder is given them.

    columns: per position, (R, L, ...): `inputs_embeds` (R, L, D), and where the model gives them `attention_mask`
    (R, L), 1 for a token, `position_ids` (R, L) or, of multimodal RoPE, (R, L, 3), and `visual` (R, L), which of the
    `deep` features (layers of (N, D)) is added there, -1 for none.
    masks: attention masks that the model built itself, (R, 1, L, L) by name. rest: other arguments.
    """

    columns: dict[str, torch.Tensor]
    masks: dict[str, torch.Tensor]
    deep: list[torch.Tensor]
    rest: Call

    @staticmethod
    def of(call: Call) -> DecoderInputs:
        """Read a call's arguments: `inputs_embeds` (R, L, D) and what else the model passes."""
        rest = dict(call)
        columns, masks = {"inputs_embeds": rest.pop("inputs_embeds")}, {}
        attention, positions = rest.pop("attention_mask", None), rest.pop("position_ids", None)
        if isinstance(attention, dict):
            masks = attention
        elif attention is not None:
            (columns if attention.ndim == 2 else masks)["attention_mask"] = attention
        if positions is not None:
            positions = positions.movedim(0, -1) if positions.ndim == 3 else positions
            columns["position_ids"] = positions.expand(len(columns["inputs_embeds"]), *positions.shape[1:])
        visual, deep = rest.pop(VISUAL_PLACES, None), rest.pop(DEEP_FEATURES, None)
        if visual is not None:
            number = visual.flatten().cumsum(0).view_as(visual) - 1
            columns["visual"] = number.masked_fill(~visual, -1)
        return DecoderInputs(columns, masks, deep or [], rest)

    @property
    def embeds(self) -> torch.Tensor:
        """(R, L, D)."""
        return self.columns["inputs_embeds"]

    def take(self, rows: torch.Tensor) -> DecoderInputs:
        """Return the rows (A,) of these."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        masks = {name: mask if mask is None else mask[rows] for name, mask in self.masks.items()}
        return DecoderInputs(columns, masks, self.deep, self.rest)

    def detached(self) -> DecoderInputs:
        """Return the same rows without a way back for gradients."""
        alone = self.with_embeds(self.embeds.detach())
        alone.deep = [layer.detach() for layer in self.deep]
        return alone

    def with_embeds(self, embeds: torch.Tensor) -> DecoderInputs:
        """Return the same rows with other embeddings (R, L, D)."""
        return DecoderInputs({**self.columns, "inputs_embeds": embeds}, self.masks, self.deep, self.rest)

    def join(self, others: DecoderInputs) -> DecoderInputs:
        """Return these rows and, after them, others of the same call."""
        columns = {name: torch.cat([values, others.columns[name]]) for name, values in self.columns.items()}
        masks = {n: mask if mask is None else torch.cat([mask, others.masks[n]]) for n, mask in self.masks.items()}
        return DecoderInputs(columns, masks, self.deep, self.rest)

    def call(self) -> Call:
        """Return the decoder's arguments for padded rows."""
        masks = self.masks or {"attention_mask": self.columns.get("attention_mask")}
        attention = masks["attention_mask"] if set(masks) == {"attention_mask"} else masks
        return self._arguments(self.columns, attention)

    def packed(self, layout: Layout) -> Call:
        """Return the decoder's arguments for the one sequence of a layout."""
        columns = {name: layout.pack(values) for name, values in self.columns.items()}
        unused = torch.zeros(1, 1, 1, 1, device=self.embeds.device)  # keeps the decoder from building a mask
        return {**self._arguments({"position_ids": layout.column[None], **columns}, unused), "trees": layout}

    def _arguments(self, columns: dict[str, torch.Tensor], attention: Any) -> Call:
        call = {**self.rest, "inputs_embeds": columns["inputs_embeds"], "attention_mask": attention}
        if "position_ids" in columns:
            positions = columns["position_ids"]
            call["position_ids"] = positions.movedim(-1, 0) if positions.ndim == 3 else positions
        if "visual" in columns:
            shown = columns["visual"] >= 0
            call[VISUAL_PLACES] = shown
            call[DEEP_FEATURES] = [layer[columns["visual"][shown]] for layer in self.deep]
        return call


@contextmanager
def at_decoder(
    decoder: nn.Module,
    before: Callable[[DecoderInputs], Call],
    after: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Rewrite the next call of the decoder: its arguments, and its last hidden states, (R, L, D) or packed (1, T, D).

    `before` may call the decoder itself, unhindered: the hook that calls it is gone by then, and the one for `after`
    comes when it is done.
    """

    def enter(module: nn.Module, args: tuple[Any, ...], call: Call) -> tuple[tuple[Any, ...], Call]:
        handles.pop().remove()
        changed = before(DecoderInputs.of(call))
        handles.append(decoder.register_forward_hook(leave))
        return args, changed

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        handles.pop().remove()
        output.last_hidden_state = after(output.last_hidden_state)
        return output

    handles = [decoder.register_forward_pre_hook(enter, with_kwargs=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
