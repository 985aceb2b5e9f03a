"""Kept prefixes and what comes after them in, logits out: all branches as one sequence, then their tokens one by one.

    prefixes (kept, once)     rows            the sequence          the tokens that follow
     p p p                     p p p a a       a a | b b b | c       a' b' c' -> a" b" c" -> ...
     q q                       p p p b b b     a and b attend to p and, causally, to themselves; c to q and itself;
                               q q c           a" to p, a and a'

No key of a prefix is copied for a row, no row is padded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import Cache, LogitsProcessor, PreTrainedModel

from mmi_plugin.models.attention import ATTENTION, Pattern, additive, attend
from mmi_plugin.models.compat import BranchLayer, attending, cache_argument, sdpa_attention_forward
from mmi_plugin.models.devices import on_device
from mmi_plugin.models.tokens import Tensors

WAY, STEPS = "pieces", "mmi_steps"
"""Not flex: compiling it takes longer than it saves in 10,000 prompts to a model of 7B (computed, not measured)."""


@dataclass
class Prefix:
    """Keys and values of a prompt's first L tokens in every layer, (heads, L, head size) each.

    ids: (L,). position: of the token that comes next; dimensions: how many position ids the
    decoder takes per token (3 for multimodal RoPE, which counts an image by rows and columns).
    """

    ids: torch.Tensor
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    position: int
    dimensions: int


class Tree(NamedTuple):
    """Rows `first` to `last` of a batch, which go on from one prefix, by tokens `start` to `stop` of the sequence."""

    prefix: Prefix
    first: int
    last: int
    start: int
    stop: int


@dataclass(frozen=True)
class Branching(Pattern):
    """A piece for each row, whose prefix is one of the chunks before all of them."""

    chunks: list[int]
    pieces: list[int | None]
    kept: dict[Any, Any] = field(default_factory=dict)


class Step(NamedTuple):
    """The next token of each row of `tree`, which attends to the prefix, to its own tokens of the sequence and to those
    that came after them, as `seen` (rows, keys) bool says; in a layer that looks back only so far, as `near` does."""

    tree: Tree
    seen: torch.Tensor
    near: torch.Tensor


@dataclass(frozen=True)
class Steps:
    """The next token of all rows, and where its keys are. kept: masks (1, 1, rows, keys), once for all layers."""

    trees: Sequence[Step]
    layers: Sequence[BranchLayer]
    kept: dict[Any, list[torch.Tensor]] = field(default_factory=dict)

    @property
    def pairs(self) -> int:
        """How many products of a query and a key each head takes."""
        return sum(step.seen.numel() for step in self.trees)

    def masks(self, query: torch.Tensor, narrow: bool) -> list[torch.Tensor]:
        """Return the `additive` mask (1, 1, rows, keys) of each tree.

        query: (1, H, B, d), of any layer. narrow: of one that looks back only so far.
        """
        key = narrow, query.dtype
        if key not in self.kept:
            self.kept[key] = [additive(step.near if narrow else step.seen, query.dtype) for step in self.trees]
        return self.kept[key]


def attend_steps(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    steps: Steps | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of the next token of B rows, tree by tree: query (1, H, B, d) -> (1, B, H, d).

    key, value: (1, H', B, d), which are in the cache by now. attention_mask: not read.
    """
    number, parts = module.layer_idx, []
    narrow = kwargs.pop("sliding_window", None) is not None
    for (tree, _, _), mask in zip(steps.trees, steps.masks(query, narrow), strict=True):
        own = steps.layers[number].between(tree.start, tree.stop, tree.first, tree.last)
        states = zip(tree.prefix.layers[number], own, strict=True)
        keys, values = (torch.cat([known[None], *more], 2) for known, more in states)
        part = query[:, :, tree.first : tree.last]
        parts.append(sdpa_attention_forward(module, part, keys, values, mask, **kwargs)[0])
    return torch.cat(parts, 1), None


