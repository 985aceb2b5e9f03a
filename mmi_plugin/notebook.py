"""Names, models and items in, items, results and tables out: the functions behind `import mmi_plugin as mmi`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmi_plugin.answers.agreement import check_metric
from mmi_plugin.conditions import Pools, check_names, get
from mmi_plugin.documents import Selection, documents, from_outside
from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, check
from mmi_plugin.plugins import include as run_modules
from mmi_plugin.results import TaskResult
from mmi_plugin.results.measures import task_numbers
from mmi_plugin.results.runs import Run, as_run, check_runs, read_run
from mmi_plugin.sources import Benchmark
from mmi_plugin.sources import load as load_source

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, ProcessorMixin

    from mmi_plugin.trainers.trainer import MMITrainer

_FIRST = ("task", "item_id", "condition", "seed", "gold", "parsed", "right", "raw", "named", "prompt")


@dataclass(frozen=True)
class Results:
    """What one model answered, on one task or on several."""

    run: Run

    @property
    def name(self) -> str:
        """The model's name in tables."""
        return self.run.name

    def records(self) -> pd.DataFrame:
        """Return a row per answer: task, item_id, condition, seed, gold and parsed letter (None: none was found),
        right, raw answer, named letter (that of the option which the condition names), prompt, probabilities of the
        options, failure, score (of a choice 1 or 0)."""
        import pandas as pd

        rows = [
            {"task": task, **record.to_dict(), "right": record.right, "score": record.score, "prompt": prompt}
            for task, result in self.run.results.items()
            for record, prompt in zip(result.records, result.prompts, strict=True)
        ]
        first = [name for name in _FIRST if name in rows[0]]
        return pd.DataFrame(rows, columns=first + [name for name in rows[0] if name not in first])

    def numbers(self) -> pd.DataFrame:
        """Return a row per number: value with a 95% interval (low, high), over n items. Shares are in [0, 1]."""
        from mmi_plugin.report.files import CHANGE

        return _table([self.run], None).drop(columns=["rank", *CHANGE])

    def save_page(self, path: str | Path) -> None:
        """Write the page of `mmi leaderboard`, with an item browser, as one HTML file; items beyond 1,000 in others."""
        from mmi_plugin.report.board import build
        from mmi_plugin.report.page import write_page

        write_page(Path(path), build([self.run]))

    def __add__(self, other: Results) -> Results:
        """One model's results on the tasks of both. Raises InputError when a task is in both."""
        if twice := sorted(set(self.run.results) & set(other.run.results)):
            raise InputError(f"{twice[0]} is in both results")
        return Results(as_run(self.name, self.run.folder, {**self.run.results, **other.run.results}))


def items(source: str, split: str = "test", **options: Any) -> tuple[Item, ...]:
    """Return the items of a data set by its name, as `demo_digits`; options are its own, as `path` of a local copy.

    Raises InputError with the nearest name when there is none of that name.
    """
    return tuple(load_source(source, split, **options).items)


def include(folder: str | Path) -> None:
    """Make the conditions, sources and families known that the modules `mmi_*.py` of a folder register, as
    `--include_path` does. Raises InputError with file and line for one that cannot be run."""
    run_modules(folder)


def perturb(item: Item, condition: str, seed: int = 0) -> Item:
    """Return `item` under a condition, as `misleading_text`, drawn from the built-in pools: the same for a seed
    wherever it is asked for. Raises InputError for an unknown condition, or one of another family."""
    check_names([condition], item.family)
    return get(condition)(item, seed, Pools.default())


