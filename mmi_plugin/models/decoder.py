"""At the decoder's door: a call of it in, the same call over other rows or in another layout out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from mmi_plugin.models.compat import DEEP_FEATURES, VISUAL_PLACES
from mmi_plugin.models.layout import Layout, gather

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


@dataclass(frozen=True)
class DecoderInputs:
    """R rows as the decoder is given them.

    rows: (R, ...) each: `inputs_embeds` (R, L, D), and where the model gives them `attention_mask` (R, L), 1 for a
    token, `position_ids` (R, L) or, of multimodal RoPE, (R, L, 3), `visual` (R, L), which of the `deep` features
    (layers of (N, D)) is added there, -1 for none, and the masks (R, 1, L, L) of a model that builds its own.
    masks: their names, if there are several. rest: other arguments.
    """

    rows: dict[str, torch.Tensor | None]
    masks: tuple[str, ...]
    deep: list[torch.Tensor]
    rest: Call

    @staticmethod
    def of(call: Call) -> DecoderInputs:
        """Read a call's arguments: `inputs_embeds` (R, L, D) and what else the model passes."""
        rest = dict(call)
        rows, attention = {"inputs_embeds": rest.pop("inputs_embeds")}, rest.pop("attention_mask", None)
        rows |= attention if isinstance(attention, dict) else {"attention_mask": attention}
        positions = rest.pop("position_ids", None)
        if positions is not None:
            positions = positions.movedim(0, -1) if positions.ndim == 3 else positions
            rows["position_ids"] = positions.expand(len(rows["inputs_embeds"]), *positions.shape[1:])
        visual, deep = rest.pop(VISUAL_PLACES, None), rest.pop(DEEP_FEATURES, None)
        if visual is not None:
            number = visual.flatten().cumsum(0).view_as(visual) - 1
            rows["visual"] = number.masked_fill(~visual, -1)
        return DecoderInputs(rows, tuple(attention) if isinstance(attention, dict) else (), deep or [], rest)

    @property
    def embeds(self) -> torch.Tensor:
        """(R, L, D)."""
        return self.rows["inputs_embeds"]

    def take(self, rows: torch.Tensor) -> DecoderInputs:
        """Return the rows (A,) of these."""
        return replace(self, rows={name: None if v is None else gather(v, rows) for name, v in self.rows.items()})

    def detached(self) -> DecoderInputs:
        """Return the same rows for calls of the decoder by itself: no way back for gradients, no cache."""
        alone, deep = self.with_embeds(self.embeds.detach()), [layer.detach() for layer in self.deep]
        return replace(alone, deep=deep, rest={**self.rest, "use_cache": False})

    def with_embeds(self, embeds: torch.Tensor) -> DecoderInputs:
        """Return the same rows with other embeddings (R, L, D)."""
        return replace(self, rows={**self.rows, "inputs_embeds": embeds})

    def join(self, others: DecoderInputs) -> DecoderInputs:
        """Return these rows and, after them, others of the same call."""
        joined = {name: None if v is None else torch.cat([v, others.rows[name]]) for name, v in self.rows.items()}
        return replace(self, rows=joined)

    def call(self) -> Call:
        """Return the decoder's arguments for padded rows."""
        several = {name: self.rows[name] for name in self.masks}
        return self._arguments(self.rows, several or self.rows["attention_mask"])

    def packed(self, layout: Layout) -> Call:
        """Return the decoder's arguments for the one sequence of a layout."""
        columns = ("inputs_embeds", "position_ids", "visual")
        rows = {name: layout.pack(self.rows[name]) for name in columns if name in self.rows}
        unused = torch.zeros(1, 1, 1, 1, device=self.embeds.device)  # keeps the decoder from building a mask
        return {**self._arguments({"position_ids": layout.column[None], **rows}, unused), "trees": layout}

    def _arguments(self, rows: dict[str, torch.Tensor | None], attention: Any) -> Call:
        call = {**self.rest, "inputs_embeds": rows["inputs_embeds"], "attention_mask": attention}
        if "position_ids" in rows:
            positions = rows["position_ids"]
            call["position_ids"] = positions.movedim(-1, 0) if positions.ndim == 3 else positions
        if "visual" in rows:
            shown = rows["visual"] >= 0
            call[VISUAL_PLACES] = shown
            call[DEEP_FEATURES] = [gather(layer, rows["visual"][shown]) for layer in self.deep]
        return call


def read_at(ends: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return an `after` that leaves of each row's states the one at its end alone. ends: (R,) int64."""
    return lambda states: states[torch.arange(len(states), device=states.device), ends][None]


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
