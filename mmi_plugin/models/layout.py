"""Rows padded to one length in, one sequence without padding or repetition out: trees whose branches share a prefix.

    rows (padded)      trees                   the sequence: T = 10 positions for R * L = 18, in chunks
     p p p a a .       p p p -+- a a            p p p | a a | b b b | q q
     p p p b b b              +- b b b            0      1      2      3
     q q . . . .       q q                      1 attends to 0 and, causally, itself; 2 to 0 and itself; 3 to itself

Exact, through an attention that keeps to the trees, wherever attention is causal and sees all that is before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import embedding
from transformers import PreTrainedModel
from transformers.utils import logging

from mmi_plugin.models.attention import ATTENTION, BLOCKS, Pattern, attend
from mmi_plugin.models.compat import OWN_MASKS, attention_of, use_attention
from mmi_plugin.models.devices import on_device

logger = logging.get_logger(__name__)
MIN_SHARED = 0.25
"""A prefix is worth a tree where it is at least this part of a row."""
REPLACED = ("sdpa", "flex_attention")


@dataclass(frozen=True)
class Tree:
    """Rows whose first `prefix` positions agree; a single row may have a prefix too."""

    rows: tuple[int, ...]
    prefix: int


def grow_trees(keys: np.ndarray, lengths: list[int]) -> list[Tree]:
    """Put rows that begin alike into trees; the others stand alone.

    keys: (R, L) int64, equal where and only where rows agree in token, image and perturbation. lengths: R numbers of
    tokens.
    """
    # Sorted, rows that begin alike are neighbours, so one pass finds the trees.
    order = sorted(range(len(lengths)), key=lambda row: keys[row, : lengths[row]].tolist())
    trees = [Tree((order[0],), lengths[order[0]])]
    for row in order[1:]:
        tree, last = trees[-1], trees[-1].rows[-1]
        shared = _agree(keys[last], keys[row], min(lengths[row], lengths[last]))
        joined = Tree((*tree.rows, row), min(tree.prefix, shared))
        worth = joined.prefix >= MIN_SHARED * max(lengths[row], lengths[last])
        if worth and joined.prefix * len(tree.rows) > tree.prefix * (len(tree.rows) - 1):
            trees[-1] = joined
        else:
            trees.append(Tree((row,), lengths[row]))
    return [tree if len(tree.rows) > 1 else Tree(tree.rows, 0) for tree in trees]


def _agree(one: np.ndarray, other: np.ndarray, limit: int) -> int:
    differ = np.flatnonzero(one[:limit] != other[:limit])
    return int(differ[0]) if len(differ) else limit


@dataclass(frozen=True)
class Layout(Pattern):
    """R rows padded to length L as one sequence of T positions, tree after tree, a prefix before its branches.

    source: (T,) int64, where each position comes from among the R * L. place: (R, L) int64, the way
    back, to the shared position within a prefix; 0 for padding. column: (T,) int64, the place in the
    row. chunks: the lengths in which the keys are cut, first those of prefixes that were computed before,
    then one for each piece of the sequence. pieces: for each, which chunk is the prefix that it attends to, if there
    is one; causally it attends to itself. kept: what an attention makes of the layout, once for all decoder layers.
    """

    source: torch.Tensor
    place: torch.Tensor
    column: torch.Tensor
    chunks: list[int]
    pieces: list[int | None]
    kept: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def to(self, device: torch.device) -> Layout:
        """Return the layout on a device, which is not waited for."""
        if device == self.source.device:
            return self
        return replace(on_device(self, device), kept={name: self.kept[name] for name in {BLOCKS} & self.kept.keys()})

    @staticmethod
    def of(trees: list[Tree], lengths: list[int], width: int, device: torch.device) -> Layout:
        """Lay trees out; rows are padded on the right to `width`."""
        spans: list[Span] = []
        _add_trees(trees, lengths, spans, spans)
        return _lay_out(spans, (len(lengths), width), device, [])

    @staticmethod
    def split(trees: list[Tree], lengths: list[int], width: int, device: torch.device) -> tuple[Layout, Layout]:
        """Return the prefixes of trees, and their branches, whose keys come after those of all prefixes."""
        prefixes: list[Span] = []
        branches: list[Span] = []
        _add_trees(trees, lengths, prefixes, branches)
        shape, before = (len(lengths), width), [span.last - span.first for span in prefixes]
        return _lay_out(prefixes, shape, device, []), _lay_out(branches, shape, device, before)

    def pack(self, values: torch.Tensor) -> torch.Tensor:
        """(R, L, ...) -> (1, T, ...)."""
        return gather(values.flatten(0, 1), self.source)[None]

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """(1, T, ...) -> (R, L, ...); what stands in padding is arbitrary."""
        return gather(values[0], self.place)


def gather(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Return values[places]: (N, ...) and int64 of any shape P -> (P, ...).

    Gradients of a place that is taken twice are added in one order. Those of indexing are on a CPU with several
    threads added in any, so that no training could be repeated; and they take three times as long.
    """
    if not values.is_floating_point():
        return values[places]
    return embedding(places, values.flatten(1)).view(*places.shape, *values.shape[1:])


