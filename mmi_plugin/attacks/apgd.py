"""Logits of what is moved in, the worst perturbation found out: Auto-PGD (Croce and Hein 2020, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from mmi_plugin.attacks.balls import Ball
from mmi_plugin.attacks.losses import Loss, margin

ALPHA, RHO = 0.75, 0.75
Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(A, L, D) perturbations of rows (A,) int64 -> (A, K) logits of their options."""


def checkpoints(steps: int) -> list[int]:
    """Return the steps w_j = ceil(p_j N) after which the step size is looked at: p_1 = 0.22,
    p_(j+1) = p_j + max(p_j - p_(j-1) - 0.03, 0.06)."""
    places = [0.0, 0.22]
    while places[-1] < 1:
        places.append(places[-1] + max(places[-1] - places[-2] - 0.03, 0.06))
    return [math.ceil(round(place * steps, 9)) for place in places[1:] if place <= 1]


@dataclass
class Found:
    """Of B rows: `delta` (B, L, D), the best found, or the first that breaks its row; `margin` (B,) of the best wrong
    option above the right one there; `loss` (B, steps + 1), the largest so far, NaN once a row has left; `still` (B,)
    bool, whether the first gradient was zero; `passes`: how many rows were run through the model in all."""

    delta: torch.Tensor
    margin: torch.Tensor
    loss: torch.Tensor
    still: torch.Tensor
    passes: int = 0

    @staticmethod
    def begun(start: torch.Tensor, looks: int) -> Found:
        """Return what is found before the first of so many looks, from `start` (B, L, D)."""
        count = len(start)
        none = torch.zeros(count, dtype=torch.bool, device=start.device)
        return Found(
            start.clone(), start.new_full((count,), -torch.inf), start.new_full((count, looks), torch.nan), none
        )


@dataclass
class _State:
    """Rows that are still climbing, A of them: `rows` (A,) of B; `x`, `old`, `gradient`, `best` and `best_gradient`
    (A, L, D); `f`, `top` (the best loss), `step` (in radii), `ups`, `step_then` and `top_then` (A,)."""

    rows: torch.Tensor
    x: torch.Tensor
    old: torch.Tensor
    gradient: torch.Tensor
    f: torch.Tensor
    best: torch.Tensor
    best_gradient: torch.Tensor
    top: torch.Tensor
    step: torch.Tensor
    ups: torch.Tensor
    step_then: torch.Tensor
    top_then: torch.Tensor

    def keep(self, kept: torch.Tensor) -> None:
        """Drop the rows outside of `kept` (A,) bool."""
        for name, value in vars(self).items():
            setattr(self, name, value[kept])

    def move(self, x: torch.Tensor, f: torch.Tensor, gradient: torch.Tensor, broken: torch.Tensor) -> torch.Tensor:
        """Go on to `x` (A, L, D), with its loss (A,) and gradient; return `broken` (A,)."""
        self.old, self.x, self.gradient = self.x, x, gradient
        self.ups, self.f = self.ups + (f > self.f), f
        better = f > self.top
        self.top = torch.where(better, f, self.top)
        self.best = torch.where(better[:, None, None], x, self.best)
        self.best_gradient = torch.where(better[:, None, None], gradient, self.best_gradient)
        return broken

    def check(self, since: int) -> None:
        """At a checkpoint, `since` steps after the last: halve the step of rows that go round in circles, and go on
        from their best point."""
        few = self.ups < RHO * since
        stuck = (self.step == self.step_then) & (self.top == self.top_then)
        self.step_then, self.top_then = self.step.clone(), self.top.clone()
        halved = few | stuck
        self.step = torch.where(halved, self.step / 2, self.step)
        for name, best in (("x", self.best), ("gradient", self.best_gradient)):
            setattr(self, name, torch.where(halved[:, None, None], best, getattr(self, name)))
        self.f = torch.where(halved, self.top, self.f)
        self.ups = torch.zeros_like(self.ups)


def apgd(logits: Logits, loss: Loss, ball: Ball, start: torch.Tensor, gold: torch.Tensor, steps: int) -> Found:
    """Climb on `loss` within `ball` from `start` (B, L, D) for `steps`; a row leaves once a wrong option is ahead.

    gold: (B,) int64, the right options. No tensor but the perturbation gets a gradient.
    """
    found = Found.begun(start, steps + 1)
    look, rows = _Look(logits, loss, gold, found), torch.arange(len(start), device=start.device)
    f, gradient, broken = look(start, rows, 0)
    found.still = ~((gradient * ball.mask[..., None]).flatten(1).abs().amax(1) > 0)  # nor is what is no number
    step, none = torch.full_like(f, 2.0), torch.zeros_like(f)
    state = _State(
        rows, start, start, gradient, f, start, gradient, f, step, none, step, torch.full_like(f, -torch.inf)
    )
    state.keep(~broken)
    last, looks = 0, set(checkpoints(steps))
    for count in range(1, steps + 1):
        if not len(state.rows):
            break
        own, alpha = ball.take(state.rows), 1.0 if count == 1 else ALPHA
        straight = own.project(state.x + state.step[:, None, None] * own.ascend(state.gradient))
        new = own.project(state.x + alpha * (straight - state.x) + (1 - alpha) * (state.x - state.old))
        broken = state.move(new, *look(new, state.rows, count))
        if count in looks:
            state.check(count - last)
            last = count
        state.keep(~broken)
    return found


@dataclass(frozen=True)
class _Look:
    """Looks at points and notes in `found` what is best."""

    logits: Logits
    loss: Loss
    gold: torch.Tensor
    found: Found

    def __call__(self, x: torch.Tensor, rows: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
        """Return, of points (A, L, D) of rows (A,) after `count` steps, loss (A,), gradient (A, L, D) and whether the
        row is broken, (A,) bool."""
        found, gold = self.found, self.gold[rows]
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            scores = self.logits(x, rows)
            value = self.loss(scores, gold)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        value, above, x = value.detach(), margin(scores.detach(), gold), x.detach()
        before = found.loss[rows].nan_to_num(-torch.inf).amax(1)
        found.loss[rows, count] = torch.maximum(before, value)
        broken = above > 0
        better = (value > before) | broken
        found.delta[rows[better]], found.margin[rows[better]] = x[better], above[better]
        found.passes += len(rows)
        return value, gradient, broken
