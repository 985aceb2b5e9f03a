"""Benchmarks and a model in training in, accuracy and flip rate out, as curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mmi_plugin.documents import Documents, Selection, documents
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import read_mapping
from mmi_plugin.models.decoder import evaluating, unwrap
from mmi_plugin.models.evaluate import evaluate
from mmi_plugin.models.families import prompts_of
from mmi_plugin.models.prompt import Prompts
from mmi_plugin.results import Record
from mmi_plugin.results.measures import task_numbers
from mmi_plugin.sources import SOURCES, Benchmark, is_known, load
from mmi_plugin.trainers.compat import within_forward
from mmi_plugin.trainers.config import MMIConfig

PREFIX = "mmi_"
SETTINGS = {"max_new_tokens": 8}  # enough for a letter, or to see that there is none


class EvaluationCallback(TrainerCallback):
    """Every `eval_tasks_steps` steps, and before the first, asks the first `eval_tasks_items` test items of each task.

    Asks under every condition that training uses, drawn with seed 0 from its pools, in its prompts. Logs
    eval_TASK/CONDITION/accuracy and /flip_rate and eval_TASK/worst_case, shares in [0, 1].
    Every process asks all of the items, in step, so that sharded weights are gathered. Training is
    not changed by it: nothing here draws from a global random generator.
    """

    def __init__(self, args: MMIConfig) -> None:
        self._benchmarks = {task: args.over(load_task(task, args.include_path)) for task in args.eval_tasks or ()}
        self._args, self._every = args, args.eval_tasks_steps
        self._trainer: Trainer | None = None
        self._prompts: Prompts | None = None

    def attach(self, trainer: Trainer) -> None:
        """Make `trainer` run this callback and log what it finds."""
        self._trainer = trainer
        if self._benchmarks:
            args = self._args
            self._prompts = prompts_of(trainer.processing_class, args.system_prompt, args.chat_template_kwargs)
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
        model = unwrap(trainer.accelerator.unwrap_model(trainer.model))
        found: dict[str, float] = {}
        for task, bench in self._benchmarks.items():
            conditions = self._args.conditions_of(bench.family)
            asked = documents(bench, conditions, limit=self._args.eval_tasks_items)

            def ask(asked: Documents = asked) -> list[Record]:
                # Prompts share nothing: where weights are sharded, the decoder must run as a whole.
                size = self._args.per_device_eval_batch_size
                with evaluating(model):
                    return evaluate(model, self._prompts, asked, SETTINGS, size, share=False, thinking=0)

            records = within_forward(trainer.model_wrapped, ask)
            numbers = task_numbers(records, bench.family, conditions)
            found[f"eval_{task}/worst_case"] = numbers["worst_case"]
            for number, value in numbers.items():
                measure, _, condition = number.partition("/")
                if condition:
                    found[f"eval_{task}/{condition}/{measure}"] = value
        Trainer.log(trainer, found)  # not the trainer's own log, which would read its meter


def load_task(task: str, include_path: str | None = None) -> Benchmark:
    """Return the items that a YAML directly in `include_path` describes in its `dataset_kwargs`, or the test items of
    the task mmi_SOURCE. Raises InputError when there is none or one has no options."""
    name = task.removeprefix(PREFIX)
    files = {file.stem: file for file in Path(include_path).glob("*.yaml")} if include_path else {}
    if task in files:
        content = read_mapping(files[task], "a task")
        if not isinstance(options := content.get("dataset_kwargs"), dict):
            raise InputError(f"{files[task]}: asks no data set of this package")
        bench = Selection.parse(options, str(content.get("test_split", "test")), task).benchmark()
    elif task.startswith(PREFIX) and is_known(name):
        bench = load(name, "test")
    else:
        known = [*files, *(PREFIX + source for source in SOURCES)]
        raise InputError(f"field 'eval_tasks': unknown task {task!r}: {nearest(task, known)}")
    for item in bench.items:
        if not item.options:
            raise InputError(f"field 'eval_tasks': {task!r} is free-form: item {item.id} has no options")
    return bench