class Span(NamedTuple):
    """Columns `first` to `last` of rows that share them, and which chunk is their prefix."""

    rows: tuple[int, ...]
    first: int
    last: int
    prefix: int | None


def _add_trees(trees: list[Tree], lengths: list[int], prefixes: list[Span], branches: list[Span]) -> None:
    """Add the prefix and the branches of each tree to two lists, or to one; none that is empty."""
    for tree in trees:
        prefix = len(prefixes) if tree.prefix else None
        prefixes += [Span(tree.rows, 0, tree.prefix, None)] if tree.prefix else []
        branches += [Span((row,), tree.prefix, lengths[row], prefix) for row in tree.rows if lengths[row] > tree.prefix]


def _lay_out(spans: list[Span], shape: tuple[int, int], device: torch.device, before: list[int]) -> Layout:
    """shape: R, L of the padded rows. before: sizes of the chunks of keys that come before those of this layout."""
    columns = [np.arange(span.first, span.last) for span in spans]
    sizes = [len(column) for column in columns]
    chunks, starts = before + sizes, np.cumsum([0, *sizes])
    source, place, pieces = [], np.zeros(shape, dtype=np.int64), []
    for span, column, start in zip(spans, columns, starts, strict=False):
        source.append(span.rows[0] * shape[1] + column)
        place[list(span.rows), span.first : span.last] = start + np.arange(len(column))
        pieces.append(span.prefix)
    none = np.zeros(0, dtype=np.int64)
    arrays = np.concatenate([none, *source]), place, np.concatenate([none, *columns])
    return Layout(*(on_device(torch.from_numpy(array), device) for array in arrays), chunks, pieces)


def packable(base: PreTrainedModel) -> bool:
    """Whether a layout is exact: causal attention in every layer, to everything before, in a way that it replaces."""
    config, attention = base.get_decoder().config, attention_of(base.get_decoder())
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    sliding = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    known = attention in REPLACED or attention.startswith(ATTENTION) or "flash" in attention
    return set(kinds) == {"full_attention"} and not sliding and not hasattr(base, OWN_MASKS) and known


def at_once(way: str, device: torch.device, half: bool) -> bool:
    """Whether layouts attend in one call, of which the decoder has not been asked. half: whether it computes so."""
    return way == "flex" or (way == "auto" and half and device.type == "cuda")


def use_trees(base: PreTrainedModel, way: str = "auto") -> None:
    """Let the decoder's attention take layouts, in a way of WAYS; without one it is sdpa."""
    if (other := attention_of(base.get_decoder())) not in REPLACED and not other.startswith(ATTENTION):
        logger.warning_once(f"attn_implementation {other}: the decoder attends to a layout in its own way, '{way}'")
    use_attention(base.get_decoder(), f"{ATTENTION}_{way}", partial(attend, way=way))
