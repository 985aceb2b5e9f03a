"""Gradients of tokens in, a suffix of tokens out: greedy coordinate gradient search (Zou et al. 2023, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch

LIKELY = 256
"""Of a place, the replacements with the largest gradient, from which candidates are drawn."""


def coordinate_search(
    gradient: Callable[[torch.Tensor], torch.Tensor],
    look: Callable[[torch.Tensor], torch.Tensor],
    valid: Callable[[torch.Tensor], torch.Tensor],
    tokens: torch.Tensor,
    allowed: torch.Tensor,
    steps: int,
    candidates: int,
    seed: int,
) -> tuple[torch.Tensor, list[float]]:
    """Return the best tokens found, (k,) int64, and the best score so far after each step; ends once it is above 0.

    gradient: tokens (k,) -> (k, V), how much the score climbs, to first order, with each token at each place. look:
    (N, k) tokens -> (N,) scores, above 0 where the item is broken. valid: (N, k) -> (N,) bool, what a text can say.
    allowed: (V,) bool. Unlike in the paper a step is taken only where it climbs.
    """
    rng = torch.Generator().manual_seed(seed)
    best = float(look(tokens[None])[0])
    curve = [best]
    for _ in range(steps):
        if best > 0:
            break
        likely = gradient(tokens).masked_fill(~allowed, -torch.inf).topk(min(LIKELY, int(allowed.sum())), 1).indices
        places = torch.randint(0, len(tokens), (candidates,), generator=rng)
        ranks = torch.randint(0, likely.shape[1], (candidates,), generator=rng)
        tried = tokens.repeat(candidates, 1)
        tried[torch.arange(candidates), places] = likely.cpu()[places, ranks].to(tokens.device)
        tried = tried.unique(dim=0)
        tried = tried[valid(tried)]
        if len(tried):
            scores = look(tried)
            top = int(scores.argmax())
            if float(scores[top]) > best:
                best, tokens = float(scores[top]), tried[top]
        curve.append(best)
    return tokens, curve
