"""The three parts of the loss of one batch, as sums and counts: L = L_sft + a L_adv + lambda L_cons."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from mmi_plugin.trainers import consistency
from mmi_plugin.trainers.decoder import AnswerTokens, full_precision


@dataclass(frozen=True)
class Rows:
    """The rows of a batch with their adversarial copies, clean rows first.

    labels: (R, L). origin: (R,) the row of each row's origin. clean: how many rows are clean.
    """

    labels: torch.Tensor
    origin: torch.Tensor
    clean: int

    @staticmethod
    def of(labels: torch.Tensor, origin: torch.Tensor, attacked: torch.Tensor) -> Rows:
        """Add a copy of the `attacked` rows (A,) to labels (B, L) and origin (B,)."""
        return Rows(torch.cat([labels, labels[attacked]]), torch.cat([origin, origin[attacked]]), len(labels))

    @property
    def compared(self) -> torch.Tensor:
        """(R,) bool: the rows that the consistency compares with their origin."""
        return self.origin != torch.arange(len(self.origin), device=self.origin.device)

    def counts(self) -> torch.Tensor:
        """What the parts of the loss are means over, (3,): answer tokens of clean rows, answer tokens
        of adversarial rows, groups with something to compare."""
        tokens = (self.labels[:, 1:] != -100).sum(1)
        groups = self.origin[self.compared].unique().numel()
        return torch.stack([tokens[: self.clean].sum(), tokens[self.clean :].sum(), tokens.new_tensor(groups)])


def answer_losses(logits: torch.Tensor, tokens: AnswerTokens) -> torch.Tensor:
    """Next-token cross entropy of every answer token: logits (N, V) -> (N,)."""
    return cross_entropy(full_precision(logits), tokens.target, reduction="none")


def consistency_sum(
    kind: str, features: torch.Tensor, tokens: AnswerTokens, rows: Rows, temperature: float
) -> torch.Tensor:
    """Sum over groups of the mean divergence of their rows from the origin.

    features: (N, V) logits for `kl` and `js`, (N, D) last hidden states for `mse`, one per answer
    token in the order of `tokens`.
    """
    lengths = torch.bincount(tokens.row, minlength=len(rows.origin))
    starts = lengths.cumsum(0) - lengths
    other = rows.compared[tokens.row].nonzero()[:, 0]
    row = tokens.row[other]
    origin = starts[rows.origin[row]] + other - starts[row]  # the same answer token in the origin row
    pair = full_precision(features[origin]), full_precision(features[other])
    if kind == "mse":
        return consistency.group_sum(consistency.mse(*pair), row, rows.origin)
    divergence = consistency.kl if kind == "kl" else consistency.js
    return consistency.group_sum(divergence(*pair, temperature), row, rows.origin)
