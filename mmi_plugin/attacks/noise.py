"""Seeds of rows and the places of tokens in, noise out: the same in any batch, padding, chunk and process.

Philox4x32-10 of "Parallel random numbers: as easy as 1, 2, 3" (Salmon et al., SC 2011): four words of 32 bits are a
function of a key, the row's seed, and of a counter, where in the row they go. So there is no state that an order of
draws could change, and a device draws for itself: words, and uniform numbers made of them, are equal to the last bit
on all devices; normal ones up to the rounding of log and cos.
"""

from __future__ import annotations

import math

import torch

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF
BLOCKS = {"cpu": 1 << 16}
"""Counters at once, each of which takes some 100 bytes: in a CPU's cache they are drawn twice as fast."""
BLOCK = 1 << 22


def philox(counter: tuple[torch.Tensor, ...], key: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return four words, (..., 4) int64 below 2**32. counter: four tensors (...), key: two, int64 below 2**32 all."""
    (a, b, c, d), (left, right) = counter, key
    for step in range(ROUNDS):
        # A product of two words can have its highest bit set, so what is shifted in above it has to go.
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (
            ((second >> 32) & WORD) ^ b ^ left,
            second & WORD,
            ((first >> 32) & WORD) ^ d ^ right,
            first & WORD,
        )
        if step < ROUNDS - 1:
            left, right = (left + WEYL[0]) & WORD, (right + WEYL[1]) & WORD
    return torch.stack([t.expand(a.shape) for t in (a, b, c, d)], -1)


def draw(kind: str, mask: torch.Tensor, seeds: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Return noise (A, L, width), zero outside `mask` (A, L) bool, drawn from the streams of `seeds` (A,) int64.

    kind: "uniform", from [0, 1) in steps of 2**-24, or "normal".
    """
    if mask.is_cpu:
        row, column = mask.nonzero(as_tuple=True)
    else:  # to ask a device which are inside would be to wait for it
        row, column = (torch.arange(n, device=mask.device) for n in mask.shape)
        row, column = row.repeat_interleave(len(column)), column.repeat(len(row))
    noise = torch.zeros(*mask.shape, width, dtype=dtype, device=mask.device)
    size = max(1, BLOCKS.get(mask.device.type, BLOCK) * 4 // width)
    for part in range(0, len(row), size):
        at = row[part : part + size], column[part : part + size]
        noise[at] = _numbers(kind, seeds[at[0]], at[1], width, dtype) * mask[at][:, None]
    return noise


def _numbers(kind: str, seed: torch.Tensor, place: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Return (N, width) numbers for N tokens by their rows' seeds and their places in the row."""
    block = torch.arange(-(-width // 4), device=seed.device)[None]
    nothing = torch.zeros_like(block)
    key = (seed[:, None] & WORD, (seed[:, None] >> 32) & WORD)
    words = philox((block, place[:, None], nothing, nothing), key).flatten(1)
    # 24 bits: as many as single precision has between 1/2 and 1, so that none is rounded up to 1.
    unit = (words >> 8).to(dtype) * 2.0**-24
    if kind == "uniform":
        return unit[:, :width]
    # Box and Muller: two normal numbers of two uniform ones, the first of which must not be 0.
    length, angle = (-2 * torch.log(unit[:, 0::2] + 2.0**-25)).sqrt(), 2 * math.pi * unit[:, 1::2]
    return torch.stack([length * angle.cos(), length * angle.sin()], -1).flatten(1)[:, :width]
