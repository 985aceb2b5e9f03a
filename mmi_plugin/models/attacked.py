"""Queries with a target in, what the model answers at the worst that an attack finds out.

A space says what moves and which logits that gives; `attacks.search` finds the worst; the answer that counts is what
plain generation says there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

import torch
from torch import nn
from transformers import PreTrainedModel

from mmi_plugin.answers import read
from mmi_plugin.attacks.search import Searched, Space, search
from mmi_plugin.item import LETTERS
from mmi_plugin.models.chats import images_of
from mmi_plugin.models.decode import Decoding
from mmi_plugin.models.devices import HALF
from mmi_plugin.models.embeddings import Embeddings
from mmi_plugin.models.generate import Generator, Query, Reply
from mmi_plugin.models.pixels import Pixels
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.suffixes import First, Suffixes
from mmi_plugin.models.tokens import Tensors

SPACES = {"embeddings": Embeddings, "pixels": Pixels}


class Attacker:
    """Answers to queries that have a target, which all ask for one attack.

    first: prompts -> (N, V) logits of the token after each. plain: a prompt -> the model's inputs.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Prompts,
        generator: Generator,
        first: First,
        plain: Callable[[Query], Tensors],
    ) -> None:
        self._model, self._prompts, self._generator, self._plain = model, prompts, generator, plain
        self._suffixes = Suffixes(model, prompts, first)

    def answers(self, rows: Sequence[Query], decoding: Decoding) -> list[Reply]:
        """Return the answer to each row at the worst that the attack found.

        Raises InputError for a model whose options cannot be told apart by one token that it says at once.
        """
        found: dict[int, Reply] = {}
        if rows[0].target.attack.space == "tokens":
            return [self._suffix(row, decoding) for row in rows]
        sized = rows[0].target.attack.space == "pixels"  # whose batches are of one size
        kinds = [(row.choices, [image.size for image in images_of(row.chat) if sized]) for row in rows]
        order = sorted(range(len(rows)), key=kinds.__getitem__)
        for _, alike in groupby(order, key=kinds.__getitem__):
            places = list(alike)
            replies = self._attack([rows[place] for place in places], decoding)
            found.update(zip(places, replies, strict=True))
        return [found[place] for place in range(len(rows))]

    def _attack(self, rows: Sequence[Query], decoding: Decoding) -> list[Reply]:
        began, attack = time.perf_counter(), rows[0].target.attack
        with unlearning(self._model):
            space = SPACES[attack.space](self._model, self._prompts, rows)
            replies: dict[int, Reply] = {}

            def answer(delta: torch.Tensor, at: torch.Tensor) -> list[Reply]:
                places = at.tolist()
                with torch.no_grad(), single(self._model), space.moved(delta, places) as asked:
                    found = self._generator.answers([rows[place] for place in places], asked, decoding)
                replies.update(zip(places, found, strict=True))
                return found

            def confirm(delta: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
                asked = [rows[place] for place in at.tolist()]
                said = [self._letter(row, reply) for row, reply in zip(asked, answer(delta, at), strict=True)]
                wrong = [letter != row.target.gold for letter, row in zip(said, asked, strict=True)]
                return torch.tensor(wrong, device=at.device)

            searched = search(space, attack, confirm)
            last = [row for row in range(len(rows)) if row not in replies or not searched.broken[row]]
            if last:
                at = torch.tensor(last, device=space.gold.device)
                answer(searched.delta[at], at)
        return _told(replies, searched, space, time.perf_counter() - began)

    def _suffix(self, row: Query, decoding: Decoding) -> Reply:
        def answer(asked: Query) -> Reply:
            with torch.no_grad(), single(self._model):
                return self._generator.answers([asked], self._plain(asked), decoding)[0]

        def wrong(reply: Reply) -> bool:
            return self._letter(row, reply) != row.target.gold

        with unlearning(self._model):
            return self._suffixes.worst(row, answer, wrong)

    def _letter(self, row: Query, reply: Reply) -> int:
        """Return the place of the option that is read from an answer; -1 for none."""
        letter = read(reply.text, row.options or row.choices, self._generator.thoughts).letter
        return -1 if letter is None else LETTERS.index(letter)


def _told(replies: dict[int, Reply], searched: Searched, space: Space, seconds: float) -> list[Reply]:
    """Return the replies with what the attack took and saw of each row."""
    size = len(replies)
    return [
        replace(
            replies[row],
            attack={
                "seconds": round(seconds / size, 4),
                "passes": round(searched.passes / size, 1),
                "radius": round(float(space.ball.radius[row].max()), 6),
                "loss": searched.curve[row],
                "still": searched.still[row],
                "random": searched.random[row],
                "apart": searched.apart[row],
            },
        )
        for row in range(size)
    ]


@contextmanager
def unlearning(model: nn.Module) -> Iterator[None]:
    """Within, no parameter learns, so that a gradient keeps nothing for them."""
    learning = [one for one in model.parameters() if one.requires_grad]
    for one in learning:
        one.requires_grad_(False)
    try:
        yield
    finally:
        for one in learning:
            one.requires_grad_(True)


@contextmanager
def single(model: nn.Module) -> Iterator[None]:
    """Within, a model in half precision computes in single: an answer that changes by arithmetic is not broken."""
    halved = [(one, one.dtype) for one in (*model.parameters(), *model.buffers()) if one.dtype in HALF]
    for one, _ in halved:
        one.data = one.data.float()
    try:
        yield
    finally:
        for one, dtype in halved:
            one.data = one.data.to(dtype)
