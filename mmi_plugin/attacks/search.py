"""A space of perturbations in, the worst of each row out: restarts and losses in turn, rows leave once broken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mmi_plugin.attacks import Attack
from mmi_plugin.attacks.apgd import Found, apgd
from mmi_plugin.attacks.balls import Ball
from mmi_plugin.attacks.losses import losses, margin
from mmi_plugin.attacks.square import square

POINTS = 21
"""Numbers of a curve of losses that are kept."""
SAME = {torch.float32: 1e-4, torch.float64: 1e-9}
COARSE = 2e-2


class Space(Protocol):
    """B rows that can be moved. gold: (B,) int64, the right of their K options. seeds: names of random streams, a row
    each."""

    ball: Ball
    gold: torch.Tensor
    width: int
    dtype: torch.dtype

    def logits(self, delta: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """(A, L, D) perturbations of rows (A,) int64 -> (A, K) logits of their options."""
        ...

    def seeds(self, restart: int) -> torch.Tensor:
        """Return a seed for each row, (B,) int64."""
        ...


@dataclass
class Searched:
    """Of B rows: `delta` (B, L, D), the worst found; `curve`, of each row the best loss of the first run so far, at up
    to POINTS steps, the last of them where it was broken; `passes`: of rows through the model; `still`: whether the
    gradient was zero wherever a run began; `random`: whether the same input twice gave other logits; `broken`: whether
    the answer at `delta` was confirmed to be wrong; `apart`: whether, with nothing moved, the answer is wrong while the
    right option is ahead, or right while another is."""

    delta: torch.Tensor
    curve: list[list[float]]
    passes: int
    still: list[bool]
    random: list[bool]
    broken: list[bool]
    apart: list[bool]


Confirm = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(A, L, D) perturbations of rows (A,) int64 -> (A,) bool, whether the answers that the model then gives are wrong."""


def search(space: Space, attack: Attack, confirm: Confirm) -> Searched:
    """Return the worst perturbation of each row, by `attack`; one that is broken is looked for no longer.

    Rows that are wrong without one, and all rows of "noise", keep what they have: zero, or one random draw.
    """
    rows, device = torch.arange(len(space.gold), device=space.gold.device), space.gold.device
    zero = space.ball.zero(space.width)
    with torch.no_grad():
        clean, again = (space.logits(zero, rows) for _ in range(2))
    tolerance = SAME.get(space.dtype, COARSE) * clean.abs().amax()
    random = ((clean - again).abs().amax(1) > tolerance).tolist()
    searched = Searched(
        zero, [[] for _ in rows], 2 * len(rows), [False] * len(rows), random, [False] * len(rows), [False] * len(rows)
    )
    if attack.by == "noise":
        searched.delta = space.ball.random(space.seeds(0), space.width)
        return searched
    wrong, best = confirm(zero, rows), torch.full((len(rows),), -torch.inf, device=device)
    searched.apart, searched.broken = ((margin(clean, space.gold) > 0) != wrong).tolist(), wrong.tolist()
    left = ~wrong
    for restart in range(attack.restarts):
        for number, loss in enumerate(losses(clean.shape[1]) if attack.by == "apgd" else [None]):
            at = left.nonzero()[:, 0]
            if not len(at):
                return searched
            own = space.ball.take(at)
            start = own.random(space.seeds(restart * 1000 + number)[at], space.width)
            own_logits = _of(space, at)
            if loss is None:
                found = square(own_logits, own, start, space.gold[at], attack.queries, restart)
            else:
                found = apgd(own_logits, loss, own, start, space.gold[at], attack.steps)
            _note(searched, found, at, first=restart == number == 0)
            better = found.margin > best[at]
            best[at[better]], searched.delta[at[better]] = found.margin[better], found.delta[better]
            broken = at[found.margin > 0]
            if len(broken):
                left[broken] = ~confirm(searched.delta[broken], broken)
                best[broken[left[broken]]] = -torch.inf  # the answer was right all the same
                for row in broken[~left[broken]].tolist():
                    searched.broken[row] = True
    return searched


def _of(space: Space, at: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda delta, rows: space.logits(delta, at[rows])


def _note(searched: Searched, found: Found, at: torch.Tensor, first: bool) -> None:
    """Note what a run on rows `at` (A,) took and saw."""
    searched.passes += found.passes
    numbers = at.tolist()
    for row, still in zip(numbers, found.still.tolist(), strict=True):
        searched.still[row] |= still
    if not first:
        return
    for row, climbed in zip(numbers, found.loss.tolist(), strict=True):
        searched.curve[row] = thinned([value for value in climbed if value == value], len(climbed))


def thinned(losses: Sequence[float], steps: int) -> list[float]:
    """Return the losses of a run of `steps` at equal distances of steps, about POINTS; of one that ended before, the
    last, too."""
    every = -(-steps // POINTS) or 1
    kept = losses[::every] if len(losses) == steps else [*losses[:-1:every], losses[-1]]
    return [round(value, 4) for value in kept]
