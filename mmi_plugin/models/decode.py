"""What watches a model while it decodes: options' shares, penalties that see no padding, thoughts that may go on."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
)

from mmi_plugin.answers import answer_start
from mmi_plugin.models.settings import Decoding
from mmi_plugin.models.tokens import Tensors

_TAIL = 16  # tokens at the end of a text in which the end of a thought is looked for


class Shares(LogitsProcessor):
    """Keeps the log-probabilities of `tokens`, C of them, for all rows at every step.

    It comes first, before penalties change the scores.
    """

    def __init__(self, tokens: Sequence[int], device: torch.device) -> None:
        self.tokens = tokens
        self._index = torch.tensor(tokens, dtype=torch.long, device=device)
        self._place = {token: place for place, token in enumerate(tokens)}
        self._steps: list[torch.Tensor] = []  # (rows, C) each, where the model is

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.tokens:
            self._steps.append(scores.float().log_softmax(-1)[:, self._index])
        return scores

    @cached_property
    def _logs(self) -> torch.Tensor:
        return torch.stack(self._steps).cpu()  # once, after the last step

    def chances(self, step: int, row: int, tokens: Sequence[int]) -> tuple[float, ...]:
        """Return the probabilities of tokens at a step of a row; to be asked for after the last step."""
        return tuple(self._logs[step, row, [self._place[token] for token in tokens]].exp().tolist())


class Unpadded(LogitsProcessor):
    """Lets another processor see the tokens of each row without its padding, so that a batch answers as rows do.

    mask: (rows, prompt tokens) bool.
    """

    def __init__(self, processor: LogitsProcessor, mask: torch.Tensor) -> None:
        self._processor, self._mask = processor, mask

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        prompt = self._mask.shape[1]
        rows = [torch.cat([row[:prompt][own], row[prompt:]]) for row, own in zip(input_ids, self._mask, strict=True)]
        return torch.cat([self._processor(ids[None], scores[row : row + 1]) for row, ids in enumerate(rows)])


def constraints(decoding: Decoding, inputs: Tensors, ends: list[int]) -> list[LogitsProcessor]:
    """Return what makes decoding other than plain greedy. inputs: of `generate`; ends: the tokens that end an answer.

    `generate` would put them before the processors that it is given, among which `Shares` comes first.
    """
    start, device = inputs["input_ids"].shape[1], inputs["input_ids"].device
    repeats: list[LogitsProcessor] = []
    if decoding.repetition_penalty != 1:
        repeats.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty))
    if decoding.no_repeat_ngram_size:
        repeats.append(NoRepeatNGramLogitsProcessor(decoding.no_repeat_ngram_size))
    found: list[LogitsProcessor] = [Unpadded(one, inputs["attention_mask"].bool()) for one in repeats]
    if decoding.min_new_tokens:
        found.append(MinNewTokensLengthLogitsProcessor(start, decoding.min_new_tokens, ends, device=str(device)))
    return found


class Forced(LogitsProcessor):
    """Lets generation say `tokens` first."""

    def __init__(self, tokens: Sequence[int], start: int) -> None:
        self._tokens, self._start = tokens, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        step = input_ids.shape[1] - self._start
        if step >= len(self._tokens):
            return scores
        forced = torch.full_like(scores, -torch.inf)
        forced[:, self._tokens[step]] = 0
        return forced


class ThoughtBudget(StoppingCriteria):
    """Ends an answer after `answer` tokens, counted from the end of its thought where it has one.

    text: new tokens of a row -> what they say, after the thought that the template opened. start: how many tokens
    the prompts have.
    """

    def __init__(
        self, text: Callable[[list[int]], str], answer: int, start: int, thoughts: Sequence[tuple[str, str]]
    ) -> None:
        self._text, self._answer, self._start = text, answer, start
        self._thoughts = thoughts
        self._ends: list[int | None] = []  # the step at which each row ends; None while it thinks

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        step = input_ids.shape[1] - self._start
        if step < self._answer:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        if not self._ends:
            starts = [answer_start(self._text(row), self._thoughts) for row in input_ids[:, self._start :].tolist()]
            ends = {None: None, 0: step}
            self._ends = [ends.get(start, step + self._answer) for start in starts]
        elif None in self._ends:
            for row, tail in enumerate(input_ids[:, -_TAIL:].tolist()):
                if self._ends[row] is None and any(close in self._text(tail) for _, close in self._thoughts):
                    self._ends[row] = step + self._answer
        over = [end is not None and end <= step for end in self._ends]
        return torch.tensor(over, device=input_ids.device)


_FORM = re.compile(r"([\s(\[{\"'`*_:\\$]*)([A-Za-z])([\s)\]}\"'`*_.,:;!\\$]*)")
_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n"})  # how byte-level and sentencepiece vocabularies write them


@lru_cache(maxsize=4)
def letter_forms(tokenizer: Any) -> Mapping[int, Mapping[str, int]]:
    """Return, for each token that writes one letter, the tokens that write the others likewise: " B" -> " A", " C".

    Keys of the inner map are capital letters.
    """
    forms: dict[tuple[str, str, bool], dict[str, int]] = {}
    for piece, token in tokenizer.get_vocab().items():
        match = _FORM.fullmatch(piece.translate(_SPACES)) if len(piece) < 8 else None
        if match:
            key = match[1], match[3], match[2].isupper()
            forms.setdefault(key, {})[match[2].upper()] = token
    return {token: form for form in forms.values() for token in form.values()}
