"""Logits of prompts and of their contrasts in, those that are decoded from out, as a baseline says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from mmi_plugin.models.baselines import Baseline, Settings, generator

Options = Sequence[list[list[int]] | None]
"""Of each row the tokens of its options, as `Prompts.option_tokens` has them."""


class Combined(LogitsProcessor):
    """Makes one of the logits of R rows and of their contrasts after them: B is R without contrasts, else 2 R."""

    def __init__(
        self,
        baseline: Baseline,
        mask: torch.Tensor,
        direct: Options,
        choices: Sequence[tuple[str, ...]],
        contrasted: Sequence[bool],
    ) -> None:
        """mask: (B, L) bool, which columns of the prompts are tokens. direct, choices: of each row the tokens of its
        options and their labels. contrasted: which rows have a contrast that is not the prompt itself."""
        self._settings, self._method = baseline.settings, baseline.method
        self._mask, self._rows = mask, len(direct)
        self._contrasted = torch.tensor(contrasted, device=mask.device)[:, None]
        self._direct, self._choices = direct, choices
        lengths = [len(tokens) for own in direct for tokens in own or ()] if baseline.reads_options else []
        self._longest = max(lengths, default=0)  # after so many tokens no option goes on, and nothing waits for them

    def around(self, processors: Sequence[LogitsProcessor]) -> list[LogitsProcessor]:
        """Return `processors` between the combination and what lets contrasts, too, say what their rows say."""
        last = Sampled(self._settings, self._mask) if "samples" in self._settings else Mirrored(self._rows)
        return [self, *processors, last]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the combined logits (B, V), twice where there are contrasts. input_ids: (B, L); scores: (B, V)."""
        own, other = scores[: self._rows].float(), scores[self._rows :].float()
        start = self._mask.shape[1]
        step = input_ids.shape[1] - start
        said = input_ids[: self._rows, start:].tolist() if step < self._longest else []
        found = own
        if len(other):
            apart = own - other
            weight = self._method.weight(self._settings, step + 1)
            found = torch.where(self._contrasted, apart if self._method.ratio else own + weight * apart, own)
        found = found.masked_fill(~self._possible(own, said), -torch.inf)
        if "by" in self._settings and said:
            found = found + self._shift(found, said)
        return torch.cat([found, found]) if len(other) else found

    def _possible(self, own: torch.Tensor, said: Sequence[list[int]]) -> torch.Tensor:
        """Return (R, V) bool, which tokens may be said next: the plausible ones, or an item's options."""
        possible = own > -torch.inf
        if beta := self._settings.get("beta"):
            possible &= own >= own.amax(-1, keepdim=True) + math.log(beta)
        if self._method.options_alone and said:
            for row, (direct, before) in enumerate(zip(self._direct, said, strict=True)):
                if heads := sorted({tokens[len(before)] for tokens in _going_on(direct, before)}):
                    possible[row] = False
                    possible[row, heads] = True
        return possible

    def _shift(self, found: torch.Tensor, said: Sequence[list[int]]) -> torch.Tensor:
        """Return (R, V), what is added where a row says its letter: at the last token of that option."""
        added, letter = torch.zeros_like(found), self._settings["letter"]
        for row, (direct, names, before) in enumerate(zip(self._direct, self._choices, said, strict=True)):
            if direct is not None and letter in names:
                tokens = direct[names.index(letter)]
                if before == tokens[:-1]:
                    added[row, tokens[-1]] = self._settings["by"]
        return added


class Mirrored(LogitsProcessor):
    """Lets contrasts say what their rows say: it comes last, after penalties that depend on the prompt."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores (B, V) of the first rows, for both halves. input_ids: not read."""
        return scores[: self._rows].repeat(len(scores) // self._rows, 1)


class Sampled(LogitsProcessor):
    """Lets the likeliest token be one drawn at a temperature, by noise that depends on seed, prompt and sample alone.

    mask: (R, L) bool, which columns of the prompts are tokens; `samples` rows in turn are of one prompt.
    """

    def __init__(self, settings: Settings, mask: torch.Tensor) -> None:
        self._settings, self._mask = settings, mask
        self._draws: list[torch.Generator] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (R, V) with Gumbel noise, of which the greatest is a sample. input_ids: (R, L)."""
        if not self._draws:
            samples, seed = self._settings["samples"], self._settings["seed"]
            prompts = [ids[: len(own)][own].tolist() for ids, own in zip(input_ids, self._mask, strict=True)]
            names = [(seed, place % samples, *ids) for place, ids in enumerate(prompts)]
            self._draws = [generator("self_consistency", *name) for name in names]
        uniform = torch.stack([torch.rand(scores.shape[1], generator=draw) for draw in self._draws])
        gumbel = -(-uniform.clamp(min=1e-20).log()).clamp(min=1e-20).log()
        return scores / self._settings["temperature"] + gumbel.to(scores)


def vote(verdicts: Sequence[str | None], choices: Sequence[str]) -> tuple[int, tuple[float, ...] | None]:
    """Return which of several answers to one prompt is the first with the commonest verdict, and the share of each
    choice among those that have one; None where none has, or without choices."""
    counts = Counter(verdicts)
    read = sum(counts[choice] for choice in choices)
    shares = tuple(counts[choice] / read for choice in choices) if read else None
    return verdicts.index(counts.most_common(1)[0][0]), shares


def _going_on(direct: list[list[int]] | None, before: list[int]) -> list[list[int]]:
    """Return the options that go on from the tokens said."""
    return [own for own in direct or () if len(own) > len(before) and own[: len(before)] == before]
