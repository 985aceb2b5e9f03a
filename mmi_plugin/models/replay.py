"""Rows at the decoder's door in, what it makes of other embeddings of theirs out: what comes before these, once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from transformers import DynamicCache

from mmi_plugin.models.compat import cache_argument
from mmi_plugin.models.decoder import DecoderInputs
from mmi_plugin.models.devices import on_device
from mmi_plugin.models.layout import Layout, Tree, gather

HOST = torch.device("cpu")
WORTH = 0.1
"""What comes before is computed once where it is at least this part of the rows: a pass of its own takes its time."""
Replay = Callable[[torch.Tensor], torch.Tensor]
"""(A, L, D) embeddings -> (N, D) last hidden states, where they are read."""


def replay(
    decoder: nn.Module,
    rows: DecoderInputs,
    read: torch.Tensor,
    lengths: list[int],
    trees: list[Tree] | None,
    reuse: bool = True,
    always: bool = False,
) -> Replay:
    """Return the cheapest exact way from other embeddings of `rows` to the hidden states before the head.

    read: (A, L) bool on the host, the N positions that are wanted. lengths: A numbers of tokens. trees: what each row
    keeps before the first position that is moved or read; None where rows stay padded. reuse: compute that once, where
    it is worth it, or always.
    """
    device, width = rows.embeds.device, read.shape[1]
    if trees is None:
        places = tuple(on_device(at, device) for at in read.nonzero(as_tuple=True))
        return lambda moved: decoder(**rows.with_embeds(moved).call()).last_hidden_state[places]
    kept = sum(tree.prefix * len(tree.rows) for tree in trees)
    if reuse and (always or kept >= WORTH * sum(lengths)):
        prefixes, branches = Layout.split(trees, lengths, width, HOST)
        answers = on_device(branches.place[read], device)
        return CachedPrefix(decoder, rows, answers, prefixes.to(device), branches.to(device))
    layout = Layout.of([Tree((row,), 0) for row in range(len(lengths))], lengths, width, HOST)
    answers, layout = on_device(layout.place[read], device), layout.to(device)
    call = rows.packed(layout)

    def replay(moved: torch.Tensor) -> torch.Tensor:
        return gather(decoder(**{**call, "inputs_embeds": layout.pack(moved)}).last_hidden_state[0], answers)

    return replay


class CachedPrefix:
    """Replays only what comes after each tree's prefix, whose keys and values are computed once.

    answers: (N',) int64, where among the branches answer tokens are predicted.
    """

    def __init__(
        self, decoder: nn.Module, rows: DecoderInputs, answers: torch.Tensor, prefixes: Layout, branches: Layout
    ) -> None:
        cache = DynamicCache(config=decoder.config)
        self._name = cache_argument(decoder)
        known = len(prefixes.source)
        if not known:  # the decoder runs on one token, for nothing: all processes call it equally often
            prefixes = Layout.of([Tree((0,), 0)], [1], rows.embeds.shape[1], rows.embeds.device)
        with torch.no_grad():
            decoder(**{**rows.packed(prefixes), "use_cache": True, self._name: cache})
        # Autocast keeps the bf16 copies of fp32 weights until the outermost forward ends. Those made here have no
        # graph, and up to torch 2.10 the passes after this one take them, so that these weights get no gradient.
        torch.clear_autocast_cache()
        self._decoder, self._branches = decoder, branches
        self._states = [(layer.keys[:, :, :known], layer.values[:, :, :known]) for layer in cache.layers]
        self._call = rows.packed(branches)
        self._answers = answers

    def __call__(self, moved: torch.Tensor) -> torch.Tensor:
        """(A', L, D) embeddings -> (N', D) last hidden states where answers are predicted."""
        # A call adds its own keys to the cache, even with use_cache=False, so each has a new one.
        cache = DynamicCache(config=self._decoder.config)
        for layer, (keys, values) in enumerate(self._states):
            cache.update(keys, values, layer)
        call = {**self._call, "inputs_embeds": self._branches.pack(moved), self._name: cache}
        return gather(self._decoder(**call).last_hidden_state[0], self._answers)