def load(name: str, **options: Any) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Return the model, in evaluation mode, and the processor of a folder or hub id; options go to `from_pretrained`
    of the model. Raises InputError when it does not load."""
    from mmi_plugin.models.load import load_model, load_processor

    return load_model(name, **options), load_processor(name)


def evaluate(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    asked: str | Sequence[Item],
    conditions: Sequence[str] | None = None,
    *,
    name: str = "model",
    split: str = "test",
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = 16,
    metric: str | None = None,
    options: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Results:
    """Ask a model about the first `limit` items under all `conditions`, as `lmms_eval --model mmi_hf` does.

    asked: the name of a data set, with `options` of its own, or items of one family. conditions: by default all
    published ones of the family, the reference first. name: the model's in tables. metric: of items with `answers` and
    without options, by which these are compared: exact_match, anls or vqa_accuracy. settings: of the decoding, which
    is greedy, as `max_new_tokens`. Raises InputError for what cannot be asked, before the model is.
    """
    from mmi_plugin.models.evaluate import SETTINGS
    from mmi_plugin.models.evaluate import evaluate as answers
    from mmi_plugin.models.families import prompts_of

    task, bench, described = _task(asked, split, dict(options or {}), metric)
    chosen = check_names(conditions, bench.family) if conditions is not None else bench.conditions
    documented, settings = documents(bench, chosen, seed, limit), SETTINGS | settings
    prompts = prompts_of(processor)
    records = answers(model, prompts, documented, settings, batch_size)
    result = TaskResult(
        task=task,
        family=bench.family,
        options={**described, "conditions": list(chosen), "seed": seed},
        split=split,
        conditions=chosen,
        seed=seed,
        content_hash=bench.digest(chosen, seed),
        condition_versions={one: get(one).version for one in chosen},
        numbers=task_numbers(records, bench.family, chosen),
        setup={**_setup(processor, settings), "plugins": from_outside(described["source"], chosen, prompts)},
        records=tuple(records),
        prompts=tuple(documented.rows["prompt"]),
    )
    return Results(as_run(name, Path(name), {task: result}))


def _setup(processor: ProcessorMixin, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `mmi_hf` records of how it asks."""
    from mmi_plugin.models.decode import Decoding
    from mmi_plugin.models.evaluate import THINKING
    from mmi_plugin.models.load import fingerprint

    how = {"chat_template_kwargs": {}, "system_instruction": None, "max_thinking_tokens": THINKING}
    return {**fingerprint(processor), **how, "decoding": Decoding.parse(settings).to_dict()}


def read(folder: str | Path, name: str | None = None) -> Results:
    """Return the newest results of `lmms_eval --log_samples` below a folder, under `name` or that of the folder.

    Raises InputError that names the file when something is missing or malformed.
    """
    return Results(as_run(name or Path(folder).resolve().name, Path(folder), read_run(folder)))


def compare(first: Results, second: Results) -> pd.DataFrame:
    """Return a row per number of the second model that is tested against the first: the values of both, the paired
    difference with a 95% interval, its test's p before and after Holm's correction, and n, the items of both.

    Raises InputError when the two were not asked the same.
    """
    from mmi_plugin.report.files import CHANGE

    runs = [first.run, second.run]
    if first.name == second.name:
        runs = [replace(first.run, name=f"{first.name} (first)"), replace(second.run, name=f"{second.name} (second)")]
    check_runs(runs)
    found, keys = _table(runs, runs[0].name), ["scope", "over", "measure", "condition"]
    before = found[found["model"] == runs[0].name][[*keys, "value"]]
    after = found[(found["model"] == runs[1].name) & found["difference"].notna()]
    both = after.merge(before, on=keys, suffixes=("_second", "_first"))
    return both[[*keys, "value_first", "value_second", *CHANGE]]


def train(config: str | Path, **fields: Any) -> MMITrainer:
    """Train as `accelerate launch trainers/train.py --config CONFIG --field value ...` does, in this process; return
    the trainer, whose `model` is trained and is saved in `output_dir`.

    config: a YAML file, or the name of a bundled one, as `demo/ours`. Raises InputError for an unknown field or a
    value that does not fit, and for bad data.
    """
    from mmi_plugin.trainers.config import arguments, parse
    from mmi_plugin.trainers.run import train as run

    return run(parse(["--config", str(config), *arguments(fields, "train")]))


def _table(runs: Sequence[Run], baseline: str | None) -> pd.DataFrame:
    import pandas as pd

    from mmi_plugin.report.board import build
    from mmi_plugin.report.files import rows

    return pd.DataFrame(rows(build(runs, baseline)))


def _task(
    asked: str | Sequence[Item], split: str, options: dict[str, Any], metric: str | None
) -> tuple[str, Benchmark, dict[str, Any]]:
    """Return the task's name, what is asked, and the `dataset_kwargs` that describe it."""
    if isinstance(asked, str):
        options |= {"metric": metric} if metric else {}
        selection = Selection.parse({"source": asked, **options}, split, asked)
        return f"mmi_{asked}", selection.benchmark(), selection.to_dict()
    if options:
        raise InputError(f"options {sorted(options)} are those of a data set by name, and items were given")
    checked = tuple(check(item, f"item {place}") for place, item in enumerate(asked, start=1))
    families = sorted({item.family for item in checked})
    if len(families) != 1:
        raise InputError(f"items are of {' and '.join(families) or 'no family'}: give those of one family at a time")
    if metric:
        for place, item in enumerate(checked, start=1):
            check_metric(metric, item.answers, f"item {place}")
    return "items", Benchmark("items", families[0], checked, metric=metric or ""), {"source": "items"}
