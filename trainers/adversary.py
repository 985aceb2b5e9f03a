"""Adversarial noise on input embeddings: projected gradient descent (PGD) and random Gaussian (RG)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

RowLoss = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Adversary:
    """Makes `delta`, which moves the embeddings of the irrelevant modality (method section 2).

    With `relative`, the lengths eps and sigma, and step_size under `sign` and `l2`, are multiples of
    the root mean square (RMS) of the row's own embeddings inside the mask.
    """

    kind: str = "pgd"
    step_rule: str = "sign"
    step_size: float = 0.5
    eps: float = 0.05
    steps: int = 2
    sigma: float = 0.05
    relative: bool = False

    @property
    def replays(self) -> int:
        """How often the loss of perturbed rows is asked for."""
        return self.steps if self.kind == "pgd" else 0

    def perturb(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        seeds: torch.Tensor,
        row_loss: RowLoss,
        extra: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Return delta, shaped like `embeds`, zero outside `mask`.

        embeds: (A, L, D), no gradient. mask: (A, L) bool. seeds: (A,) int64, one random stream per
        row, so that a row's draw does not depend on its neighbours.
        row_loss: (A, L, D) embeddings -> (A,) losses. PGD climbs on their sum, so the size of the
        batch does not change a row's step. Parameters get no gradient.
        extra: tensors whose gradients are computed, too, and dropped: what a plain backward pass costs.
        """
        dtype = torch.promote_types(embeds.dtype, torch.float32)
        scale = self._scale(embeds.to(dtype), mask)
        if self.kind == "rg":
            return self.sigma * scale * _draw(torch.randn, embeds, mask, seeds, dtype)
        delta = self.eps * scale * (2 * _draw(torch.rand, embeds, mask, seeds, dtype) - mask[..., None].to(dtype))
        for _ in range(self.steps):
            delta.requires_grad_(True)
            loss = row_loss(embeds + delta.to(embeds.dtype)).sum()
            gradient, *_ = torch.autograd.grad(loss, [delta, *extra], allow_unused=True)
            moved = delta.detach() + self._step(gradient * mask[..., None], mask, scale)
            delta = torch.clamp(moved, -self.eps * scale, self.eps * scale)
        return delta.detach()

    def _step(self, gradient: torch.Tensor, mask: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """One step: alpha * g, alpha * sign(g), or alpha * sqrt(n) * g / |g| over the row's n coordinates."""
        if self.step_rule == "raw":
            return self.step_size * gradient
        if self.step_rule == "sign":
            return self.step_size * scale * gradient.sign()
        return (
            self.step_size * scale * gradient / masked_rms(gradient, mask).clamp(min=torch.finfo(gradient.dtype).tiny)
        )

    def _scale(self, embeds: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return masked_rms(embeds, mask) if self.relative else embeds.new_ones(len(embeds), 1, 1)


def masked_rms(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Root mean square of (A, L, D) `values` inside the (A, L) mask, per row: (A, 1, 1)."""
    total = (values.square() * mask[..., None]).sum((1, 2), keepdim=True)
    return (total / (mask.sum(1)[:, None, None] * values.shape[-1]).clamp(min=1)).sqrt()


def _draw(
    sample: Callable[..., torch.Tensor],
    embeds: torch.Tensor,
    mask: torch.Tensor,
    seeds: torch.Tensor,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Draw inside the mask, on the CPU and token by token, so that neither device nor padding matters."""
    rows = []
    for count, seed in zip(mask.sum(1).tolist(), seeds.tolist(), strict=True):
        generator = torch.Generator().manual_seed(seed)
        rows.append(sample(count, embeds.shape[-1], generator=generator, dtype=dtype))
    noise = embeds.new_zeros(embeds.shape, dtype=dtype)
    noise[mask] = torch.cat(rows).to(embeds.device)
    return noise
