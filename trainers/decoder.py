"""The one place where the model is entered: its decoder, seen through a forward pre-hook.

Family-agnostic: whatever the model does with images and text, it ends in one call of its decoder
with `inputs_embeds`. There the adversary replays the decoder alone, and adversarial copies of
rows join the batch, so that the model's own forward runs once on clean and adversarial rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from mmi_plugin.trainers.adversary import Adversary

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
class Attack:
    """Adversarial copies of some rows of a batch, made inside the model's forward.

    rows: (A,) int64, which rows. mask: (A, L) bool and seeds: (A,) int64 as Adversary takes them.
    labels: (A, L). `delta` (A, L, D) is there after the forward.
    """

    adversary: Adversary
    rows: torch.Tensor
    mask: torch.Tensor
    seeds: torch.Tensor
    labels: torch.Tensor
    delta: torch.Tensor = field(init=False)

    def extend(self, base: PreTrainedModel, call: Call) -> Call:
        """Return the decoder's keyword arguments with the adversarial rows after the clean ones."""
        embeds = call["inputs_embeds"]
        copies = _take_rows(call, self.rows)
        replay = {**copies, "use_cache": False}
        self.delta = self._find_delta(base, replay, embeds[self.rows].detach())
        moved = embeds[self.rows] + self.delta.to(embeds.dtype)
        extended = {"inputs_embeds": torch.cat([embeds, moved])}
        for name in ("attention_mask", "position_ids"):
            if call.get(name) is not None and copies[name] is not call[name]:
                extended[name] = torch.cat([call[name], copies[name]], dim=_batch_dim(call[name]))
        return {**call, **extended}

    def _find_delta(self, base: PreTrainedModel, replay: Call, embeds: torch.Tensor) -> torch.Tensor:
        decoder, head = base.get_decoder(), base.get_output_embeddings()
        tokens = AnswerTokens.of(self.labels)

        def row_loss(moved: torch.Tensor) -> torch.Tensor:
            hidden = decoder(**{**replay, "inputs_embeds": moved}).last_hidden_state
            losses = cross_entropy(full_precision(head(hidden[tokens.mask])), tokens.target, reduction="none")
            return row_means(losses, tokens.row, len(moved))

        with torch.enable_grad(), evaluating(decoder):
            return self.adversary.perturb(embeds, self.mask, self.seeds, row_loss)


@contextmanager
def before_decoder(base: PreTrainedModel, change: Callable[[PreTrainedModel, Call], Call]) -> Iterator[None]:
    """Let `change` rewrite the keyword arguments of the next call of the decoder."""

    def hook(module: nn.Module, args: tuple[Any, ...], call: Call) -> tuple[tuple[Any, ...], Call]:
        handle.remove()  # first: `change` may call the decoder itself
        return args, change(base, call)

    handle = base.get_decoder().register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def hidden_states(base: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Collect the last hidden states (R, L, D) of the decoder's calls, the model's own call last."""
    states: list[torch.Tensor] = []

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states[:] = [output.last_hidden_state]

    handle = base.get_decoder().register_forward_hook(hook)
    try:
        yield states
    finally:
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


def _batch_dim(values: torch.Tensor) -> int:
    """Position ids of multimodal RoPE are (3, B, L); everything else has the batch first."""
    return 1 if values.ndim == 3 else 0


def _take_rows(call: Call, rows: torch.Tensor) -> Call:
    """Return the call with only `rows` of its mask and position ids (an unbatched one stays)."""
    taken = dict(call)
    for name in ("attention_mask", "position_ids"):
        value = call.get(name)
        if value is not None and value.shape[_batch_dim(value)] > 1:
            taken[name] = value.index_select(_batch_dim(value), rows)
    return taken
