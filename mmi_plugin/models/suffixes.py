"""Image-heavy prompts in, what the model answers to the worst line of text after them out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from transformers import PreTrainedModel

from mmi_plugin.attacks import Attack
from mmi_plugin.attacks.coordinates import coordinate_search
from mmi_plugin.attacks.losses import Loss, margin
from mmi_plugin.attacks.search import thinned
from mmi_plugin.errors import InputError
from mmi_plugin.models.chats import images_of, with_line
from mmi_plugin.models.embeddings import Embeddings
from mmi_plugin.models.generate import Query, Reply
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.space import option_ids, row_seeds

First = Callable[[Sequence[Query]], torch.Tensor]
"""Prompts (N) -> (N, V) logits of the token after each."""
TRIES = 1000  # random tokens drawn for a suffix that survives being written and read


class Suffixes:
    """Looks for the suffix of one query after the other. answer: queries -> replies; wrong: whether one is."""

    def __init__(self, model: PreTrainedModel, prompts: Prompts, first: First) -> None:
        self._model, self._prompts, self._first = model, prompts, first
        self._looks = 0  # rows through the model, of the query at hand
        self._packed: bool | None = None

    def worst(self, row: Query, answer: Callable[[Query], Reply], wrong: Callable[[Reply], bool]) -> Reply:
        """Return what the model answers to the worst that was found.

        Raises InputError where options begin with more than one token, or no suffix can be written.
        """
        began, attack, asked = time.perf_counter(), row.target.attack, _Asked(self._prompts, row)
        reply, curve, suffix, self._looks = answer(row), [], "", 0
        if attack.by == "noise" or not wrong(reply):
            for restart in range(attack.restarts):
                seed = int(row_seeds([row], restart, torch.device("cpu"))[0])
                tokens = asked.start(self._allowed_tokens(), attack.length, seed)
                if attack.by != "noise":
                    tokens, climbed = self._search(asked, tokens, attack, seed)
                    curve = curve or climbed
                suffix = asked.written(tokens)
                reply = answer(asked.query(suffix))
                if wrong(reply):
                    break
        told = {"radius": float(attack.length), "still": False, "random": False, "apart": False, "text": suffix}
        told |= {"loss": thinned(curve, len(curve)), "passes": self._looks}
        return replace(reply, attack={"seconds": round(time.perf_counter() - began, 4), **told})

    def _search(
        self, asked: _Asked, tokens: torch.Tensor, attack: Attack, seed: int
    ) -> tuple[torch.Tensor, list[float]]:
        options, gold = torch.tensor(asked.options), torch.tensor([asked.row.target.gold])

        def look(tried: torch.Tensor) -> torch.Tensor:
            self._looks += len(tried)
            with torch.no_grad():
                logits = self._first([asked.query(asked.written(one)) for one in tried])
            return margin(logits[:, options.to(logits.device)].float().cpu(), gold.expand(len(tried)))

        def gradient(now: torch.Tensor) -> torch.Tensor:
            self._looks += 1
            return self._gradient(asked, now)

        def valid(tried: torch.Tensor) -> torch.Tensor:
            return torch.tensor([asked.says(one) for one in tried], dtype=torch.bool)

        allowed = self._allowed_tokens()
        return coordinate_search(gradient, look, valid, tokens, allowed, attack.steps, attack.candidates, seed % 2**31)

    def _gradient(self, asked: _Asked, tokens: torch.Tensor) -> torch.Tensor:
        """Return how much cross entropy climbs with each token at each place, (k, V), from tokens (k,)."""
        space = Embeddings(self._model, self._prompts, [asked.query(asked.written(tokens))], self._packed)
        self._packed = space.packed  # found out once: steps differ in their tokens alone
        delta = space.ball.zero(space.width).requires_grad_(True)
        with torch.enable_grad():
            loss = Loss("ce")(space.logits(delta, torch.zeros(1, dtype=torch.long, device=delta.device)), space.gold)
            (found,) = torch.autograd.grad(loss.sum(), delta)
        table = self._model.get_input_embeddings().weight
        place = asked.place(tokens)
        with torch.no_grad():
            return (found[0, place : place + len(tokens)].to(table.dtype) @ table.T).float().cpu()

    def _allowed_tokens(self) -> torch.Tensor:
        """Return which tokens may stand in a suffix, (V,) bool: those of printable text that are not special."""
        return _printable(self._prompts.tokenizer, self._model.get_input_embeddings().weight.shape[0])


@lru_cache(maxsize=4)
def _printable(tokenizer: Any, size: int) -> torch.Tensor:
    """Return which of `size` tokens are of printable text and not special, (size,) bool; not to be written to."""
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    plain = [token not in special and text.isascii() and text.isprintable() for token, text in enumerate(texts)]
    return torch.tensor([*plain, *[False] * size][:size])


class _Asked:
    """A query that a line is put after, and where its tokens then stand."""

    def __init__(self, prompts: Prompts, row: Query) -> None:
        self.row, self._prompts = row, prompts
        stem, self.options = option_ids(prompts, [row])
        if stem:
            raise InputError("an attack on tokens needs options of one token each")
        self._marks = prompts.images([prompts.joined(images_of(row.chat))])[1]

    def written(self, tokens: torch.Tensor) -> str:
        """Return tokens (k,) as text."""
        return self._prompts.tokenizer.decode(tokens.tolist())

    def query(self, suffix: str) -> Query:
        """Return the query with a suffix."""
        return replace(self.row, chat=with_line(self.row.chat, suffix))

    def _ids(self, suffix: str) -> list[int]:
        return self._prompts.encode([self._prompts.text(with_line(self.row.chat, suffix))], self._marks)[0]

    def place(self, tokens: torch.Tensor) -> int:
        """Return where tokens (k,) stand in the prompt; -1 where what they say is not read as them."""
        ids, wanted = self._ids(self.written(tokens)), tokens.tolist()
        starts = range(len(ids) - len(wanted), -1, -1)
        return next((start for start in starts if ids[start : start + len(wanted)] == wanted), -1)

    def says(self, tokens: torch.Tensor) -> bool:
        """Whether tokens (k,), written as text, are read as the same."""
        text = self.written(tokens)
        return text == text.strip() and self.place(tokens) >= 0

    def start(self, allowed: torch.Tensor, length: int, seed: int) -> torch.Tensor:
        """Return random tokens that a text can say, (length,) int64; one more after the other."""
        rng, known = torch.Generator().manual_seed(seed % 2**31), allowed.nonzero()[:, 0]
        tokens = known[:0]
        for _ in range(TRIES):
            drawn = known[torch.randint(0, len(known), (1,), generator=rng)]
            if self.says(tried := torch.cat([tokens, drawn])):
                tokens = tried
            if len(tokens) == length:
                return tokens
        raise InputError(f"item {self.row.target.item_id}: no {length} random tokens of this vocabulary make a text")
