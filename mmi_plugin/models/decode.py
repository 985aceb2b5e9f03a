"""Generation settings in, what watches a model while it decodes out: settings, options' probabilities, thoughts.

Everything in lmms-eval's `generation_kwargs` that is not greedy decoding is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from transformers import (
    LogitsProcessor,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
)

from mmi_plugin.answers import answer_start
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.models.tokens import Tensors

_TAIL = 16  # tokens at the end of a text in which the end of a thought is looked for
_LOOK = 8  # tokens after which that is done again: each time the device is waited for


@dataclass(frozen=True)
class Decoding:
    """Greedy decoding. The answer ends before the first of `stops`; `repetition_penalty` and
    `no_repeat_ngram_size` mean what they mean in transformers; 0 and 1.0 change nothing."""

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    stops: tuple[str, ...] = ()

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> Decoding:
        """Return what `generation_kwargs` of a task with those of `--gen_kwargs` ask for.

        A None leaves the default, as in lmms-eval. Raises InputError for a key that would have no effect, a value
        of another type or out of range, and whatever is not greedy.
        """
        found: dict[str, Any] = {}
        for key, given in settings.items():
            value = None if key not in _TEXTS and str(given).lower() in ("none", "null") else given
            if key in _READERS and value is not None:
                found[key] = _READERS[key](key, value)
            elif key in _ONLY:
                _check_only(key, value)
            elif key in _ELSEWHERE and value not in (None, ""):
                raise InputError(f"--gen_kwargs: {key} is no setting of the decoding: give {_ELSEWHERE[key]}")
            elif key not in (*_READERS, *_ELSEWHERE):
                raise InputError(f"--gen_kwargs: no setting {key!r}: {nearest(key, (*_READERS, *_ONLY))}")
        stops = tuple(stop for key in _TEXTS for stop in found.pop(key, ()))
        decoding = cls(**found, stops=stops)
        if decoding.min_new_tokens > decoding.max_new_tokens:
            raise InputError(
                f"--gen_kwargs: min_new_tokens is {decoding.min_new_tokens}, more than max_new_tokens, "
                f"{decoding.max_new_tokens}"
            )
        return decoding

    def cut(self, text: str) -> str:
        """Return `text` up to the first stop in it."""
        return text[: min((text.find(stop) for stop in self.stops if stop in text), default=len(text))]

    def to_dict(self) -> dict[str, Any]:
        """Return the record of a run: all fields, as JSON has them."""
        return {**asdict(self), "stops": list(self.stops)}


def _check_only(key: str, value: Any) -> None:
    """Raise InputError unless `value` asks for what is done anyway."""
    reason, *valid = _ONLY[key]
    if value is not None and not any(value == one and type(value) in (type(one), float) for one in valid):
        raise InputError(f"--gen_kwargs: {key}={value!r}: mmi_hf {reason}: {key}={valid[0]!r}")


def _integer(least: int) -> Callable[[str, Any], int]:
    def read(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
            raise InputError(f"--gen_kwargs: {key} is {value!r}, not an integer of {least} or more")
        return int(value)

    return read


def _positive(key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"--gen_kwargs: {key} is {value!r}, not a positive number")
    return float(value)


def _texts(key: str, value: Any) -> tuple[str, ...]:
    """Read a text or a list of texts; on a command line a list is written as JSON."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            value = [value]
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"--gen_kwargs: {key} is {value!r}, not a text or a list of texts")
    return tuple(text for text in texts if text)


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "max_new_tokens": _integer(1),
    "min_new_tokens": _integer(0),
    "repetition_penalty": _positive,
    "no_repeat_ngram_size": _integer(0),
    "until": _texts,
    "stop_sequences": _texts,
}
_TEXTS = ("until", "stop_sequences")
_ONLY: dict[str, tuple[Any, ...]] = {  # why, and the values that ask for what is done anyway
    **{key: ("decodes greedily", 0, 1) for key in ("top_k", "top_p")},
    **{key: ("decodes greedily", 1) for key in ("num_beams", "num_return_sequences", "length_penalty")},
    "temperature": ("decodes greedily", 0),
    "do_sample": ("decodes greedily", False),
    "early_stopping": ("decodes greedily", False),
    "use_cache": ("keeps keys and values", True),
    "image_aspect_ratio": ("leaves images as they are to the processor", "original"),
    "visual_cot": ("answers in text", False),
    "skip_special_tokens": ("answers in text", True),
}
"""Those of images are for models of lmms-eval that prepare images, or make them, themselves."""
_ELSEWHERE = {
    "max_pixels": "--model_args max_pixels=N",
    "min_pixels": "--model_args min_pixels=N",
    "system_prompt": "--system_instruction TEXT",
}


