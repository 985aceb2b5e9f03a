"""Rows laid end to end for the decoder, in trees whose branches share a prefix, so that neither padding
nor repetition costs anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

MIN_SHARED = 0.25
"""A prefix is worth a tree where it is at least this part of a row."""
STRETCH = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0)
"""Longest sequence of a layout, in lengths of the longest row."""


@dataclass(frozen=True)
class Tree:
    """Rows of one sequence whose first `prefix` positions agree; a single row may have a prefix too."""

    rows: tuple[int, ...]
    prefix: int

    def size(self, lengths: list[int]) -> int:
        return self.prefix + sum(lengths[row] - self.prefix for row in self.rows)


def grow_trees(keys: np.ndarray, lengths: list[int], limit: int) -> list[Tree]:
    """Put rows that begin alike into trees of at most `limit` positions.

    keys: (R, L) int64, equal where and only where rows agree in token, image and perturbation.
    """
    order = sorted(range(len(lengths)), key=lambda row: keys[row, : lengths[row]].tolist())
    trees = [Tree((order[0],), lengths[order[0]])]
    for row in order[1:]:
        tree = trees[-1]
        joined = Tree(
            (*tree.rows, row),
            min(tree.prefix, _agree(keys[tree.rows[-1]], keys[row], min(lengths[row], lengths[tree.rows[-1]]))),
        )
        longest = max(lengths[row], lengths[tree.rows[-1]])
        worth = joined.prefix >= MIN_SHARED * longest and _saved(joined) > _saved(tree)
        if worth and joined.size(lengths) <= limit:
            trees[-1] = joined
        else:
            trees.append(Tree((row,), lengths[row]))
    return [tree if len(tree.rows) > 1 else Tree(tree.rows, 0) for tree in trees]


def _agree(one: np.ndarray, other: np.ndarray, limit: int) -> int:
    differ = np.flatnonzero(one[:limit] != other[:limit])
    return int(differ[0]) if len(differ) else limit


def _saved(tree: Tree) -> int:
    return tree.prefix * (len(tree.rows) - 1)


@dataclass(frozen=True)
class Layout:
    """R rows padded to length L as S sequences of length W, each holding whole trees.

    source: (S, W) int64, where each position comes from among the R * L. place: (R, L) int64, the
    way back among the S * W, to the shared position within a prefix; 0 for padding. tree, branch,
    column: (S, W) int64, for every position its tree (-1 where there is none), its row (-1 within a
    prefix) and its place in the row.
    """

    source: torch.Tensor
    place: torch.Tensor
    tree: torch.Tensor
    branch: torch.Tensor
    column: torch.Tensor

    @staticmethod
    def of(bins: list[list[Tree]], lengths: list[int], width: int, device: torch.device) -> Layout:
        """Lay trees out, one list of them per sequence; rows are padded on the right to `width`."""
        size = max(sum(tree.size(lengths) for tree in trees) for trees in bins)
        fields = np.zeros((4, len(bins), size), dtype=np.int64)
        source, tree_of, branch, column = fields
        tree_of[:], branch[:] = -1, -1
        place = np.zeros((len(lengths), width), dtype=np.int64)
        names = iter(range(len(lengths)))
        for number, trees in enumerate(bins):
            start = 0
            for tree in trees:
                name = next(names)
                pieces = [(tree.rows[0], 0, tree.prefix, -1)] if tree.prefix else []
                pieces += [(row, tree.prefix, lengths[row], row) for row in tree.rows]
                for row, first, last, owner in pieces:
                    here = slice(start, start + last - first)
                    source[number, here] = np.arange(row * width + first, row * width + last)
                    column[number, here] = np.arange(first, last)
                    tree_of[number, here], branch[number, here] = name, owner
                    for sharer in tree.rows if owner < 0 else (row,):
                        place[sharer, first:last] = np.arange(number * size + start, number * size + here.stop)
                    start = here.stop
        tensors = [torch.from_numpy(values).to(device) for values in (source, place, tree_of, branch, column)]
        return Layout(*tensors)

    def pack(self, values: torch.Tensor) -> torch.Tensor:
        """(R, L, ...) -> (S, W, ...); what stands in empty positions is arbitrary."""
        return values.flatten(0, 1)[self.source]

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """(S, W, ...) -> (R, L, ...); what stands in padding is arbitrary."""
        return values.flatten(0, 1)[self.place]

    def attention(self, dtype: torch.dtype, before: Layout | None = None) -> torch.Tensor:
        """Additive mask (S, 1, W, K + W): a token sees its prefix and its own branch up to itself.

        before: the K positions whose keys and values come first, if there are any.
        """
        tree, branch, column = (
            values if before is None else torch.cat([earlier, values], 1)
            for earlier, values in zip(
                (before.tree, before.branch, before.column) if before else (None,) * 3,
                (self.tree, self.branch, self.column),
                strict=True,
            )
        )
        seen = self.tree[:, :, None] == tree[:, None, :]
        seen &= (branch[:, None, :] == -1) | (self.branch[:, :, None] == branch[:, None, :])
        seen &= column[:, None, :] <= self.column[:, :, None]
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]

    def split(self, prefixes: list[int]) -> tuple[Layout, Layout]:
        """Return prefixes and branches of sequences that hold one tree each, as layouts of their own.

        Of the way back only the branches' is right.
        """
        first = torch.tensor(prefixes, device=self.source.device)[:, None]
        size = (self.tree >= 0).sum(1, keepdim=True)
        width = int((size - first).max())
        place = self.place // self.source.shape[1] * width + self.place % self.source.shape[1]
        place = place - first[:, 0][self.place // self.source.shape[1]]
        return self._part(torch.zeros_like(first), first, place), self._part(first, size, place)

    def _part(self, first: torch.Tensor, end: torch.Tensor, place: torch.Tensor) -> Layout:
        """The positions from `first` to `end` of each sequence, (S, 1)."""
        index = first + torch.arange(int((end - first).max()), device=first.device)
        inside = index < end
        source, tree, branch, column = (
            values.gather(1, index.clamp(max=values.shape[1] - 1))
            for values in (self.source, self.tree, self.branch, self.column)
        )
        return Layout(source, place, tree.masked_fill(~inside, -1), branch, column)


def sequence_cost(tokens: int, seen: int, hidden: int) -> float:
    """Multiplications in a layer, about 12 hidden^2 for a token and 2 hidden for a pair, in units of 2 hidden."""
    return tokens * (6 * hidden + seen)


def plan(keys: np.ndarray | None, lengths: list[int], hidden: int) -> list[list[Tree]]:
    """Return the cheapest arrangement in sequences that is tried; without `keys`, rows share nothing.

    hidden: the width of the decoder, which weighs tokens against pairs of tokens.
    """
    longest = max(lengths)
    best: tuple[float, list[list[Tree]]] | None = None
    for stretch in STRETCH if keys is not None else (1.0,):
        limit = int(stretch * longest)
        trees = [Tree((row,), 0) for row in range(len(lengths))]
        if keys is not None:
            trees = grow_trees(keys, lengths, limit)
        bins = first_fit_decreasing(trees, lengths, limit)
        size = max(sum(tree.size(lengths) for tree in part) for part in bins)
        cost = len(bins) * sequence_cost(size, size, hidden)
        if best is None or cost < best[0]:
            best = cost, bins
    return best[1]


def first_fit_decreasing(trees: list[Tree], lengths: list[int], limit: int) -> list[list[Tree]]:
    """Put trees into as few sequences of at most `limit` positions as this heuristic finds."""
    bins: list[tuple[int, list[Tree]]] = []
    for tree in sorted(trees, key=lambda tree: -tree.size(lengths)):
        size = tree.size(lengths)
        for number, (used, part) in enumerate(bins):
            if used + size <= limit:
                bins[number] = (used + size, [*part, tree])
                break
        else:
            bins.append((size, [tree]))
    return [part for _, part in bins]


def packable(base: PreTrainedModel) -> bool:
    """Whether a layout is exact: causal attention in every layer, to everything before, through a mask of our own."""
    config = base.get_decoder().config
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    own_mask = hasattr(base, "create_masks_for_generate")
    known = config._attn_implementation in ("sdpa", "eager")
    return set(kinds) == {"full_attention"} and not sliding and not own_mask and known
