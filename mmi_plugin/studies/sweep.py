"""`mmi sweep`: one condition at several strengths through the harness, as curve and table."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmi_plugin.conditions import REFERENCE, check_names, get
from mmi_plugin.errors import InputError, plain
from mmi_plugin.files import versions
from mmi_plugin.harness.task_manager import TaskFile, find_task
from mmi_plugin.models.load import stamp
from mmi_plugin.report.board import Key, curve_numbers, sweeps
from mmi_plugin.report.files import csv_cell
from mmi_plugin.results.estimates import Estimate
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.results.runs import read_runs
from mmi_plugin.sources.materials import SETTINGS, acting, settings_in
from mmi_plugin.studies import lmms_eval, write_task
from mmi_plugin.studies.jobs import Job, JobFailed, make_all

_FIELDS = ("model", "task", "condition", "strength", "value", "measure", "share", "low", "high", "n")


def run(
    task: str, sweep: str, out: Path, model: str, model_args: str, include_path: Path | None, flags: Mapping[str, Any]
) -> int:
    """Ask `task` under `sweep`, unless that was done before; write curve and CSV below `out`; return 0, or the
    harness's status. `flags`: further ones of lmms-eval's command line.

    Raises InputError for an unknown task, condition, strength or value.
    """
    name = "_".join([task, sweep.split("=")[0].replace("@", "_")])
    status = ask(
        find_task(task, include_path), name, expand(sweep), out, {"model": model, "model_args": model_args}, flags
    )
    if not status:
        _report(out, name)
    return status


def ask(
    found: TaskFile,
    name: str,
    conditions: tuple[str, ...],
    out: Path,
    model: Mapping[str, str],
    flags: Mapping[str, Any],
) -> int:
    """Ask what a task asks under `conditions` as the task `name`, unless that was done before; return 0, or the
    harness's status. model: `model` and `model_args` of lmms-eval's command line; flags: further ones."""
    asked, arguments = {**model, **flags}, model["model_args"]
    _write_task(found, name, conditions, out / "tasks")
    own = {"tasks": name, "include_path": str(out / "tasks"), "output_path": str(out)}
    key = {"task": {"split": found.split, "options": found.options, "conditions": conditions}}
    stem = f"{name}-{re.sub(r'[^A-Za-z0-9]+', '_', arguments)[-60:]}"
    return ask_once(name, asked, own, out / "runs" / f"{stem}.json", out / "sweep.log", key)


def ask_once(
    title: str,
    asked: Mapping[str, Any],
    own: Mapping[str, Any],
    file: Path,
    log: Path,
    key: Mapping[str, Any] | None = None,
) -> int:
    """Evaluate with the flags `asked` and `own` of lmms-eval, unless `file` keeps that it was done under the same
    `asked`, `key` and checkpoints; return 0, or the harness's status."""
    stamps = [stamp(part.partition("=")[2]) for part in asked["model_args"].split(",")]
    key = {**(key or {}), "asked": asked, "stamps": stamps, "versions": versions()}
    job = Job(title, f"{__name__}:evaluate", {**asked, **own, "log_samples": True}, file, key, log)
    try:
        make_all([job], workers=0)
    except JobFailed as failed:
        return failed.status
    return 0


def evaluate(**flags: Any) -> dict[str, Any]:
    """Evaluate in the harness. Raises JobFailed with its status, if that is not 0."""
    status = lmms_eval(**flags)
    if status:
        raise JobFailed(f"lmms_eval ended with status {status}", status)
    return {"tasks": flags["tasks"]}


def expand(sweep: str) -> tuple[str, ...]:
    """Return the reference and the conditions that `NAME@STRENGTH=VALUE,VALUE,...` stands for.

    Raises InputError unless exactly one strength has several values, each of them valid.
    """
    head, *settings = sweep.split("@")
    several = [index for index, setting in enumerate(settings) if "," in setting]
    if len(several) != 1:
        raise InputError(f"{sweep!r}: one strength needs several values, as in unrelated_text@sentences=0,5,10")
    key, _, values = settings[several[0]].partition("=")
    names = []
    for value in values.split(","):
        settings[several[0]] = f"{key}={value}"
        names.append("@".join([head, *settings]))
    family = get(names[0]).families[0]
    return check_names([REFERENCE[family], *names], family)


def _write_task(task: TaskFile, name: str, conditions: tuple[str, ...], folder: Path) -> None:
    """Write a task that asks what `task` asks, under other conditions; settings of it that act on none are left out."""
    kept = {key: value for key, value in task.options.items() if key not in SETTINGS}
    options = {**kept, **acting(settings_in(task.options), conditions), "conditions": list(conditions)}
    write_task(folder, name, task.path, options)


def _report(out: Path, task: str) -> None:
    """Write the curve of every model below `out`, and its numbers."""
    from mmi_plugin.report.figures import dose_figures, save_figures  # slow to import, and attacks do without

    runs = read_runs([str(out)])
    numbers, outcomes = curve_numbers(runs), runs[0].outcomes
    save_figures(dose_figures(numbers, outcomes), out)
    rows = list(_rows(numbers, outcomes))
    with (out / "sweep.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    for row in rows:
        if row["task"] == task and row["measure"] in ("accuracy", "flip_rate"):
            shown = f"{100 * row['share']:5.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
            print(f"{plain(row['model'])}  {row['strength']}={row['value']}  {row['measure']:9}  {shown}")
    print(f"curve: {out}/dose_*.png, numbers: {out / 'sweep.csv'}")


def _rows(numbers: Mapping[Key, Estimate], outcomes: Mapping[str, Outcomes]) -> Iterator[dict[str, Any]]:
    """Yield every number under a condition of a sweep; shares are in [0, 1]."""
    for key, found in numbers.items():
        for sweep in sweeps(outcomes[key.scope.name].conditions):
            for value, condition in sweep.names.items():
                if key.measure.condition == condition:
                    named = key.model, key.scope.name, condition, sweep.parameter, value, key.measure.name
                    yield dict(zip(_FIELDS, [*named, found.value, found.low, found.high, found.n], strict=True))
