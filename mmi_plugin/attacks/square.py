"""Logits of what is moved in, the worst perturbation that queries alone find out: Square attack, linf.

Andriushchenko et al. 2020, algorithms 1 and 2: no gradient is used, so it tells when gradients mislead.
"""

from __future__ import annotations

import torch

from mmi_plugin.attacks.apgd import Found, Logits
from mmi_plugin.attacks.balls import Ball
from mmi_plugin.attacks.losses import margin

PART = 0.8
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""Of 10,000 queries, those after which the part of the coordinates that are changed at once is halved."""


def part(query: int, queries: int) -> float:
    """Return which part of the coordinates the query changes."""
    return PART / 2 ** sum(query * 10_000 / queries > step for step in HALVED)


def square(logits: Logits, ball: Ball, start: torch.Tensor, gold: torch.Tensor, queries: int, seed: int) -> Found:
    """Search within an linf `ball` from `start` (B, L, D) for `queries`; a row leaves once a wrong option is ahead.

    gold: (B,) int64. What is changed at once is a block of L times D, to either end of the ball.
    """
    found = Found.begun(start, queries + 1)
    rng = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(start), device=start.device)
    stripes = torch.randint(0, 2, (len(start), 1, start.shape[2]), generator=rng).to(start) * 2 - 1
    tried = ball.project(ball.radius * stripes.expand_as(start))
    for query in range(queries + 1):
        with torch.no_grad():
            above = margin(logits(tried, rows), gold[rows])
        better = above > found.margin[rows]
        found.delta[rows[better]], found.margin[rows[better]] = tried[better], above[better]
        found.loss[rows, query] = found.margin[rows]
        found.passes += len(rows)
        rows = rows[found.margin[rows] <= 0]
        if not len(rows):
            break
        tried = _block(found.delta[rows], ball.take(rows), part(query, queries), rng)
    return found


def _block(delta: torch.Tensor, ball: Ball, share: float, rng: torch.Generator) -> torch.Tensor:
    """Return `delta` (A, L, D) with a block of what may move set to one end of the ball, another for each row."""
    tried = delta.clone()
    for row, mask in enumerate(ball.mask.cpu()):
        places = mask.nonzero()[:, 0]
        high = max(1, round(len(places) * share**0.5))
        wide = max(1, round(delta.shape[2] * share**0.5))
        first = int(torch.randint(0, len(places) - high + 1, (), generator=rng))
        left = int(torch.randint(0, delta.shape[2] - wide + 1, (), generator=rng))
        end = float(torch.randint(0, 2, (), generator=rng)) * 2 - 1
        at = places[first : first + high].to(delta.device)
        tried[row, at, left : left + wide] = end * ball.radius[row, 0, 0]
    return ball.project(tried)
