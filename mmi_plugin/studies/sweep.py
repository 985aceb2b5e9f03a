"""`mmi sweep`: one condition at several strengths through the harness, as curve and table."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from mmi_plugin.conditions import REFERENCE, check_names, get
from mmi_plugin.errors import InputError

if TYPE_CHECKING:
    from mmi_plugin.report.board import Leaderboard


DESCRIPTION = "ask a task under one condition at several strengths, and draw the dose-response curve"
_FIELDS = ("model", "task", "condition", "strength", "value", "measure", "share", "low", "high", "n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("task", metavar="TASK", help="a task of this package, for example mmi_demo_digits")
    parser.add_argument(
        "sweep", metavar="SWEEP", help="condition and values, for example unrelated_text@sentences=0,1,2,5,10,20"
    )
    parser.add_argument("--out", type=Path, required=True, help="results folder; another model adds its curve to it")
    parser.add_argument("--model", default="mmi_hf", help="model of lmms_eval (default: %(default)s)")
    parser.add_argument("--model_args", required=True, help="its arguments, for example pretrained=FOLDER")
    parser.add_argument("--include_path", type=Path, metavar="DIR", help="folder of YAMLs with TASK")
    for name in ("batch_size", "device", "gen_kwargs", "limit"):
        parser.add_argument(f"--{name}", help="as in lmms_eval")


def run(args: argparse.Namespace) -> int:
    """Evaluate, write curve and CSV below `args.out`, and return the harness's status.

    Raises InputError for an unknown task, condition, strength or value.
    """
    conditions = expand(args.sweep)
    from mmi_plugin.harness.launcher import main as lmms_eval  # imports lmms-eval, for which nobody waits in vain

    name = _write_task(args, conditions)
    flags = ["--tasks", name, "--include_path", str(args.out / "tasks"), "--output_path", str(args.out)]
    for option in ("model", "model_args", "batch_size", "device", "gen_kwargs", "limit"):
        value = getattr(args, option)
        flags += [] if value is None else [f"--{option}", value]
    status = lmms_eval([*flags, "--log_samples"])
    return status or _report(args.out, name)


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


def _write_task(args: argparse.Namespace, conditions: tuple[str, ...]) -> str:
    """Write a task that asks what `args.task` asks, under other conditions; return its name."""
    from mmi_plugin.harness.task_manager import find_task

    task = find_task(args.task, args.include_path)
    name = "_".join([args.task, args.sweep.split("=")[0].replace("@", "_")])
    content = {
        "include": str(task.path),
        "task": name,
        "dataset_kwargs": {**task.options, "conditions": list(conditions)},
    }
    folder = args.out / "tasks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return name


def _report(out: Path, task: str) -> int:
    """Write the curve of every model below `out`, and its numbers."""
    from mmi_plugin.report.board import build
    from mmi_plugin.report.figures import dose_figures, save_figures
    from mmi_plugin.results.runs import read_runs

    board = build(read_runs([str(out)]))
    save_figures(dose_figures(board), out)
    rows = list(_rows(board))
    with (out / "sweep.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        if row["task"] == task and row["measure"] in ("accuracy", "flip_rate"):
            shown = f"{100 * row['share']:5.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
            print(f"{row['model']}  {row['strength']}={row['value']}  {row['measure']:9}  {shown}")
    print(f"curve: {out}/dose_*.png, numbers: {out / 'sweep.csv'}")
    return 0


def _rows(board: Leaderboard) -> Iterator[dict[str, Any]]:
    """Yield every number under a condition of a sweep; shares are in [0, 1]."""
    from mmi_plugin.report.board import sweeps

    for key, number in board.numbers.items():
        if key.scope.kind != "task":
            continue
        for sweep in sweeps(board.outcomes[key.scope.name].conditions):
            for value, condition in sweep.names.items():
                if key.measure.condition == condition:
                    found = number.estimate
                    yield {
                        "model": key.model,
                        "task": key.scope.name,
                        "condition": condition,
                        "strength": sweep.parameter,
                        "value": value,
                        "measure": key.measure.name,
                        "share": found.value,
                        "low": found.low,
                        "high": found.high,
                        "n": found.n,
                    }
