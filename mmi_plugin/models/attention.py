"""Queries, keys and values of one sequence in, what its pieces attend to out: to themselves and to a prefix.

The one attention of training, whose layouts are such sequences, and of evaluation, whose branches are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from mmi_plugin.errors import InputError
from mmi_plugin.models.compat import sdpa_attention_forward
from mmi_plugin.models.flex import Blocks, as_autocast, attend_at_once, blocks_of, mask_of, pairs_of, suits

ATTENTION, BLOCKS = "mmi_trees", "blocks"
WAYS = ("auto", "flex", "pieces")
"""How a layout attends: in one call of FlexAttention, piece by piece, or as suits device, type and size."""
TOGETHER, BY_ITSELF = 1024, ("cpu",)
"""How many queries of pieces that go on from one prefix attend in one call, and the kinds of device where each piece
does so by itself: elsewhere a call costs the host more than the pairs that its mask leaves out."""
SMALL = 2**31
"""Up to how many products of queries and keys in a layer, of pairs that are not seen, too, a layout attends in one call
of sdpa, where pieces do not attend by themselves: nothing is compiled for it."""


class Group(NamedTuple):
    """Pieces that attend in one call: the chunks `first` to `last`, the chunk of their prefix, and how many queries."""

    first: int
    last: int
    prefix: int | None
    queries: int


class Pattern:
    """What attends to what in a sequence.

    chunks: the lengths in which the keys are cut, first those of prefixes that were computed before, then one for each
    piece of the sequence. pieces: for each, which chunk is the prefix that it attends to, if there is one; causally it
    attends to itself. kept: what an attention makes of it, once for all decoder layers.
    """

    chunks: list[int]
    pieces: list[int | None]
    kept: dict[Any, Any]

    @property
    def first(self) -> int:
        """Which chunk is the first piece's own."""
        return len(self.chunks) - len(self.pieces)

    @property
    def pairs(self) -> int:
        """How many pairs there are of a position and one that it attends to."""
        sizes, known = self.chunks[self.first :], (0 if p is None else self.chunks[p] for p in self.pieces)
        return sum(size * (size + 1) // 2 + size * before for size, before in zip(sizes, known, strict=True))

    def blocks(self) -> Blocks:
        """Return the mask of all pieces at once, on the host; made by the first who asks."""
        if BLOCKS not in self.kept:
            self.kept[BLOCKS] = blocks_of(self.chunks, self.pieces)
        return self.kept[BLOCKS]

    def groups(self, device: torch.device) -> list[Group]:
        """Return the groups in which pieces attend on a device: neighbours of one prefix, up to `TOGETHER` queries."""
        if "groups" not in self.kept:
            found, most = [Group(0, 0, None, 0)], 0 if device.type in BY_ITSELF else TOGETHER
            for own, prefix in enumerate(self.pieces, self.first):
                first, _, shared, queries = found[-1]
                size = self.chunks[own]
                if prefix is not None and prefix == shared and queries + size <= most:
                    found[-1] = Group(first, own + 1, prefix, queries + size)
                else:
                    found.append(Group(own, own + 1, prefix, size))
            self.kept["groups"] = found[1:]
        return self.kept["groups"]

    def masks(self, query: torch.Tensor, window: int | None = None) -> list[torch.Tensor | None]:
        """Return the `additive` mask of each group, (1, 1, own, prefix + own), or None where sdpa's causal one does.

        query: of any layer. window: how far back a token sees, itself included.
        """
        key = "masks", window, query.dtype
        if key not in self.kept:
            groups = self.groups(query.device)
            known = [0 if one.prefix is None else self.chunks[one.prefix] for one in groups]
            own = [self.chunks[one.first : one.last] for one in groups]
            pairs = [_pairs(*sizes, window, query.device) for sizes in zip(own, known, strict=True)]
            self.kept[key] = [None if one is None else additive(one, query.dtype) for one in pairs]
        return self.kept[key]

    def whole(self, query: torch.Tensor) -> torch.Tensor | None:
        """Return the `additive` mask of all pieces at once, (1, 1, T, T'), or None where it is not worth it.

        query: of any layer.
        """
        key, keys = ("whole", query.dtype), sum(self.chunks)
        if query.device.type in BY_ITSELF or query.numel() * keys > SMALL:
            return None
        if key not in self.kept:
            self.kept[key] = additive(pairs_of(self.chunks, self.pieces, query.device), query.dtype)
        return self.kept[key]


def additive(pairs: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what is added to logits of a `dtype` where queries see some keys alone, `pairs` (Q, K) bool: (1, 1, Q, K).

    sdpa would make it of the pairs in every layer and, on a GPU, copy one whose rows do not begin at a multiple of 16.
    """
    queries, keys = pairs.shape
    mask = torch.zeros(queries, -(-keys // 16) * 16, dtype=dtype, device=pairs.device)[:, :keys]
    return mask.masked_fill_(~pairs, -torch.inf)[None, None]


def _pairs(sizes: list[int], known: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Which keys pieces of these sizes see, each a prefix of `known` tokens and, causally, itself: (own, prefix + own)
    bool, or None where sdpa's causal mask does."""
    near = window is not None and window < known + max(sizes)
    if not known and not near:
        return None
    own = torch.block_diag(*(torch.ones(size, size, dtype=torch.bool, device=device).tril() for size in sizes))
    mask = torch.cat([own.new_ones(len(own), known), own], 1)
    if near:
        places = torch.cat([torch.arange(known, known + size, device=device) for size in sizes])
        columns = torch.cat([torch.arange(known, device=device), places])
        mask &= places[:, None] - columns < window
    return mask


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    trees: Pattern | None = None,
    way: str = "pieces",
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a sequence of pieces: query (1, H, T, d) -> (1, T, H, d); without one, plain sdpa.

    key, value: (1, H', T', d), T' the sum of the chunks. attention_mask: (1, 1, 1, 1), not read. way: of WAYS.
    """
    if trees is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    query, key, value = map(as_autocast, (query, key, value))
    window = kwargs.pop("sliding_window", None)
    if window is None and way == "auto" and (mask := trees.whole(query)) is not None:
        return sdpa_attention_forward(module, query, key, value, mask, **kwargs)
    if way == "flex" and kwargs.get("dropout"):
        raise InputError("field 'layout_attention' is 'flex', and this decoder drops attention weights: set 'pieces'")
    if window is None and (way == "flex" or (way == "auto" and suits(query, kwargs.get("dropout", 0.0)))):
        if "mask" not in trees.kept:
            trees.kept["mask"] = mask_of(trees.blocks(), query.device)
        return attend_at_once(query, key, value, trees.kept["mask"], kwargs.get("scaling")), None
    parts = []
    kwargs["is_causal"] = True
    # split, not slices: the backward pass of a slice fills a whole tensor with zeros, once for every piece.
    keys, values = key.split(trees.chunks, 2), value.split(trees.chunks, 2)
    groups, masks = trees.groups(query.device), trees.masks(query, window)
    queries = query.split([one.queries for one in groups], 2)
    for (first, last, prefix, _), part, mask in zip(groups, queries, masks, strict=True):
        seen = (keys[first], values[first])
        if prefix is not None:
            seen = tuple(torch.cat([states[prefix], *states[first:last]], 2) for states in (keys, values))
        parts.append(sdpa_attention_forward(module, part, *seen, mask, **kwargs)[0])
    return torch.cat(parts, 1), None
