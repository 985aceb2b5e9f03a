"""The command line of `mmi sweep-train`."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from mmi_plugin.errors import InputError
from mmi_plugin.studies.plan import AXES, Plan, make_plan, parsed, read_axes

DESCRIPTION = (
    "train a config with one field changed at a time, over seeds, on the embedded benchmark; table and figure. "
    "Fields of the trainer (--field value ...) are passed to every run."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, default=Path("configs/demo/ours.yaml"), help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep_train"), help="results folder (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each setting (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="AXIS", help="axes to go along, for example eps steps")
    parser.add_argument("--axes", type=Path, default=AXES, help="YAML of axes (default: %(default)s)")
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", help="write document and figure here, too: docs/ablations.md"
    )
    parser.add_argument("--limit", type=int, metavar="N", help="ask the first N test items of each task only")
    parser.add_argument("--workers", type=int, help="runs at a time (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """Make the runs that are missing, write sweep.json, and unless one failed document and figure.

    Returns 1 when a run failed. Raises InputError for bad input.
    """
    for name in ("seeds", "limit", "workers"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value}: it must be at least 1")
    from mmi_plugin.studies.demo import base_folder
    from mmi_plugin.studies.runs import Sweep, jobs_of, make_all

    argv = ["--config", str(args.config), *args.fields]
    plan = make_plan(read_axes(args.axes), argv, args.only)
    base = parsed(argv).model_name_or_path
    sweep = Sweep(args.config, tuple(args.fields), Path(base) if base else base_folder(), args.out, args.limit)
    for name in plan.left_out:
        print(f"axis {name!r} is left out: it changes nothing in this config", file=sys.stderr)
    jobs = jobs_of(sweep, plan.settings, args.seeds)
    made, failed = make_all(jobs, args.workers)
    _write(args, plan, sweep, made, failed)
    for title, error in failed.items():
        print(f"error: {title}: {error}", file=sys.stderr)
    return 1 if failed else 0


def command_of(args: argparse.Namespace) -> str:
    """Return the command that `args` stand for, options at their defaults left out."""
    blank = argparse.ArgumentParser()
    add_arguments(blank)
    parts = ["mmi", "sweep-train"]
    for action in blank._actions:
        value = getattr(args, action.dest, action.default)
        if action.dest != "help" and value != action.default:
            parts += [action.option_strings[0], *map(str, value if isinstance(value, list) else [value])]
    return shlex.join([*parts, *args.fields])


def _write(args: argparse.Namespace, plan: Plan, sweep: Any, runs: Sequence[Any], failed: dict[str, str]) -> None:
    from mmi_plugin.report.figures import save_figures
    from mmi_plugin.studies.analysis import analyse
    from mmi_plugin.studies.document import Made, document, sweep_figure

    analysis = analyse(runs)
    args.out.mkdir(parents=True, exist_ok=True)
    content = {
        "command": command_of(args),
        "seeds": args.seeds,
        **sweep.provenance,
        "fields": yaml.safe_load(args.config.read_text(encoding="utf-8")),
        "axes": [asdict(axis) for axis in plan.axes],
        "runs": [_as_json(one) for one in runs],
        "numbers": [
            {"setting": setting.name, "outcome": outcome.label, **asdict(number)}
            for (setting, outcome), number in analysis.numbers.items()
        ],
        "changes": [
            {"setting": setting.name, "outcome": outcome.label, "differs": change.differs, **asdict(change)}
            for (setting, outcome), change in analysis.changes.items()
        ],
        "failed": failed,
    }
    (args.out / "sweep.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    print(f"numbers: {args.out / 'sweep.json'}")
    if failed or not plan.axes:
        return
    for file in dict.fromkeys([args.out / "ablations.md", args.docs or args.out / "ablations.md"]):
        made = Made(content["command"], str(args.config), args.seeds, sweep.provenance, f"{file.stem}.png")
        save_figures({file.stem: sweep_figure(plan.axes, analysis)}, file.parent)
        file.write_text(document(plan.axes, analysis, runs, made), encoding="utf-8")
        print(f"document: {file}")


def _as_json(run: Any) -> dict[str, Any]:
    """Return one run as `sweep.json` holds it."""
    from mmi_plugin.studies.demo import TASKS, numbers_of

    return {
        "setting": run.setting.name,
        "field": run.setting.field,
        "value": run.setting.value,
        "seed": run.seed,
        **numbers_of({task: run.summary(task) for task in TASKS}),
        "attack_strength": run.attack_strength,
        "seconds": run.seconds,
    }
