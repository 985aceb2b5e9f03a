"""Prepared inputs in, answers out: the greedy text, and the probability of each option where the model answers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from mmi_plugin.answers import answer_start, read
from mmi_plugin.attacks import Attack
from mmi_plugin.models.baselines import Baseline
from mmi_plugin.models.chats import Chat, images_of
from mmi_plugin.models.combine import Combined, Options
from mmi_plugin.models.compat import deferred, waits_less
from mmi_plugin.models.decode import Decoding, Forced, OptionLogs, ThoughtBudget, constraints, letter_forms
from mmi_plugin.models.image_attention import ImageAttention
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.models.tokens import Tensors
from mmi_plugin.models.trees import Branches

Combine = Callable[[list[LogitsProcessor]], list[LogitsProcessor]]


class Target(NamedTuple):
    """What an adversary attacks: an item by its id, with the seed of its task. gold: the place of the right option."""

    attack: Attack
    item_id: str
    seed: int
    family: str
    gold: int


@dataclass(frozen=True)
class Query:
    """A prompt. `choices`: the labels whose probability is wanted; `options`: the texts that they stand for (by
    default the labels themselves); `shared`: other prompts show its image; `target`: what to attack, if anything."""

    chat: Chat
    choices: tuple[str, ...] = ()
    shared: bool = False
    options: tuple[str, ...] = ()
    target: Target | None = None


@dataclass(frozen=True)
class Reply:
    """`text` of `tokens` tokens, with its thought, also where the template opened that.

    `probabilities`: of the choices, in their order, at the token with which the model answers: after its own thought
    and lead-in ("The answer is"), at the first token where it chooses none of the options. None without choices, and
    where the answer is no label or lies in a thought that did not end.
    """

    text: str
    tokens: int
    probabilities: tuple[float, ...] | None
    attack: dict[str, Any] | None = None


@dataclass
class _Spoken:
    """What a model said to one prompt: `tokens`, a stop included, and the `steps` at which those that are text were
    said. `opened`: a thought that the template opened before them."""

    tokens: list[int]
    steps: list[int]
    decode: Callable[[list[int]], str]
    opened: str

    def _first(self, count: int) -> str:
        return self.decode([self.tokens[step] for step in self.steps[:count]])

    @cached_property
    def text(self) -> str:
        return self.opened + self._first(len(self.steps))

    def step(self, place: int) -> int:
        """Return the step that said the character at `place` of the text."""
        counts = range(len(self.steps) + 1)
        return self.steps[bisect_right(counts, place - len(self.opened), key=lambda n: len(self._first(n))) - 1]


class Generator:
    """Lets a model speak greedily to prepared inputs.

    thoughts: tags around a model's thoughts, which may take `thinking` tokens beside those of the answer. Settings
    in the checkpoint's own generation config do not act, but for token ids. baseline: what answers are decoded by;
    then what is asked has the contrasts after the rows.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        prompts: Prompts,
        thoughts: Sequence[tuple[str, str]],
        thinking: int,
        baseline: Baseline | None = None,
    ) -> None:
        self._model, self._prompts, self._tokenizer = model, prompts, prompts.tokenizer
        self.thoughts, self._thinking, self._baseline = tuple(thoughts), thinking, baseline
        self._attention = ImageAttention(model, baseline) if baseline and baseline.attends_more else None
        self._settings = _token_ids(model, prompts)
        self._thinks = False
        self.opened = prompts.opened(self.thoughts)
        tags = "".join(tag for pair in self.thoughts for tag in pair)
        special = {token for token, added in self._tokenizer.added_tokens_decoder.items() if added.special}
        special |= {*self._tokenizer.all_special_ids, *self._settings.eos_token_id}
        self._silent = {token for token in special if self._tokenizer.convert_ids_to_tokens(token) not in tags}

    @property
    def padding(self) -> int:
        """The token that fills rows up."""
        return self._settings.pad_token_id

    def tokens(self, inputs: Tensors, steps: int, **options: Any) -> Any:
        """Return what `generate` of transformers does, for at most `steps` tokens."""
        options = {"return_dict_in_generate": True, **options, "max_new_tokens": steps}
        attention = self._attention.on(inputs) if self._attention else nullcontext()
        with _settings_of(self._model, self._settings), attention:
            return self._model.generate(**inputs, **options)

    def answers(self, rows: Sequence[Query], asked: Tensors | Branches, decoding: Decoding) -> list[Reply]:
        """Return an answer to each row. asked: the inputs of whole prompts, or their branches."""
        inputs = asked.inputs if isinstance(asked, Branches) else asked
        start = inputs["input_ids"].shape[1]
        direct = [self._prompts.option_tokens(row.chat, row.choices) if row.choices else None for row in rows]
        logs = OptionLogs(self._watched(rows, direct), inputs["input_ids"].device)
        combine = self._combination(rows, direct, inputs)
        processors = combine([logs, *constraints(decoding, inputs, self._settings.eos_token_id)])
        budget = ThoughtBudget(lambda new: self._said(new).text, decoding.max_new_tokens, start, self.thoughts)
        spoken = self._speak(asked, decoding.max_new_tokens + self._thinking, processors, budget)
        first = self._first_probabilities(asked, start, direct, logs, combine)
        answers = []
        for number, (row, new) in enumerate(zip(rows, spoken[: len(rows), start:].tolist(), strict=True)):
            said = self._said(new)
            begin = answer_start(said.text, self.thoughts) or 0
            text = said.text[:begin] + decoding.cut(said.text[begin:])
            place = self._place(row, text, said, direct[number]) if row.choices else None
            chances = first[number] if place is _FIRST else place and logs.probabilities(place[0], number, place[1])
            answers.append(Reply(text, len(said.tokens), chances))
        return answers

    def _combination(self, rows: Sequence[Query], direct: Options, inputs: Tensors) -> Combine:
        """Return what puts a baseline around processors."""
        if self._baseline is None:
            return list
        if self._baseline.reads_options and any(
            row.choices and own is None for row, own in zip(rows, direct, strict=True)
        ):
            self._prompts.say_once(f"baseline {self._baseline.name} cannot act where the template begins the answer")
        mask = inputs["attention_mask"].bool()
        contrasted = [bool(images_of(row.chat)) for row in rows]
        return Combined(self._baseline, mask, direct, [row.choices for row in rows], contrasted).around

    def _speak(
        self,
        asked: Tensors | Branches,
        steps: int,
        processors: Sequence[LogitsProcessor],
        budget: ThoughtBudget | None = None,
    ) -> torch.Tensor:
        """Return (B, L + N): the prompts (B, L), and at most `steps` tokens after them."""
        if not isinstance(asked, Branches):
            return self._generated(asked, steps, processors, budget)
        stops = torch.tensor(self._settings.eos_token_id, device=asked.first.device)

        def over(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            ended = torch.isin(ids[:, -1], stops)
            return ended | budget(ids, scores) if budget else ended

        return asked.say(steps, processors, over, self.padding)

    def _generated(
        self, inputs: Tensors, steps: int, processors: Sequence[LogitsProcessor], budget: ThoughtBudget | None
    ) -> torch.Tensor:
        """`_speak` by `generate`: where that can do without waiting, with room for the tokens of an answer from the
        start. A model that thinks is asked anew and, from then on, with room that grows; so is one under a baseline."""
        stop = StoppingCriteriaList([budget] if budget else [])
        options = {"logits_processor": LogitsProcessorList(processors), "stopping_criteria": stop}
        if waits_less(self._model) and not self._thinks and self._baseline is None:
            with deferred(self._model) as told:
                said = self.tokens(inputs, min(steps, budget.answer) if budget else steps, **options, **told)
            self._thinks = budget is not None and budget.thinks
            if not self._thinks:
                return said
            for one in (budget, *(p for p in processors if isinstance(p, OptionLogs))):
                one.forget()
        return self.tokens(inputs, steps, **options).sequences

    def _place(
        self, row: Query, text: str, said: _Spoken, direct: list[list[int]] | None
    ) -> tuple[int, list[int]] | None:
        """Return the step at which the model answers, and what it could have said there for each choice.

        _FIRST: the choices as it is trained to say them, at once, where it does or where it chooses none of them.
        None where the probabilities of labels would not be those of its answer.
        """
        reading = read(text, row.options or row.choices, self.thoughts)
        if reading.start is None:
            at_once = direct is not None and answer_start(text, self.thoughts) == 0
            return _FIRST if at_once and reading.letter is None else None
        step = said.step(reading.start)
        if step == 0 and direct is not None and said.tokens[0] in {tokens[0] for tokens in direct}:
            return _FIRST
        form = letter_forms(self._tokenizer).get(said.tokens[step], {})
        return (step, [form[choice] for choice in row.choices]) if form.keys() >= set(row.choices) else None

    def _watched(self, rows: Sequence[Query], direct: Options) -> list[int]:
        """Return every token whose probability may be wanted."""
        labels = {choice for row in rows for choice in row.choices}
        forms = letter_forms(self._tokenizer).values() if labels else ()
        likewise = {form[label] for form in forms for label in labels & form.keys()}
        return sorted(likewise | {token for own in direct for tokens in own or () for token in tokens})

    def _first_probabilities(
        self, asked: Tensors | Branches, start: int, direct: Options, logs: OptionLogs, combine: Combine
    ) -> list[tuple[float, ...] | None]:
        """Return the probability of each row's choices said at once: of the first token, of all where choices share it.

        Tokens before a choice's last are forced, once for all choices that begin alike. start: tokens of a prompt.
        """
        choices = [_distinct(own or ()) for own in direct]
        heard = {(): logs}
        for stem in sorted({tuple(choice[:-1]) for own in choices for choice in own} - {()}):
            heard[stem] = OptionLogs(logs.tokens, self._model.device)
            self._speak(asked, len(stem) + 1, combine([heard[stem], Forced(stem, start)]))

        def chance(row: int, choice: Sequence[int]) -> float:
            steps = heard[tuple(choice[:-1])]
            return prod(steps.probabilities(step, row, [token])[0] for step, token in enumerate(choice))

        return [tuple(chance(row, choice) for choice in own) or None for row, own in enumerate(choices)]

    def _said(self, new: list[int]) -> _Spoken:
        """Return what a row of new tokens says up to the first stop."""
        stops = self._settings.eos_token_id
        end = next((place for place, token in enumerate(new) if token in stops), len(new) - 1)
        tokens = new[: end + 1]
        steps = [step for step, token in enumerate(tokens) if token not in self._silent]
        return _Spoken(tokens, steps, self._tokenizer.decode, self.opened)


_FIRST = (0, [])


def _token_ids(model: PreTrainedModel, prompts: Prompts) -> GenerationConfig:
    """Return settings that change nothing, with the checkpoint's token ids and all that may end an answer."""
    own = {key: value for key, value in model.generation_config.to_dict().items() if key.endswith("_token_id")}
    ends = own.pop("eos_token_id", None)
    ends = {*(ends if isinstance(ends, list) else [ends]), prompts.tokenizer.eos_token_id, *prompts.stops} - {None}
    padding = prompts.tokenizer.pad_token_id
    padding = prompts.tokenizer.eos_token_id if padding is None else padding
    return GenerationConfig(**{**own, "eos_token_id": sorted(ends), "pad_token_id": padding or 0})


@contextmanager
def _settings_of(model: PreTrainedModel, settings: GenerationConfig) -> Iterator[None]:
    """Within, the model has these settings: `generate` fills whatever it is not told from the model's own."""
    kept, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = kept


def _distinct(choices: Sequence[Sequence[int]]) -> list[Sequence[int]]:
    """Return each choice's tokens: the first alone where no other choice begins with it."""
    heads = [choice[0] for choice in choices]
    return [choice if heads.count(choice[0]) > 1 else choice[:1] for choice in choices]
