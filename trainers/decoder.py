"""Parts of a model called outside of its forward, where FSDP2, which gathers weights for that alone, shards them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from mmi_plugin.trainers.layout import Layout

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shards:
    """FSDP2 modules in whose forward other forward and backward passes run; none where FSDP2 is not used."""

    modules: tuple[FSDPModule, ...]

    def gather(self) -> None:
        """Gather their weights again: the end of a backward pass drops those of all modules."""
        for module in self.modules:
            module.unshard()


def shards_around(model: nn.Module, part: nn.Module) -> Shards:
    """Return those of `model`'s modules that contain `part`, or are it."""
    sharded = (module for module in model.modules() if isinstance(module, FSDPModule))
    return Shards(tuple(module for module in sharded if any(inner is part for inner in module.modules())))


def within_forward(model: nn.Module, work: Callable[[], Result]) -> Result:
    """Return work(), which calls `model` or its parts, run as the forward of `model` (forward redirection)."""
    if not isinstance(model, FSDPModule):
        return work()
    replaced = vars(model).get("forward")

    def restore() -> None:
        if replaced is None:
            vars(model).pop("forward", None)
        else:
            model.forward = replaced

    def forward(*_: Any, **__: Any) -> Result:
        restore()  # work may call the model itself
        return work()

    model.forward = forward
    try:
        return model()
    finally:
        restore()


IGNORED = -100
Call = dict[str, Any]


def unwrap(model: nn.Module) -> PreTrainedModel:
    """Return the transformers model inside DDP or DeepSpeed (`.module`) and PEFT."""
    model = getattr(model, "module", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@dataclass
class AnswerTokens:
    """Where answer tokens are predicted: `mask` (R, L) bool, true at t - 1 for a token t; `target`
    and `row`, (N,): the token and its row, in the order of `logits[mask]`."""

    mask: torch.Tensor
    target: torch.Tensor
    row: torch.Tensor

    @staticmethod
    def of(labels: torch.Tensor) -> AnswerTokens:
        mask = torch.zeros_like(labels, dtype=torch.bool)
        mask[:, :-1] = labels[:, 1:] != IGNORED
        return AnswerTokens(mask, labels[:, 1:][mask[:, :-1]], mask.nonzero()[:, 0])


@dataclass
class DecoderRows:
    """The rows of a batch as the decoder is given them.

    columns: per position, (R, L, ...): `inputs_embeds`, and where the model gives them
    `attention_mask` (1 for a token), `position_ids` (R, L) or, of multimodal RoPE, (R, L, 3), and
    `visual`, which of the `deep` features (layers of (N, D)) is added there, -1 for none.
    masks: attention masks that the model built itself, (R, 1, L, L) by name. rest: other arguments.
    """

    columns: dict[str, torch.Tensor]
    masks: dict[str, torch.Tensor]
    deep: list[torch.Tensor]
    rest: Call

    @staticmethod
    def of(call: Call) -> DecoderRows:
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
        visual, deep = rest.pop("visual_pos_masks", None), rest.pop("deepstack_visual_embeds", None)
        if visual is not None:
            number = visual.flatten().cumsum(0).view_as(visual) - 1
            columns["visual"] = number.masked_fill(~visual, -1)
        return DecoderRows(columns, masks, deep or [], rest)

    @property
    def embeds(self) -> torch.Tensor:
        return self.columns["inputs_embeds"]

    def take(self, rows: torch.Tensor) -> DecoderRows:
        columns = {name: values[rows] for name, values in self.columns.items()}
        masks = {name: mask if mask is None else mask[rows] for name, mask in self.masks.items()}
        return DecoderRows(columns, masks, self.deep, self.rest)

    def with_embeds(self, embeds: torch.Tensor) -> DecoderRows:
        return DecoderRows({**self.columns, "inputs_embeds": embeds}, self.masks, self.deep, self.rest)

    def join(self, others: DecoderRows) -> DecoderRows:
        """Return these rows and, after them, others of the same call."""
        columns = {name: torch.cat([values, others.columns[name]]) for name, values in self.columns.items()}
        masks = {n: mask if mask is None else torch.cat([mask, others.masks[n]]) for n, mask in self.masks.items()}
        return DecoderRows(columns, masks, self.deep, self.rest)

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
            call["visual_pos_masks"] = shown
            call["deepstack_visual_embeds"] = [layer[columns["visual"][shown]] for layer in self.deep]
        return call


@contextmanager
def at_decoder(
    decoder: nn.Module,
    before: Callable[[DecoderRows], Call],
    after: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """Rewrite the next call of the decoder: its arguments, and its last hidden states.

    `before` may call the decoder itself, unhindered.
    """

    def enter(module: nn.Module, args: tuple[Any, ...], call: Call) -> tuple[tuple[Any, ...], Call]:
        handles.pop().remove()
        changed = before(DecoderRows.of(call))
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


def full_precision(values: torch.Tensor) -> torch.Tensor:
    """Return `values` in single precision or better."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def row_means(values: torch.Tensor, row: torch.Tensor, rows: int) -> torch.Tensor:
    """Average (N,) values by their row: (rows,)."""
    sums = values.new_zeros(rows).index_add(0, row, values)
    return sums / torch.bincount(row, minlength=rows).clamp(min=1)
