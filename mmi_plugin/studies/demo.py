"""`mmi demo`: diagnose the base, mitigate, diagnose again; table, demo.json and page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

import mmi_plugin.configs
from mmi_plugin.cores import cores
from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import file_hash, versions, write_whole
from mmi_plugin.report.board import build
from mmi_plugin.report.items import Example, pick_examples
from mmi_plugin.report.page import write_page
from mmi_plugin.report.study import Study
from mmi_plugin.report.table import table
from mmi_plugin.results import TaskResult
from mmi_plugin.results.measures import task_numbers
from mmi_plugin.results.runs import as_run, read_run
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.studies import lmms_eval
from mmi_plugin.studies.jobs import Job, JobFailed, make_all, offline

WEIGHTS = "model.safetensors"
TASKS = ("mmi_demo_digits", "mmi_demo_capitals", "mmi_demo_arith")
VALIDATION = "validation"
"""The split by which settings are chosen; the test is asked with those that were."""
VANILLA = "vanilla"
ROWS = {
    VANILLA: "Vanilla",
    "d_vqa": "D_VQA",
    "d_aug": "D_AUG",
    "kl": "KL",
    "js": "JS",
    "rg": "RG",
    "adv": "ADV",
    "ours": "Ours",
    "published": "Published",
    "robust": "Robust",
}
"""Rows in the order of the ablation, with the names that are shown; the last two are trained where asked for."""
TRAINED = tuple(ROWS)[1:]
ABLATION = TRAINED[:-2]
DEFAULT_ROWS = ("ours",)


def base_folder() -> Path:
    """Return the folder of the base model that the package ships. Raises InputError where it is missing."""
    folder = Path(str(resources.files("mmi_plugin.studies"))) / "base"
    if not (folder / WEIGHTS).is_file():
        raise InputError(f"{folder / WEIGHTS}: missing; build it with `python -m benchmarks.base.build`")
    return folder


def benchmark(task: str, split: str = "test") -> Benchmark:
    """Return a split of a task of the embedded benchmark."""
    return load(task.removeprefix("mmi_"), split)


@dataclass(frozen=True)
class AblationRow:
    """One row of the ablation with one seed, made below `out` from the checkpoint `base`; options go to the trainer
    and to lmms-eval."""

    name: str
    seed: int
    base: Path
    out: Path
    train_options: tuple[str, ...] = ()
    evaluate_options: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        return self.out / f"{self.name}-{self.seed}"

    @property
    def config(self) -> Path:
        return Path(next(iter(mmi_plugin.configs.__path__))) / "demo" / f"{self.name}.yaml"

    @property
    def key(self) -> dict[str, object]:
        """Everything that decides the row."""
        benches = [benchmark(task) for task in TASKS]
        return {
            "base": file_hash(self.base / WEIGHTS),
            "config": None if self.name == VANILLA else file_hash(self.config),
            "options": [*self.train_options, *(self.evaluate_options or {}).items()],
            "data": [bench.digest(bench.conditions, 0) for bench in benches],
            "seed": self.seed,
            "versions": versions(),
        }

    def job(self) -> Job:
        fields = ["--config", str(self.config), "--seed", str(self.seed), *self.train_options]
        arguments = {
            "folder": str(self.folder),
            "base": str(self.base),
            "fields": None if self.name == VANILLA else fields,
            "evaluate_options": self.evaluate_options or {},
        }
        where = self.folder / "row.json", self.key, self.folder.with_suffix(".log")
        return Job(f"{self.name}, seed {self.seed}", f"{__name__}:train_and_evaluate", arguments, *where)

    def results(self) -> dict[str, TaskResult]:
        return read_run(self.folder / "evaluation")


def train_and_evaluate(
    folder: str, base: str, fields: Sequence[str] | None, evaluate_options: Mapping[str, Any]
) -> dict[str, Any]:
    """Train `base` with `fields` of the trainer's command line, or take it as it is, and ask all tasks in the harness.

    Leaves `folder`/checkpoint and `folder`/evaluation; returns the numbers. Raises JobFailed where the harness fails.
    """
    start, where = time.perf_counter(), Path(folder)
    if where.exists():
        shutil.rmtree(where)
    checkpoint = Path(base) if fields is None else where / "checkpoint"
    if fields is not None:
        from mmi_plugin.trainers.run import parse, train  # imports torch and TRL

        train(parse([*fields, "--model_name_or_path", base, "--output_dir", str(checkpoint)]))
    flags = {"model": "mmi_hf", "model_args": f"pretrained={checkpoint}", "tasks": ",".join(TASKS), "batch_size": 128}
    status = lmms_eval(**flags, output_path=where / "evaluation", log_samples=True, **evaluate_options)
    if status:
        raise JobFailed(f"lmms_eval ended with status {status}")
    results = read_run(where / "evaluation")
    numbers = {task: task_numbers(one.records, one.family, one.conditions) for task, one in results.items()}
    hashes = {task: result.content_hash for task, result in results.items()}
    return {"seconds": round(time.perf_counter() - start, 1), **numbers_of(numbers), "hashes": hashes}


def numbers_of(numbers: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Return the numbers of a run as JSON files hold them: shares in [0, 1], by task or task/condition."""

    def by_condition(measure: str) -> dict[str, float]:
        return {
            f"{task}/{name.removeprefix(f'{measure}/')}": share
            for task, own in numbers.items()
            for name, share in own.items()
            if name.startswith(f"{measure}/")
        }

    def by_task(measure: str) -> dict[str, float]:
        return {task: own[measure] for task, own in numbers.items()}

    return {
        **{measure: by_condition(measure) for measure in ("accuracy", "flip_rate")},
        **{measure: by_task(measure) for measure in ("worst_case", "worst_case_seen", "unparseable")},
        "n": by_task("items"),
    }


