"""One pass over a batch of prompts: the greedy answers, and the probability of each option."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from loguru import logger
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from mmi_plugin.errors import InputError
from mmi_plugin.harness.prefix import Prefixes, ends, join, why_not, window
from mmi_plugin.harness.prompting import Chat, Prompts, Tensors, images_of, to_model
from mmi_plugin.items import image_hash
from mmi_plugin.key_values import CACHE_NAMES, cache_argument

_MAX_NEW_TOKENS = 128  # for a task that does not say
_TOLERANCE = {torch.float32: 1e-4}  # of a probability, between the shared and the plain path
_COARSE = 5e-2  # the same in half precision


@dataclass(frozen=True)
class Row:
    """A prompt; `choices` are the answers whose probability is wanted; `shared`: other prompts show its image."""

    chat: Chat
    choices: tuple[str, ...] = ()
    shared: bool = False


@dataclass(frozen=True)
class Answer:
    """`text` of `tokens` tokens; `probabilities` of the choices, in their order, None without choices."""

    text: str
    tokens: int
    probabilities: tuple[float, ...] | None


class Scorer:
    """Answers batches. `capacity`: for how many images keys and values are kept.

    Prompts with the same image share it: it is encoded, and run through the decoder with all that
    stands before it, once. Whether the model allows it is found out from its interface, and on the first
    such batch by comparison with plain generation; a model that does not allow it answers plainly.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, capacity: int, name: str) -> None:
        self._model, self._tokenizer = model, processor.tokenizer
        self._image_token = getattr(model.config, "image_token_id", None)
        self._prompts = Prompts(processor, self._image_token, name)
        self._prefixes = Prefixes(model, capacity, self._generate)
        self._obstacle = why_not(model)
        self._window = window(model) if self._obstacle is None else None
        self._checked = self._said = False

    @torch.inference_mode()
    def answer(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> list[Answer]:
        """Return an answer per row; `settings` are lmms-eval's `generation_kwargs`.

        Raises InputError when they ask for anything but greedy decoding.
        """
        if settings.get("do_sample") or settings.get("num_beams", 1) > 1:
            raise InputError(f"mmi_hf decodes greedily, and the task asks for {dict(settings)}")
        if not all(row.shared for row in rows):
            return self._run(rows, settings, self._plain(rows))
        if self._obstacle is None and not self._checked:
            self._check(rows, settings)
        if self._obstacle is None:
            return self._share(rows, settings)
        self._say()
        return self._run(rows, settings, self._plain(rows))

    def _check(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> None:
        """Answer the last row, the most padded one, plainly too, and give sharing up if that differs."""
        (plain,) = self._run(rows[-1:], settings, self._plain(rows[-1:]))
        try:
            shared = self._share([rows[0], rows[-1]], settings)[-1]
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:  # of a model that answers plainly
            self._obstacle = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            return
        pairs = zip(shared.probabilities or (), plain.probabilities or (), strict=True)
        differs = max((abs(p - q) for p, q in pairs), default=0) > _TOLERANCE.get(self._model.dtype, _COARSE)
        if differs or (self._model.dtype == torch.float32 and shared.text != plain.text):
            self._obstacle = "its answers differ when it goes on from a kept image"
        self._checked = True

    def _say(self) -> None:
        if not self._said:
            logger.warning(
                f"every prompt is computed whole, as {type(self._model).__name__} cannot share images: {self._obstacle}"
            )
            self._said = True

    def _plain(self, rows: Sequence[Row]) -> Tensors:
        return to_model(self._prompts.inputs([row.chat for row in rows]), self._model.device, self._model.dtype)

    def _share(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> list[Answer]:
        """Answer rows from the kept prefixes of their prompts, computing those that are missing.

        Raises ValueError for prompts that do not show where an image ends.
        """
        prompts = self._prompts.inputs([row.chat for row in rows])
        stops = ends(prompts["input_ids"], self._image_token)
        starts = (prompts["attention_mask"] == 0).sum(1).tolist()
        if min(stops) == 0:
            raise ValueError("no image token in the prompt")
        ids = prompts["input_ids"].to(self._model.device)
        rests = [ids[row, stop:] for row, stop in enumerate(stops)]
        parts = self._level(rests, ids.shape[1] + _steps(settings))
        if len(parts) > 1:
            answers = {}
            for part in parts:
                answers.update(zip(part, self._share([rows[index] for index in part], settings), strict=True))
            return [answers[index] for index in range(len(rows))]
        heads = [ids[row, start:stop] for row, (start, stop) in enumerate(zip(starts, stops, strict=True))]
        keys = [_key(row.chat, head) for row, head in zip(rows, heads, strict=True)]
        prefixes = self._prefixes.get(keys, lambda missing: self._plain([rows[index] for index in missing]))
        room = max([_steps(settings), *(len(tokens) for row in rows for tokens in self._tokens(row))])
        inputs = join(prefixes, rests, room, self._tokenizer.pad_token_id, cache_argument(self._model))
        return self._run(rows, settings, inputs)

    def _level(self, rests: Sequence[torch.Tensor], length: int) -> list[list[int]]:
        """Return the rows in groups that can run side by side; `length`: of the longest, with its answer.

        Padding stands between prefix and rest, so it would push the prefix out of the sight of a
        layer that looks back only so far: where one might, rests of equal length go together.
        """
        if self._window is None or length + max(map(len, rests)) <= self._window:
            return [list(range(len(rests)))]
        groups: dict[int, list[int]] = {}
        for row, rest in enumerate(rests):
            groups.setdefault(len(rest), []).append(row)
        return list(groups.values())

    def _run(self, rows: Sequence[Row], settings: Mapping[str, Any], inputs: Tensors) -> list[Answer]:
        """Generate from `inputs`, whole prompts or what `join` returns, and score the choices."""
        scored = any(row.choices for row in rows)
        output = self._generate(inputs, _steps(settings), output_logits=scored)
        new = output.sequences[:, inputs["input_ids"].shape[1] :]
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        lengths = (new != self._tokenizer.pad_token_id).sum(dim=1).tolist()
        shares = self._probabilities(rows, inputs, output.logits[:1]) if scored else [None] * len(rows)
        until = settings.get("until") or ()
        return [
            Answer(_cut(text, until), length, share) for text, length, share in zip(texts, lengths, shares, strict=True)
        ]

    def _generate(self, inputs: Tensors, steps: int, **options: Any) -> Any:
        eos = self._model.generation_config.eos_token_id or self._tokenizer.eos_token_id
        return self._model.generate(
            **inputs,
            max_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=self._tokenizer.pad_token_id,
            eos_token_id=eos,
            return_dict_in_generate=True,
            **options,
        )

    def _probabilities(
        self, rows: Sequence[Row], inputs: Tensors, first: tuple[torch.Tensor, ...]
    ) -> list[tuple[float, ...] | None]:
        """Return the probability of each row's choices: of the first token, of all where choices share it.

        first: logits (rows, vocabulary) of the first answer token. Tokens before a choice's last are
        forced, once for all choices that begin alike.
        """
        choices = [_distinct(self._tokens(row)) for row in rows]
        said = {(): [logits.double().log_softmax(-1) for logits in first]}
        for stem in sorted({tuple(choice[:-1]) for row in choices for choice in row} - {()}):
            _rewind(inputs)
            forced = LogitsProcessorList([_Forced(stem, inputs["input_ids"].shape[1])])
            output = self._generate(inputs, len(stem) + 1, output_logits=True, logits_processor=forced)
            said[stem] = [logits.double().log_softmax(-1) for logits in output.logits]

        def share(row: int, choice: Sequence[int]) -> float:
            steps = said[tuple(choice[:-1])]
            return sum(steps[index][row, token] for index, token in enumerate(choice)).exp().item()

        return [tuple(share(row, choice) for choice in own) or None for row, own in enumerate(choices)]

    def _tokens(self, row: Row) -> list[list[int]]:
        return self._prompts.choice_tokens(row.chat, row.choices) if row.choices else []


class _Forced(LogitsProcessor):
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


def _rewind(inputs: Tensors) -> None:
    """Let the cache in `inputs` hold the prompt but for its last token, which is run again."""
    for name in CACHE_NAMES:
        for layer in inputs[name].layers if name in inputs else ():
            layer.length = inputs["input_ids"].shape[1] - 1


def _distinct(choices: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return each choice's tokens: the first alone where no other choice begins with it."""
    heads = [choice[0] for choice in choices]
    return [choice if heads.count(choice[0]) > 1 else choice[:1] for choice in choices]


def _key(chat: Chat, head: torch.Tensor) -> Hashable:
    return tuple(map(image_hash, images_of(chat))), tuple(head.tolist())


def _steps(settings: Mapping[str, Any]) -> int:
    return settings.get("max_new_tokens", _MAX_NEW_TOKENS)


def _cut(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text
