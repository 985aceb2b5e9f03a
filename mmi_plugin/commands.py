"""The arguments of a command in, its run's exit status out. What a command needs is imported when it runs."""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

from mmi_plugin.errors import InputError, complain
from mmi_plugin.files import write_whole

AS_IN_LMMS_EVAL = ("batch_size", "device", "gen_kwargs", "limit")


def evaluate(args: argparse.Namespace) -> int:
    """Ask a model a user's own questions."""
    from mmi_plugin.studies.own_data import options, run

    asked = options(args.data, args.images, args.family, args.columns, args.metric, args.conditions, args.versions)
    return run(
        asked, args.split or "test", args.out, {"model": args.model, "model_args": args.model_args, **_given(args)}
    )


def preview(args: argparse.Namespace) -> int:
    """Show what a model will see."""
    from mmi_plugin.studies.preview import run

    return run(args)


def _given(args: argparse.Namespace) -> dict[str, str]:
    """Return the flags of lmms-eval that were given."""
    found = {name: getattr(args, name) for name in AS_IN_LMMS_EVAL}
    return {name: value for name, value in found.items() if value is not None}


def train(args: argparse.Namespace) -> int:
    """Train a config by file or name."""
    from mmi_plugin.trainers.run import main

    named = args.fields and not args.fields[0].startswith("-")
    return main([*(["--config"] if named else []), *args.fields])


def configs(args: argparse.Namespace) -> int:
    """List the bundled training configs, a line each."""
    from mmi_plugin.trainers.named import configs, description

    found = configs()
    width = max(map(len, found))
    for name, file in found.items():
        print(f"{name:{width}}  {textwrap.shorten(description(file), 100, placeholder=' ...')}")
    return 0


def demo(args: argparse.Namespace) -> int:
    """Diagnose, mitigate, diagnose again."""
    from mmi_plugin.studies.demo import ABLATION, DEFAULT_ROWS, demo
    from mmi_plugin.studies.jobs import JobFailed

    base = _base_from_scratch(args.out.absolute() / "base") if args.from_scratch else None
    rows = args.rows or (ABLATION if args.ablation else DEFAULT_ROWS)
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        demo(args.out, rows, args.seeds or (3 if args.ablation else 1), base)
    except JobFailed as error:
        complain(error)
        return 1
    return 0


def _base_from_scratch(folder: Path) -> Path:
    """Train the base model into `folder` and return it. What does this is in the repository, not in the wheel."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "benchmarks" / "base" / "build.py").is_file():
        raise InputError("--from-scratch needs a clone of the repository; the shipped base is used without it")
    command = [sys.executable, "-m", "benchmarks.base.build", "--out", str(folder)]
    if subprocess.run(command, cwd=root, check=False).returncode:
        raise InputError(f"--from-scratch: {' '.join(command)} failed")
    return folder


def leaderboard(args: argparse.Namespace) -> int:
    """Write what `args` asks for and print the ranking."""
    from mmi_plugin.report import files
    from mmi_plugin.report.board import build
    from mmi_plugin.results.runs import find_baseline, read_runs

    runs = read_runs(args.results, args.common)
    board = build(runs, find_baseline(args.baseline, runs, args.allow_different_prompts), args.margin)
    made = {"csv": files.to_csv, "json": files.to_json, "md": files.to_markdown, "latex": files.to_latex}
    for name, make in made.items():
        path = getattr(args, name)
        if path:
            write_whole(path, make(board))
    if args.html:
        from mmi_plugin.report.page import write_page

        write_page(args.html, board, pictures=args.pictures)
    if args.plots:
        from mmi_plugin.report.figures import figures, save_figures

        save_figures(figures(board), args.plots)
    print(files.terminal(board))
    return 0


def facts(args: argparse.Namespace) -> int:
    """Write facts on wrong options."""
    from mmi_plugin.data.facts import run

    return run(args)


def build(args: argparse.Namespace) -> int:
    """Make a training set."""
    from mmi_plugin.data.build import run

    return run(args)


def convert(args: argparse.Namespace) -> int:
    """Make safetensors of other weights."""
    from mmi_plugin.models.convert import run

    return run(args)


def sweep(args: argparse.Namespace) -> int:
    """Ask under one condition at several strengths."""
    from mmi_plugin.studies.sweep import run

    return run(args.task, args.sweep, args.out, args.model, args.model_args, args.include_path, _given(args))


def attack(args: argparse.Namespace) -> int:
    """Ask under the worst that an adversary finds."""
    from mmi_plugin.studies.attack import FULL, Asked, run

    given = {name: getattr(args, name) for name in ("norm", "text", "steps", "restarts")}
    if args.full and (args.steps or args.restarts):
        raise InputError("--full sets --steps and --restarts: give one or the other")
    settings = {name: value for name, value in given.items() if value is not None} | (FULL if args.full else {})
    asked = Asked(args.space, tuple(args.eps), args.square, settings)
    return run(args.task, asked, args.out, args.model_args, args.include_path, _given(args))


def baselines(args: argparse.Namespace) -> int:
    """Ask by every baseline without training."""
    from mmi_plugin.studies.baselines import run

    given = args.task, args.out, args.model, args.model_args, args.only, args.beside
    return run(*given, args.include_path, _given(args))


def sweep_train(args: argparse.Namespace, own: argparse.ArgumentParser) -> int:
    """Train with one field changed at a time."""
    from mmi_plugin.studies.ablation import run

    known = {action.dest: action for action in own._actions if action.dest != "help"}
    given = {name: getattr(args, name) for name in known if getattr(args, name) != known[name].default}
    typed = [
        part
        for name, value in given.items()
        for part in [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    ]
    command = shlex.join(["mmi", "sweep-train", *typed, *args.fields])
    return run(**{name: getattr(args, name) for name in known}, fields=args.fields, command=command)