def demo(
    out: Path,
    names: Sequence[str],
    seeds: int,
    base: Path | None = None,
    train_options: tuple[str, ...] = (),
    evaluate_options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Make every row, write `out`/demo.json and `out`/report.html, print the table.

    Rows that an earlier run finished with the same base, configuration and versions are kept.
    Raises InputError for an unknown row, JobFailed when a training or an evaluation fails.
    """
    for name in names:
        if name not in TRAINED:
            raise InputError(f"unknown row {name!r}: {nearest(name, TRAINED)}")
    base = base or base_folder()
    wanted = [(VANILLA, 0)] + [(name, seed) for seed in range(seeds) for name in TRAINED if name in names]
    rows = [AblationRow(name, seed, base, out, train_options, evaluate_options) for name, seed in wanted]
    made = _make(rows)
    results = {
        "rows": [{"name": row.name, "seed": row.seed, **one} for row, one in zip(rows, made, strict=True)],
        "versions": versions(),
        "config": {row.name: yaml.safe_load(row.config.read_text()) for row in rows if row.name != VANILLA},
        "hashes": made[0]["hashes"],
        "base": file_hash(base / WEIGHTS),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    write_whole(out / "demo.json", json.dumps(results, indent=1))
    _report(out, rows, results)
    return results


def _make(rows: Sequence[AblationRow]) -> list[dict[str, Any]]:
    """Return what each row's job gives, one job per core at a time.

    One training and the base, which is asked in a tenth of its time, go side by side where each has two cores, else one
    after the other with all. Of more rows each gets one core or more, which is faster for a small model, and a
    seed's longest rows, its last, come first, so that no core waits long for the other at the end.
    """
    workers = min(cores(), len(rows)) if len(rows) > 2 or cores() >= 4 else 1
    order = sorted(range(len(rows)), key=lambda i: i if workers == 1 else (rows[i].seed, -i))
    made, failed = make_all([rows[i].job() for i in order], workers, offline(max(1, cores() // workers)))
    for title, error in failed.items():
        raise JobFailed(f"{title}: {error}")
    return [made[order.index(i)] for i in range(len(rows))]


def _report(out: Path, rows: Sequence[AblationRow], results: Mapping[str, Any]) -> None:
    """Write the page of the rows' board and print their table."""
    found = [row.results() for row in rows]
    shown = tuple(label for name, label in ROWS.items() if name in {row.name for row in rows})
    board = build([as_run(ROWS[r.name], r.folder, own) for r, own in zip(rows, found, strict=True)], ROWS[VANILLA])
    trainings = {label: [r for r in results["rows"] if ROWS[r["name"]] == label] for label in shown}
    after = max(index for index, row in enumerate(rows) if row.seed == 0)
    study = Study(
        names=shown,
        seeds={label: [row["seed"] for row in own] for label, own in trainings.items()},
        seconds={label: [row["seconds"] for row in own] for label, own in trainings.items()},
        config=results["config"],
        examples=_examples(found[0], found[after]),
    )
    write_page(out / "report.html", board, study)
    print(table(board, shown))
    print(f"report: {out / 'report.html'}")


def _examples(before: Mapping[str, TaskResult], after: Mapping[str, TaskResult]) -> list[Example]:
    """Items of every condition with the answers of the base and of the last named row's first seed."""
    return [
        example
        for task in TASKS
        for example in pick_examples(benchmark(task), before[task].records, after[task].records)
    ]
