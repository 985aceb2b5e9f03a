"""What may move, and how far, in; starts, steps and what of a perturbation is allowed out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mmi_plugin.attacks.noise import draw
from mmi_plugin.item import FAMILIES


def irrelevant(
    family: torch.Tensor,
    image: torch.Tensor,
    prompt: torch.Tensor,
    after_image: bool = False,
    whole_prompt: bool = False,
) -> torch.Tensor:
    """M of (1) of `trainers/method.py`, (B, L) bool.

    family: (B,) int64, places in FAMILIES. image, prompt: (B, L) bool, tokens of an image and tokens before the
    answer. after_image: of the text, what follows the row's last image. whole_prompt: text and image tokens of
    image-heavy and text-heavy rows alike.
    """
    image_heavy, text_heavy = (family[:, None] == FAMILIES.index(name) for name in ("image_heavy", "text_heavy"))
    if whole_prompt:
        return prompt & (image_heavy | text_heavy)
    text = ~image
    if after_image:
        text &= image.int().flip(1).cumsum(1).flip(1) == 0  # no image token from here on
    return prompt & (image_heavy & text | text_heavy & image)


def masked_rms(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Root mean square of (A, L, D) `values` inside the (A, L) mask, per row: (A, 1, 1)."""
    total = (values.square() * mask[..., None]).sum((1, 2), keepdim=True)
    return (total / (mask.sum(1)[:, None, None] * values.shape[-1]).clamp(min=1)).sqrt()


def _rows(values: torch.Tensor) -> torch.Tensor:
    """Length of each row of (A, L, D), (A, 1, 1)."""
    return values.flatten(1).norm(dim=1)[:, None, None]


@dataclass(frozen=True)
class Ball:
    """Perturbations (A, L, D) of at most `radius` (A, 1, 1) in `norm`, "linf" or "l2", zero outside `mask` (A, L) bool.

    origin: (A, L, D) in [0, 1], which what is moved stays in; None where there are no such bounds.
    """

    norm: str
    radius: torch.Tensor
    mask: torch.Tensor
    origin: torch.Tensor | None = None

    def take(self, rows: torch.Tensor) -> Ball:
        """Return the balls of `rows` (A',) int64."""
        origin = None if self.origin is None else self.origin[rows]
        return replace(self, radius=self.radius[rows], mask=self.mask[rows], origin=origin)

    def project(self, delta: torch.Tensor) -> torch.Tensor:
        """Return the nearest allowed perturbation to each of `delta` (A, L, D); with `origin` and l2 an allowed one."""
        delta = delta * self.mask[..., None]
        if self.norm == "linf":
            delta = torch.clamp(delta, -self.radius, self.radius)
        else:
            delta = delta * (self.radius / _rows(delta).clamp(min=torch.finfo(delta.dtype).tiny)).clamp(max=1)
        if self.origin is not None:  # shortens coordinates only, so the norm still holds
            delta = (self.origin + delta).clamp(0, 1) - self.origin
        return delta

    def ascend(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the perturbation of length `radius` along which a linear loss climbs most: (A, L, D) twice."""
        gradient = gradient * self.mask[..., None]
        if self.norm == "linf":
            return self.radius * gradient.sign()
        return self.radius * gradient / _rows(gradient).clamp(min=torch.finfo(gradient.dtype).tiny)

    def zero(self, width: int) -> torch.Tensor:
        """Return no perturbation, (A, L, width)."""
        return self.radius.new_zeros(*self.mask.shape, width)

    def random(self, seeds: torch.Tensor, width: int) -> torch.Tensor:
        """Return a random perturbation of each row, (A, L, width), a function of `seeds` (A,) int64 alone: uniform in
        the cube, or on the sphere of l2."""
        dtype = self.radius.dtype
        if self.norm == "linf":
            noise = draw("uniform", self.mask, seeds, width, dtype)
            return self.project(self.radius * (2 * noise - self.mask[..., None].to(dtype)))
        return self.project(self.ascend(draw("normal", self.mask, seeds, width, dtype)))


def as_bytes(moved: torch.Tensor, ball: Ball) -> torch.Tensor:
    """Return `moved` (A, L, D), within `ball` and in [0, 1], as whole 255ths, int64, that are still within it.

    To the nearest; where the norm would then be broken, towards `ball.origin`, which is in 255ths: of l2 the
    coordinates whose rounding costs most.
    """
    start = (ball.origin * 255).round()
    steps = moved.double() * 255 - start
    short, radius = steps.trunc(), ball.radius.double() * 255 + 1e-6
    rest = (steps - short).abs()
    if ball.norm == "linf":
        return (start + torch.where(steps.round().abs() <= radius, steps.round(), short)).long()
    low, high = torch.full_like(radius, 0.5), torch.ones_like(radius) + 1e-6
    for _ in range(30):  # the least fraction from which on all are rounded up
        middle = (low + high) / 2
        tried = short + (rest >= middle) * steps.sign()
        fits = _rows(tried) <= radius
        low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
    nearest = short + (rest >= 0.5) * steps.sign()
    chosen = torch.where(_rows(nearest) <= radius, nearest, short + (rest >= high) * steps.sign())
    return (start + chosen).long()
