"""Rendered texts in, token ids out, in which what users wrote is never a special token."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from transformers import PreTrainedModel

from mmi_plugin.errors import InputError
from mmi_plugin.models.compat import MARK, encode_marked, mark_control_tokens

Tensors = dict[str, Any]

TOKENWISE = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""The model's inputs of shape (rows, tokens)."""

_ANCHOR = "\n"  # no tokenizer merges it with what follows


class Encoder:
    """A tokenizer to which users' texts are marked before they are rendered into a prompt.

    `</s>` in a question is four characters, `</s>` of the template a token. This is what transformers does under
    `sanitize_control_tokens`, here also for tokenizers that write the first token themselves and for
    processors without a template. template: the chat template, whose own tokens are control tokens, too.
    `frame`: the tokens that the tokenizer puts before and after a text.
    """

    def __init__(self, tokenizer: Any, template: str, placeholders: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {token.content for token in added if token.special} | set(placeholders)
        # White space that is a token (Gemma's "\n\n") stands in templates as in any text.
        own = {token.content for token in added if token.content in template and not token.content.isspace()}
        self._special, self._control = _any_of(special), _any_of(special | own)
        self.frame = _frame(tokenizer)

    @property
    def padding(self) -> int:
        """The token that fills rows up; masked, so any will do where the tokenizer has none."""
        return self._tokenizer.pad_token_id or 0

    def mark(self, values: Any) -> Any:
        """Return text, or lists and dicts of texts, with the control tokens in it marked as text."""
        return mark_control_tokens(values, self._control)

    def marks(self, text: str) -> bool:
        """Whether a text holds what would be a control token, or a mark."""
        return self.mark(text) != text

    def places(self, text: str, cuts: Sequence[int], ids: Sequence[int]) -> list[int] | None:
        """Return how many of the `ids` of a text stand before each of the `cuts`, which are places in it in order.

        -1 for one that is inside of a token; None where the tokenizer does not say where its tokens are from.
        """
        framed = self._framed(text)
        if MARK in text or not self._tokenizer.is_fast or (framed and self.frame[1]):
            return None
        made = self._tokenizer(text, add_special_tokens=framed, return_offsets_mapping=True)
        if made["input_ids"] != list(ids):
            return None
        starts, ends = (list(accumulate(side, max)) for side in zip(*made["offset_mapping"], strict=True))
        counts = [bisect_left(starts, cut) for cut in cuts]
        return [-1 if count and ends[count - 1] > cut else count for count, cut in zip(counts, cuts, strict=True)]

    def first_special(self, text: str) -> re.Match[str] | None:
        """Return the first special token in a text without marks."""
        return self._special.search(text)

    def encode(self, texts: Sequence[str], special: bool | None = None) -> list[list[int]]:
        """Return the ids of rendered texts with marks.

        special: whether the tokenizer adds its own first and last tokens; by default where a text does not begin
        with the first one, as `apply_chat_template` has it, but for each text by itself.
        Raises InputError for a text that the tokenizer cannot encode without its special tokens.
        """
        framed = [self._framed(text) if special is None else special for text in texts]
        ids: list[list[int]] = [[] for _ in texts]
        for add in (True, False):
            places = [place for place, text in enumerate(texts) if framed[place] == add and MARK not in text]
            if places:
                encoded = self._tokenizer([texts[place] for place in places], add_special_tokens=add)["input_ids"]
                for place, row in zip(places, encoded, strict=True):
                    ids[place] = row
        for place, text in enumerate(texts):
            if MARK in text:
                ids[place] = self._encode_marked(text, framed[place])
        return ids

    def _framed(self, text: str) -> bool:
        bos = self._tokenizer.bos_token
        return bos is None or not text.startswith(bos)

    def _encode_marked(self, text: str, framed: bool) -> list[int]:
        try:
            ids = encode_marked(self._tokenizer, text)
        except ValueError as error:
            raise InputError(f"a text holds a token that cannot be written as text: {error}") from error
        return [*self.frame[0], *ids, *self.frame[1]] if framed else ids

    def continuation(self, before: list[int], text: str, more: str) -> list[int]:
        """Return the ids of `more` after `text`, whose ids are `before`.

        They are those of the whole where it begins with `before`; where the two texts merge in a token, the model is
        fed `before` all the same, and `more` is encoded as it is at the start of a line.
        """
        (whole,) = self.encode([text + more])
        if len(whole) > len(before) and whole[: len(before)] == before:
            return whole[len(before) :]
        anchor, line = self.encode([_ANCHOR, _ANCHOR + more], special=False)
        if line[: len(anchor)] == anchor:
            return line[len(anchor) :]
        return self.encode([more], special=False)[0]


def _any_of(texts: set[str]) -> re.Pattern[str]:
    longest_first = sorted(texts - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) matches nothing


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer puts before and after a text."""
    bare, whole = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
    start = next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), len(whole))
    return whole[:start], whole[start + len(bare) :]


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of ids as one tensor (B, L) int64 filled up with `value`, and (B, L) bool, what is a token."""
    length = max(map(len, rows))
    ids = torch.full((len(rows), length), value, dtype=torch.long)
    inside = torch.zeros_like(ids, dtype=torch.bool)
    for place, row in enumerate(rows):
        columns = slice(length - len(row), length) if left else slice(0, len(row))
        ids[place, columns] = torch.as_tensor(row, dtype=torch.long)
        inside[place, columns] = True
    return ids, inside


def pad_left(inputs: Tensors) -> Tensors:
    """Move what `attention_mask` leaves of every row to the right end, and drop columns that no row uses."""
    mask = inputs["attention_mask"]
    order = mask.argsort(dim=1, stable=True)[:, mask.shape[1] - int(mask.sum(1).max()) :]
    return {**inputs, **{name: inputs[name].gather(1, order) for name in TOKENWISE if name in inputs}}


def to_model(inputs: Tensors, model: PreTrainedModel) -> Tensors:
    """Return `inputs` where the model is, floating point values in its type."""
    device, dtype = model.device, model.dtype
    return {
        name: value.to(device, dtype if value.is_floating_point() else None) if torch.is_tensor(value) else value
        for name, value in inputs.items()
    }
