"""Attention of a layout in one call: FlexAttention over blocks, as a GPU wants it.

A layout has a new length in every batch, and what is compiled or planned for one length is not for the next. So
queries and keys are padded to a length of a short ladder; blocks of padding are never looked at.
"""

from __future__ import annotations

from functools import cache
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from mmi_plugin.models.compat import compile_often
from mmi_plugin.models.devices import HALF, on_device

BLOCK = 128
LADDER_FROM = 2560
"""The lowest rung, which is what a chunk of the inner loop has at most. Above, there are four from each power of two to
the next: what is padded is copied and kept, a quarter of a length at most, and a run meets few of them."""


def rung(length: int) -> int:
    """Return the least length of the ladder that is not below `length`."""
    apart = max(BLOCK, 2 ** ((length - 1).bit_length() - 3)) if length > 1 else BLOCK
    return max(LADDER_FROM, -(-length // apart) * apart)


def as_autocast(states: torch.Tensor) -> torch.Tensor:
    """Return queries, keys or values (1, H, T, d) in the type that autocast gives attention.

    Autocast knows torch's own attention alone, and rotary embeddings leave queries and keys in single precision.
    """
    kind = states.device.type
    if states.dtype != torch.float32 or not torch.is_autocast_enabled(kind):
        return states
    return states.to(torch.get_autocast_dtype(kind))


def suits(query: torch.Tensor, dropout: float) -> bool:
    """Whether compiled FlexAttention takes queries (1, H, T, d) as they are: on a GPU, in 16 bits, nothing dropped."""
    size = query.shape[-1]
    return query.is_cuda and query.dtype in HALF and not dropout and size >= 16 and size & (size - 1) == 0


def attend_at_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    blocks: BlockMask,
    scaling: float | None,
) -> torch.Tensor:
    """Attention of queries (1, H, T, d) to keys and values (1, H', T', d) by the mask of `mask_of`: (1, T, H, d)."""
    queries, keys = blocks.shape[-2:]
    query, length = pad(query, (0, 0, 0, queries - query.shape[2])), query.shape[2]
    key, value = (pad(states, (0, 0, 0, keys - states.shape[2])) for states in (key, value))
    call = _compiled() if query.is_cuda else flex_attention
    heads = query.shape[1] != key.shape[1]
    return call(query, key, value, block_mask=blocks, scale=scaling, enable_gqa=heads)[:, :, :length].transpose(1, 2)


@cache
def _compiled() -> Any:
    return compile_often(flex_attention)


class Blocks(NamedTuple):
    """A mask on the host. numbers: (N,) int32, all its parts end to end, of `shapes`; lengths: of queries and keys."""

    numbers: torch.Tensor
    shapes: list[tuple[int, ...]]
    lengths: tuple[int, int]


def blocks_of(chunks: list[int], pieces: list[int | None]) -> Blocks:
    """Return the mask of a layout's chunks and pieces, padded to the ladder."""
    spans = spans_of(chunks, pieces)
    queries, keys = rung(len(spans[0])), rung(sum(chunks))
    ends = np.pad(np.stack(spans), ((0, 0), (0, queries - len(spans[0]))), constant_values=-1)  # padding sees nothing
    parts = [ends, *(part for dense in _dense(chunks, pieces, queries, keys) for part in _ordered(dense))]
    numbers = np.concatenate([part.ravel() for part in parts]).astype(np.int32)
    return Blocks(torch.from_numpy(numbers), [part.shape for part in parts], (queries, keys))


def mask_of(blocks: Blocks, device: torch.device) -> BlockMask:
    """Return the mask for a device, which is not waited for."""
    parts = on_device(blocks.numbers, device).split([prod(shape) for shape in blocks.shapes])
    ends, *kinds = (part.view(shape) for part, shape in zip(parts, blocks.shapes, strict=True))
    return BlockMask.from_kv_blocks(
        *(kind[None, None] for kind in kinds),
        BLOCK_SIZE=BLOCK,
        mask_mod=_sees(*ends.unbind()),
        seq_lengths=blocks.lengths,
    )


def _sees(low: torch.Tensor, high: torch.Tensor, start: torch.Tensor, last: torch.Tensor) -> Any:
    """Return whether a query sees a key, as `spans_of` has it: low, high, start, last (T,)."""

    def sees(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return ((key >= low[query]) & (key <= high[query])) | ((key >= start[query]) & (key <= last[query]))

    return sees


def pairs_of(chunks: list[int], pieces: list[int | None], device: torch.device) -> torch.Tensor:
    """Return which keys each query sees, (T, T') bool on a device."""
    ends = on_device(torch.from_numpy(np.stack(spans_of(chunks, pieces))), device)
    queries, keys = (torch.arange(size, device=device) for size in (ends.shape[1], sum(chunks)))
    return _sees(*ends.unbind())(None, None, queries[:, None], keys)


def spans_of(chunks: list[int], pieces: list[int | None]) -> tuple[np.ndarray, ...]:
    """Return the first and the last key that each of T queries sees of its prefix and of its own piece, four (T,):
    low, high, start, last. Without a prefix, high is below low."""
    begins, first = np.cumsum([0, *chunks]), len(chunks) - len(pieces)
    low = [1 if prefix is None else begins[prefix] for prefix in pieces]
    high = [0 if prefix is None else begins[prefix + 1] - 1 for prefix in pieces]
    spans = [np.repeat(np.asarray(ends, dtype=np.int64), chunks[first:]) for ends in (low, high, begins[first:-1])]
    return (*spans, np.arange(begins[first], begins[-1]))


def _dense(chunks: list[int], pieces: list[int | None], queries: int, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which blocks are seen in part and which as a whole, (queries / 128, keys / 128) bool each."""
    seen = np.zeros((queries // BLOCK, keys // BLOCK), dtype=np.int64)  # how many pairs of a block are
    begins = np.cumsum([0, *chunks])
    offset = begins[len(chunks) - len(pieces)]
    edges = np.arange(keys // BLOCK) * BLOCK

    def inside(end: np.ndarray | int) -> np.ndarray:
        return np.clip(end - edges, 0, BLOCK)  # of the keys before `end`, those in each block

    for number, prefix in enumerate(pieces, len(chunks) - len(pieces)):
        start, end = begins[number], begins[number + 1]
        known = 0 if prefix is None else inside(begins[prefix + 1]) - inside(begins[prefix])
        for block in range((start - offset) // BLOCK, -(-(end - offset) // BLOCK)):
            own = np.arange(max(start, block * BLOCK + offset), min(end, (block + 1) * BLOCK + offset))
            seen[block] += len(own) * known + inside(own[:, None] + 1).sum(0) - len(own) * inside(start)
    return (seen > 0) & (seen < BLOCK * BLOCK), seen == BLOCK * BLOCK


def _ordered(dense: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many blocks each row of blocks has and which, those first: (Q, K) bool -> (Q,), (Q, K)."""
    return dense.sum(1), np.argsort(~dense, axis=1, kind="stable")
