"""Benchmarks asked during training: accuracy and flip rate as curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mmi_plugin import prompts
from mmi_plugin.answers import parse_letter
from mmi_plugin.conditions import get
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.items import Item
from mmi_plugin.metrics import Record, summarise
from mmi_plugin.sources import SOURCES, Benchmark, load
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.sharding import within_forward

PREFIX = "mmi_"
NEW_TOKENS = 8  # enough for a letter, or to see that there is none


class EvaluationCallback(TrainerCallback):
    """Every `eval_tasks_steps` steps, and before the first, asks the first `eval_tasks_items` test items of each task.

    Logs eval_TASK/CONDITION/accuracy and /flip_rate and eval_TASK/worst_case, shares in [0, 1].
    Every process asks all of the items, in step, so that sharded weights are gathered. Training is
    not changed by it: nothing here draws from a global random generator.
    """

    def __init__(self, args: MMIConfig) -> None:
        self._benchmarks = {task: load_task(task) for task in args.eval_tasks or ()}
        self._every, self._items = args.eval_tasks_steps, args.eval_tasks_items
        self._conditions, self._batch_size = args.conditions_of, args.per_device_eval_batch_size
        self._trainer: Trainer | None = None

    def attach(self, trainer: Trainer) -> None:
        """Make `trainer` run this callback and log what it finds.

        Raises InputError when its model has no chat template to be asked with.
        """
        self._trainer = trainer
        if self._benchmarks:
            if not trainer.processing_class.chat_template:
                raise InputError("field 'eval_tasks': the processor has no chat template to ask with")
            trainer.add_callback(self)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._log()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self._every == 0:
            self._log()

    def _log(self) -> None:
        trainer = self._trainer
        model = trainer.accelerator.unwrap_model(trainer.model)
        found: dict[str, float] = {}
        for task, bench in self._benchmarks.items():
            rows = self._rows(bench)
            ask = partial(greedy_answers, model, trainer.processing_class, [row for _, row in rows], self._batch_size)
            answers = within_forward(trainer.model_wrapped, ask)
            records = [
                Record(row.id, name, 0, row.gold, parse_letter(raw, row.options), raw)
                for (name, row), raw in zip(rows, answers, strict=True)
            ]
            summary = summarise(records, bench.family, self._conditions(bench.family))
            found[f"eval_{task}/worst_case"] = summary.worst_case
            found |= {f"eval_{task}/{name}/accuracy": value for name, value in summary.accuracy.items()}
            found |= {f"eval_{task}/{name}/flip_rate": value for name, value in summary.flip_rate.items()}
        Trainer.log(trainer, found)  # not the trainer's own log, which would read its meter

    def _rows(self, bench: Benchmark) -> list[tuple[str, Item]]:
        """The items under every condition that training uses, drawn with seed 0."""
        return [
            (name, get(name)(item, 0, bench.pools))
            for item in bench.items[: self._items]
            for name in self._conditions(bench.family)
        ]


def load_task(task: str) -> Benchmark:
    """Return the test items of the task mmi_SOURCE. Raises InputError when there is none or one has no options."""
    name = task.removeprefix(PREFIX)
    if not task.startswith(PREFIX) or name not in SOURCES:
        raise InputError(f"field 'eval_tasks': unknown task {task!r}: {nearest(task, [PREFIX + s for s in SOURCES])}")
    bench = load(name, "test")
    for item in bench.items:
        if not item.options:
            raise InputError(f"field 'eval_tasks': {task!r} is free-form: item {item.id} has no options")
    return bench


@torch.no_grad()
def greedy_answers(
    model: PreTrainedModel, processor: ProcessorMixin, rows: Sequence[Item], batch_size: int
) -> list[str]:
    """Return the model's greedy answer to each row."""
    answers: list[str] = []
    with _for_generation(model, processor):
        for start in range(0, len(rows), batch_size):
            chats = [prompts.messages(row) for row in rows[start : start + batch_size]]
            inputs = processor.apply_chat_template(
                chats,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                processor_kwargs={"padding": True, "return_tensors": "pt"},
            ).to(model.device, model.dtype)
            output = model.generate(
                **inputs, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=processor.tokenizer.pad_token_id
            )
            new = output[:, inputs["input_ids"].shape[1] :]
            answers += processor.tokenizer.batch_decode(new, skip_special_tokens=True)
    return answers


@contextmanager
def _for_generation(model: PreTrainedModel, processor: ProcessorMixin) -> Iterator[None]:
    """Within, the model is in evaluation mode and its tokenizer pads on the left."""
    training, side = model.training, processor.tokenizer.padding_side
    model.eval()
    processor.tokenizer.padding_side = "left"
    try:
        yield
    finally:
        model.train(training)
        processor.tokenizer.padding_side = side