class OptionLogs(LogitsProcessor):
    """Keeps the log-probabilities of `tokens`, C of them, for all rows at every step.

    It comes first, before penalties change the scores.
    """

    def __init__(self, tokens: Sequence[int], device: torch.device) -> None:
        self.tokens = tokens
        self._index = torch.tensor(tokens, dtype=torch.long, device=device)
        self._place = {token: place for place, token in enumerate(tokens)}
        self._steps: list[torch.Tensor] = []  # (B, C) each, where the model is

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return `scores`, (B, vocabulary) logits of the next token after `input_ids`, (B, L), as they are."""
        if self.tokens:
            self._steps.append(scores.float().log_softmax(-1)[:, self._index])
        return scores

    def forget(self) -> None:
        """Begin anew, for rows that are asked again."""
        self._steps = []

    @cached_property
    def _likely(self) -> np.ndarray:
        return torch.stack(self._steps).cpu().exp().numpy()  # once, after the last step

    def probabilities(self, step: int, row: int, tokens: Sequence[int]) -> tuple[float, ...]:
        """Return the probabilities of tokens at a step of a row; to be asked for after the last step."""
        return tuple(self._likely[step, row, [self._place[token] for token in tokens]].tolist())


class Unpadded(LogitsProcessor):
    """Lets another processor see the tokens of each row without its padding, so that a batch answers as rows do.

    mask: (B, L) bool, which of the L columns of the prompts are tokens.
    """

    def __init__(self, processor: LogitsProcessor, mask: torch.Tensor) -> None:
        self._processor, self._mask = processor, mask

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the other's scores, (B, vocabulary), for `input_ids`, (B, L + new tokens), and `scores` like them."""
        prompt = self._mask.shape[1]
        rows = [torch.cat([row[:prompt][own], row[prompt:]]) for row, own in zip(input_ids, self._mask, strict=True)]
        return torch.cat([self._processor(ids[None], scores[row : row + 1]) for row, ids in enumerate(rows)])


def constraints(decoding: Decoding, inputs: Tensors, ends: list[int]) -> list[LogitsProcessor]:
    """Return what makes decoding other than plain greedy. inputs: of `generate`; ends: the tokens that end an answer.

    `generate` would put them before the processors that it is given, among which `OptionLogs` comes first.
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
        """Return scores (B, vocabulary) that leave one token, or those given; input_ids: (B, start + new tokens)."""
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
        self._text, self.answer, self._start = text, answer, start
        self._thoughts, self._look = thoughts, min(_LOOK, answer)
        self.forget()

    def forget(self) -> None:
        """Begin anew, for rows that are asked again."""
        self._ends: list[int | None] = []  # the step at which each row ends; None while it thinks
        self._over: tuple[list[bool], torch.Tensor] | None = None

    @property
    def thinks(self) -> bool:
        """Whether a row has said more than an answer, a thought before it."""
        return any(end is None or end > self.answer for end in self._ends)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return (B,) bool, which rows are at their end. input_ids: (B, start + new tokens); scores are not read."""
        step = input_ids.shape[1] - self._start
        if step < self.answer:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        if not self._ends:
            starts = [answer_start(self._text(row), self._thoughts) for row in input_ids[:, self._start :].tolist()]
            ends = {None: None, 0: step}
            self._ends = [ends.get(start, step + self.answer) for start in starts]
        elif None in self._ends and (step - self.answer) % self._look == 0:
            self._find_ends(input_ids[:, -_TAIL - self._look + 1 :].tolist(), step)
        over = [end is not None and end <= step for end in self._ends]
        if self._over is None or self._over[0] != over:  # tokens of the host are sent when they change
            self._over = over, torch.tensor(over, device=input_ids.device)
        return self._over[1]

    def _find_ends(self, tails: list[list[int]], step: int) -> None:
        """Note which rows ended their thought in one of the last steps. tails: the last tokens of each."""
        for row, tail in enumerate(tails):
            for ago in reversed(range(self._look)) if self._ends[row] is None else ():
                said = self._text(tail[-_TAIL - ago : len(tail) - ago])
                if any(close in said for _, close in self._thoughts):
                    self._ends[row] = step - ago + self.answer
                    break


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
