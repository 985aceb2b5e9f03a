"""The inner loop: adversarial copies of rows, found by replaying the decoder alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel

from mmi_plugin.trainers.adversary import Adversary
from mmi_plugin.trainers.decoder import AnswerTokens, DecoderRows, evaluating, full_precision, row_means
from mmi_plugin.trainers.layout import MIN_SHARED, STRETCH, Layout, Tree, grow_trees, plan, sequence_cost

Replay = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class Attack:
    """Adversarial copies of some rows of a batch.

    rows: (A,) int64, which rows; `replayed` (A',) int64, those that go through the inner loop, which
    may be more. mask: (A', L) bool, seeds: (A',) int64 as Adversary takes them. labels: (A', L).
    keys: (A', L) int64 as grow_trees takes them; None where the decoder needs padded rows.
    `delta` (A, L, D) is there after `move`.
    """

    adversary: Adversary
    rows: torch.Tensor
    replayed: torch.Tensor
    mask: torch.Tensor
    seeds: torch.Tensor
    labels: torch.Tensor
    lengths: list[int]
    keys: np.ndarray | None
    reuse_prefix: bool
    weight_gradients: bool
    delta: torch.Tensor = field(init=False)

    def move(self, base: PreTrainedModel, rows: DecoderRows) -> DecoderRows:
        """Return the adversarial copies of the batch's rows."""
        copies = rows.take(self.replayed)
        copies.deep = [layer.detach() for layer in copies.deep]
        found = self._find_delta(base, copies.with_embeds(copies.embeds.detach()))
        self.delta = found[torch.isin(self.replayed, self.rows)]
        attacked = rows.take(self.rows)
        return attacked.with_embeds(attacked.embeds + self.delta.to(attacked.embeds.dtype))

    def _find_delta(self, base: PreTrainedModel, rows: DecoderRows) -> torch.Tensor:
        decoder, head = base.get_decoder(), base.get_output_embeddings()
        rows.rest["use_cache"] = False
        extra = [p for p in base.parameters() if p.requires_grad] if self.weight_gradients else []
        delta = rows.embeds.new_zeros(rows.embeds.shape, dtype=full_precision(rows.embeds[:0]).dtype)
        with torch.enable_grad(), evaluating(decoder):
            for part in self._parts():
                index = torch.tensor(part, device=delta.device)
                own, tokens = rows.take(index), AnswerTokens.of(self.labels[index])
                replay = self._replay(decoder, own, tokens, part)

                def row_loss(
                    moved: torch.Tensor, tokens: AnswerTokens = tokens, replay: Replay = replay
                ) -> torch.Tensor:
                    logits = full_precision(head(replay(moved)))
                    return row_means(cross_entropy(logits, tokens.target, reduction="none"), tokens.row, len(moved))

                delta[index] = self.adversary.perturb(own.embeds, self.mask[index], self.seeds[index], row_loss, extra)
        return delta

    def _fixed(self) -> list[int]:
        """How many positions before the first that the adversary moves or that predicts an answer, per row."""
        ends = self.mask | AnswerTokens.of(self.labels).mask
        return ends.int().argmax(1).tolist()

    def _parts(self) -> list[list[int]]:
        """Split the rows into those with a long fixed prefix and the others; a row's delta is its own."""
        rows = range(len(self.lengths))
        if self.keys is None or not self.reuse_prefix or not self.adversary.replays:
            return [list(rows)]
        fixed = self._fixed()
        late = [row for row in rows if fixed[row] >= MIN_SHARED * self.lengths[row]]
        return [part for part in ([row for row in rows if row not in set(late)], late) if part]

    def _replay(self, decoder: nn.Module, rows: DecoderRows, tokens: AnswerTokens, part: list[int]) -> Replay:
        if self.keys is None:
            return lambda moved: decoder(**rows.with_embeds(moved).call()).last_hidden_state[tokens.mask]
        lengths = [self.lengths[row] for row in part]
        hidden, device = rows.embeds.shape[-1], rows.embeds.device
        bins = plan(None, lengths, hidden)
        if self.reuse_prefix and self.adversary.replays:
            fixed = self._fixed()
            trees = grow_trees(self.keys[part], lengths, int(max(STRETCH) * max(lengths)))
            trees = [tree if tree.prefix else Tree(tree.rows, fixed[part[tree.rows[0]]]) for tree in trees]
            replays = self.adversary.replays
            cheaper = _cached_cost(trees, lengths, hidden, replays) < _plain_cost(bins, lengths, hidden, replays)
            if cheaper and any(tree.prefix for tree in trees):
                return CachedPrefix(decoder, rows, tokens, trees, lengths)
        layout = Layout.of(bins, lengths, rows.embeds.shape[1], device)
        call = rows.packed(layout, layout.attention(rows.embeds.dtype))
        answers = layout.place[tokens.mask]

        def replay(moved: torch.Tensor) -> torch.Tensor:
            output = decoder(**{**call, "inputs_embeds": layout.pack(moved)})
            return output.last_hidden_state.flatten(0, 1)[answers]

        return replay


class CachedPrefix:
    """Replays only what comes after each tree's prefix, whose keys and values are computed once."""

    def __init__(
        self, decoder: nn.Module, rows: DecoderRows, tokens: AnswerTokens, trees: list[Tree], lengths: list[int]
    ) -> None:
        whole = Layout.of([[tree] for tree in trees], lengths, rows.embeds.shape[1], rows.embeds.device)
        prefix, self._branches = whole.split([tree.prefix for tree in trees])
        dtype = rows.embeds.dtype
        cache = DynamicCache(config=decoder.config)
        with torch.no_grad():
            call = rows.packed(prefix, prefix.attention(dtype))
            decoder(**{**call, "use_cache": True, "past_key_values": cache})
        self._decoder = decoder
        self._states = [(layer.keys, layer.values) for layer in cache.layers]
        self._call = rows.packed(self._branches, self._branches.attention(dtype, before=prefix))
        self._answers = self._branches.place[tokens.mask]

    def __call__(self, moved: torch.Tensor) -> torch.Tensor:
        """(A, L, D) embeddings -> (N, D) last hidden states where answers are predicted."""
        cache = DynamicCache(config=self._decoder.config)  # a call adds to its cache, so each has a new one
        for layer, (keys, values) in enumerate(self._states):
            cache.update(keys, values, layer)
        call = {**self._call, "inputs_embeds": self._branches.pack(moved), "past_key_values": cache}
        return self._decoder(**call).last_hidden_state.flatten(0, 1)[self._answers]


def _plain_cost(bins: list[list[Tree]], lengths: list[int], hidden: int, replays: int) -> float:
    size = max(sum(tree.size(lengths) for tree in part) for part in bins)
    return replays * len(bins) * sequence_cost(size, size, hidden)


def _cached_cost(trees: list[Tree], lengths: list[int], hidden: int, replays: int) -> float:
    """A replay goes forward and back, about twice the cost of the prefix's one pass forward."""
    prefix = max(tree.prefix for tree in trees)
    branches = max(tree.size(lengths) - tree.prefix for tree in trees)
    steps = replays * sequence_cost(branches, prefix + branches, hidden)
    return len(trees) * (steps + sequence_cost(prefix, prefix, hidden) / 2)