class Branches:
    """B prompts that go on from kept prefixes, those of one prefix next to each other; run through `model` when made.

    first: (B, V) logits of the token after each prompt. prefixes: of the rows. rests: their own tokens, (L,) each.
    inputs: the whole prompts, input_ids and attention_mask (B, L), padded on the left. look_back: how many tokens
    those layers see that do not see all.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prefixes: Sequence[Prefix],
        rests: Sequence[torch.Tensor],
        inputs: Tensors,
        look_back: int | None,
    ) -> None:
        self._model, self._prefixes, self.inputs, self._look_back = model, prefixes, inputs, look_back
        self._device = rests[0].device
        self._sizes = [len(rest) for rest in rests]
        self._stops = list(accumulate(self._sizes))
        self._heads = [len(prefix.ids) for prefix in prefixes]
        self._trees = self._grow()
        known = zip(*(tree.prefix.layers for tree in self._trees), strict=True)
        self._layers = [BranchLayer(len(rests), own) for own in known]
        self._columns = [torch.arange(self._heads[row], self._end(row)) for row in range(len(rests))]
        offsets = [prefix.position - head for prefix, head in zip(prefixes, self._heads, strict=True)]
        self._next = torch.tensor([self._end(row) + offset for row, offset in enumerate(offsets)])
        positions = torch.cat([own + offset for own, offset in zip(self._columns, offsets, strict=True)])
        lends = {"trees": self._branching()}, f"{ATTENTION}_{WAY}", partial(attend, way=WAY)
        self.first = self._call(torch.cat(list(rests)), positions, torch.tensor(self._stops) - 1, *lends)
        self._said = 0

    def _end(self, row: int) -> int:
        return self._heads[row] + self._sizes[row]

    def _grow(self) -> list[Tree]:
        trees, row = [], 0
        for _, alike in groupby(self._prefixes, key=id):
            last = row + len(list(alike))
            trees.append(
                Tree(self._prefixes[row], row, last, self._stops[row] - self._sizes[row], self._stops[last - 1])
            )
            row = last
        return trees

    def _branching(self) -> Branching:
        chunks = [len(tree.prefix.ids) for tree in self._trees]
        pieces = [place for place, tree in enumerate(self._trees) for _ in range(tree.first, tree.last)]
        return Branching([*chunks, *self._sizes], pieces)

    def _steps(self, steps: int) -> Iterator[Step]:
        """Yield what the next token of the rows of each tree sees, with which `steps` came after the prompts."""
        for tree in self._trees:
            rows, known = range(tree.first, tree.last), self._heads[tree.first]
            ends, owner = torch.tensor([self._end(row) for row in rows]), torch.arange(len(rows))
            own = owner.repeat_interleave(ends - known)
            owners = torch.cat([torch.full((known,), -1), own, owner.repeat(steps)])
            seen = (owners == -1) | (owners == owner[:, None])
            if self._look_back is None:
                seen = on_device(seen, self._device)
                yield Step(tree, seen, seen)
                continue
            later = (ends + torch.arange(steps)[:, None]).flatten()
            columns = torch.cat([torch.arange(known), *(self._columns[row] for row in rows), later])
            near = seen & ((ends + steps - 1)[:, None] - columns < self._look_back)
            yield Step(tree, on_device(seen, self._device), on_device(near, self._device))

    def after(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, V) after one more token of each row, (B,)."""
        positions = self._next + self._said
        self._said += 1
        lends = {"steps": Steps(list(self._steps(self._said)), self._layers)}, STEPS, attend_steps
        return self._call(tokens, positions, torch.arange(len(tokens)), *lends)

    def rewind(self) -> None:
        """Forget all tokens that came after the prompts."""
        self._said = 0
        for layer in self._layers:
            layer.rewind()

    def say(
        self, steps: int, processors: Sequence[LogitsProcessor], over: Callable[..., torch.Tensor], padding: int
    ) -> torch.Tensor:
        """Return (B, L + N), the prompts and the N <= `steps` likeliest tokens after them, as `generate` does.

        over: (ids (B, L + n), scores) -> (B,) bool, which rows have ended; these go on with `padding`.
        """
        ids, logits = self.inputs["input_ids"].to(self._device), self.first
        ended, watch = torch.zeros(len(ids), dtype=torch.bool, device=self._device), Watch()
        self.rewind()
        for step in range(steps):
            if step:
                logits = self.after(ids[:, -1])
            scores = logits.float()
            for processor in processors:
                scores = processor(ids, scores)
            ids = torch.cat([ids, scores.argmax(-1).masked_fill(ended, padding)[:, None]], 1)
            ended = ended | over(ids, scores)
            if watch.all(ended):
                break
        return ids

    def _call(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        kept: torch.Tensor,
        told: Mapping[str, Any],
        attention: str,
        attend: Callable[..., Any],
    ) -> torch.Tensor:
        """Run the model over tokens (Q,) at positions (Q,); return the logits (B, V) of those in `kept`, (B,).

        Its decoder attends by `attend`, named `attention`, and is told what that needs.
        """
        unused = torch.zeros(1, 1, 1, 1, device=self._device)  # keeps the decoder from building a mask

        def enter(module: nn.Module, args: tuple[Any, ...], call: dict[str, Any]) -> tuple[Any, ...]:
            given = call.get("attention_mask")
            mask = dict.fromkeys(given, unused) if isinstance(given, dict) else unused
            return args, {**call, "attention_mask": mask, **told}

        positions = on_device(positions, self._device)[None]
        dimensions = self._prefixes[0].dimensions
        inputs = {
            "input_ids": ids[None],
            "position_ids": positions if dimensions == 1 else positions.expand(dimensions, 1, -1),
            "attention_mask": unused,
            "logits_to_keep": on_device(kept, self._device),
            cache_argument(self._model): Cache(layers=list(self._layers)),
        }
        decoder = self._model.get_decoder()
        handle = decoder.register_forward_pre_hook(enter, with_kwargs=True)
        try:
            with attending(decoder, attention, attend):
                return self._model(**inputs, use_cache=True).logits[0]
        finally:
            handle.remove()


class Watch:
    """Says whether all rows have ended: on an accelerator one token late, so that the host never waits for the device
    while there is nothing queued behind what it waits for."""

    def __init__(self) -> None:
        self._before: tuple[torch.Tensor, torch.Event] | None = None

    def all(self, ended: torch.Tensor) -> bool:
        """ended: (B,) bool."""
        if ended.device.type == "cpu":
            return bool(ended.all())
        flag, copied = ended.all().to("cpu", non_blocking=True), torch.Event(ended.device)
        copied.record()
        before, self._before = self._before, (flag, copied)
        if before is None:
            return False
        before[1].synchronize()
        return bool(before[0])
