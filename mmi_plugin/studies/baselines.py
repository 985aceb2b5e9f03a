"""`mmi baselines`: one model asked the same tasks plainly and by every baseline and control, as one board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.files import write_whole
from mmi_plugin.models.baselines import CONTROLS, METHODS, Baseline
from mmi_plugin.report.board import build
from mmi_plugin.report.files import terminal, to_csv
from mmi_plugin.results.runs import read_runs
from mmi_plugin.studies.sweep import ask_once

PLAIN = "plain"


def run(
    tasks: str,
    out: Path,
    model: str,
    model_args: str,
    only: Sequence[str] | None,
    beside: Sequence[str],
    include_path: Path | None,
    flags: Mapping[str, Any],
) -> int:
    """Ask `tasks` plainly and by each baseline, but for what was asked before; write the board below `out`; return 0,
    or the harness's status.

    only: which baselines. beside: NAME=RESULTS of further rows. flags: further ones of lmms-eval's command line.
    Raises InputError for another model, an unknown baseline and settings that cannot be.
    """
    if model != "mmi_hf":
        raise InputError(f"--model {model}: baselines decode by mmi_hf alone")
    asked = arguments(model_args, only)
    _check(beside, asked)
    for name, given in asked.items():
        folder = out / "runs" / name
        own = {"model": model, "model_args": given, "tasks": tasks, **flags}
        own |= {"include_path": str(include_path)} if include_path else {}
        placed = {"output_path": str(folder)}
        if status := ask_once(name, own, placed, out / "jobs" / f"{name}.json", out / "baselines.log"):
            return status
    _report(out, list(asked), beside)
    return 0


def _check(beside: Sequence[str], asked: Mapping[str, str]) -> None:
    """Raise InputError for rows beside that are none, or have the name of one that is asked."""
    for one in beside:
        if (name := one.partition("=")[0]) in asked:
            raise InputError(f"--beside {one}: {name!r} is the name of a row that is asked")
    if beside:
        read_runs(beside)


def arguments(model_args: str, only: Sequence[str] | None) -> dict[str, str]:
    """Return the `--model_args` of each run by its name; a baseline's settings go to its own run.

    Raises InputError for an unknown baseline, one already chosen in `model_args`, and settings of one not asked.
    """
    names = list(METHODS) if only is None else list(only)
    for name in names:
        if name not in METHODS:
            raise InputError(f"--only: no baseline {name!r}: {nearest(name, METHODS)}")
    found = {name: ["", f"baseline={name}"] for name in names}
    common = []
    for part in model_args.split(","):
        key = part.partition("=")[0]
        if key == "baseline":
            raise InputError(f"--model_args {part}: --only {part.partition('=')[2]} asks by one baseline")
        owner = next((name for name in METHODS if key.removeprefix(f"{name}_") in METHODS[name].settings), None)
        if owner is None or not key.startswith(f"{owner}_"):
            common.append(part)
        elif owner not in found:
            raise InputError(f"--model_args: {key} is a setting of {owner}, which is not asked")
        else:
            found[owner].append(part)
    for name, parts in found.items():
        Baseline.take(name, dict(_setting(part) for part in parts[2:]))
    runs = {name: ",".join([*common, *parts[1:]]) for name, parts in found.items()}
    return {PLAIN: ",".join(common), **{shown(name): given for name, given in runs.items()}}


def shown(name: str) -> str:
    """Return a baseline's name on the board."""
    return f"control_{name}" if name in CONTROLS else name


def _setting(part: str) -> tuple[str, Any]:
    key, _, value = part.partition("=")
    try:
        return key, float(value)
    except ValueError:
        return key, value


def _report(out: Path, names: Sequence[str], beside: Sequence[str]) -> None:
    """Write the board of all runs and of those beside them, each against the plain one, and print it."""
    from mmi_plugin.report.page import write_page

    board = build(read_runs([*(f"{name}={out / 'runs' / name}" for name in names), *beside]), PLAIN)
    write_whole(out / "baselines.csv", to_csv(board))
    write_page(out / "baselines.html", board)
    print(terminal(board))
    print(f"page: {out / 'baselines.html'}, numbers: {out / 'baselines.csv'}")
