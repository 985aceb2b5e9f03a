"""Rows of different lengths laid end to end for the decoder, so that padding costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Call = dict[str, Any]


@dataclass(frozen=True)
class Packing:
    """R rows padded to length L as S sequences of length W, each holding whole rows.

    source: (S, W) int64, where each packed position comes from among the R * L. place: (R, L)
    int64, the way back among the S * W; 0 for padding. segment: (S, W) int64, the row that a
    position belongs to, -1 where nothing does.
    """

    source: torch.Tensor
    place: torch.Tensor
    segment: torch.Tensor

    @staticmethod
    def of(lengths: list[int], width: int, device: torch.device) -> Packing:
        """Plan rows of these lengths, padded on the right to `width`."""
        bins = first_fit_decreasing(lengths)
        size = max(lengths)
        source = torch.zeros(len(bins), size, dtype=torch.long)
        segment = torch.full((len(bins), size), -1)
        place = torch.zeros(len(lengths), width, dtype=torch.long)
        for number, rows in enumerate(bins):
            start = 0
            for row in rows:
                end = start + lengths[row]
                source[number, start:end] = torch.arange(row * width, row * width + lengths[row])
                place[row, : lengths[row]] = torch.arange(number * size + start, number * size + end)
                segment[number, start:end] = row
                start = end
        return Packing(source.to(device), place.to(device), segment.to(device))

    def pack(self, values: torch.Tensor) -> torch.Tensor:
        """(R, L, ...) -> (S, W, ...); what stands in empty positions is arbitrary."""
        return values.flatten(0, 1)[self.source]

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """(S, W, ...) -> (R, L, ...); what stands in padding is arbitrary."""
        return values.flatten(0, 1)[self.place]

    def attention(self, dtype: torch.dtype) -> torch.Tensor:
        """Additive mask (S, 1, W, W): a token sees its own row up to itself."""
        size = self.segment.shape[1]
        causal = torch.ones(size, size, dtype=torch.bool, device=self.segment.device).tril()
        seen = (self.segment[:, :, None] == self.segment[:, None, :]) & causal
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)[
            :, None
        ]


def first_fit_decreasing(lengths: list[int]) -> list[list[int]]:
    """Put rows into as few sequences of the greatest row's length as this heuristic finds."""
    size = max(lengths)
    bins: list[tuple[int, list[int]]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        for number, (used, rows) in enumerate(bins):
            if used + lengths[row] <= size:
                bins[number] = (used + lengths[row], [*rows, row])
                break
        else:
            bins.append((lengths[row], [row]))
    return [rows for _, rows in bins]


def packable(decoder: nn.Module) -> bool:
    """Whether packing is exact: full causal attention in every layer, through a mask of our own."""
    config = decoder.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return set(kinds) == {"full_attention"} and not sliding and config._attn_implementation in ("sdpa", "eager")


@contextmanager
def packed_rows(decoder: nn.Module) -> Iterator[None]:
    """Within, every call of the decoder runs packed; callers see padded rows as ever."""
    plans: list[Packing] = []

    def before(module: nn.Module, args: tuple[Any, ...], call: Call) -> tuple[tuple[Any, ...], Call]:
        embeds, mask = call["inputs_embeds"], call["attention_mask"]
        plan = Packing.of(mask.sum(1).tolist(), embeds.shape[1], embeds.device)
        plans.append(plan)
        positions = call.get("position_ids")
        if positions is None:
            positions = torch.arange(embeds.shape[1], device=embeds.device).expand(len(embeds), -1)
        packed = torch.stack([plan.pack(p) for p in positions]) if positions.ndim == 3 else plan.pack(positions)
        changed = {
            "inputs_embeds": plan.pack(embeds),
            "attention_mask": plan.attention(embeds.dtype),
            "position_ids": packed,
        }
        return args, {**call, **changed}

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        output.last_hidden_state = plans.pop().unpack(output.last_hidden_state)
        return output

    handles = [
        decoder.register_forward_pre_hook(before, with_kwargs=True),
        decoder.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
