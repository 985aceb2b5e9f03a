"""A user's own questions and the flags of `mmi eval` in; a task of them asked through the harness, its board out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmi_plugin.conditions import REFERENCE, fitting
from mmi_plugin.conditions.given import PREFIX
from mmi_plugin.documents import Selection
from mmi_plugin.errors import InputError
from mmi_plugin.harness import tasks_folder
from mmi_plugin.harness.task_manager import find_task
from mmi_plugin.sources.own import CLEAN, version_names
from mmi_plugin.studies import lmms_eval, write_task

TASK = "mmi_own"
COLUMNS = ("id", "question", "options", "answer", "image", "label", "cluster", "version", "context")
ASKED = {"image_heavy": "mmi_caltech101", "text_heavy": "mmi_openbookqa", "vqa": "mmi_scienceqa"}
"""Family -> a task, whose conditions are asked where none are named."""


def options(
    data: str,
    images: Path | None,
    family: str,
    columns: Sequence[str],
    metric: str | None = None,
    conditions: str | None = None,
    versions: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the `dataset_kwargs` that the flags stand for. Raises InputError for columns that are none."""
    found: dict[str, Any] = {"source": "records", "path": _absolute(data), "family": family}
    if metric is not None:
        found["metric"] = metric
    if images is not None:
        found["images"] = str(images.absolute())
    for given in columns:
        name, _, column = given.partition("=")
        if name not in COLUMNS or not column:
            raise InputError(f"--columns {given}: not of the form {'|'.join(COLUMNS)}=COLUMN")
        found["option_columns" if name == "options" else f"{name}_column"] = column
    if Path(data).is_dir() and family == "image_heavy" and metric is None:
        found.setdefault("label_column", "label")
    if versions:
        found["versions"] = ",".join(versions)
    if conditions is not None:
        found["conditions"] = conditions.split(",")
    elif versions and family in REFERENCE:
        names = version_names(found["versions"]).values()
        found["conditions"] = [REFERENCE[family], *(f"{PREFIX}{name}" for name in names if name != CLEAN)]
    elif family in ASKED:
        names = find_task(ASKED[family]).options["conditions"]
        found["conditions"] = list(fitting(names, metric))
    return found


def _absolute(data: str) -> str:
    return str(Path(data).absolute()) if Path(data).exists() else data


def run(dataset_kwargs: Mapping[str, Any], split: str, out: Path, flags: Mapping[str, Any]) -> int:
    """Ask the task, write results, its YAML and `board.html` below `out`, and print the ranking; return 0, or the
    harness's status. flags: of lmms-eval's command line. Raises InputError for data that cannot be asked."""
    Selection.parse(dataset_kwargs, split, str(dataset_kwargs["path"]))  # in one line, before lmms-eval starts
    write_task(out / "tasks", TASK, f"{tasks_folder()}/_mmi_base", dataset_kwargs, test_split=split)
    asked = {"tasks": TASK, "include_path": str(out / "tasks"), "output_path": str(out), "log_samples": True}
    if status := lmms_eval(**asked, **flags):
        return status
    _board(out)
    return 0


def _board(out: Path) -> None:
    from mmi_plugin.report.board import build
    from mmi_plugin.report.files import terminal
    from mmi_plugin.report.page import write_page
    from mmi_plugin.results.runs import read_runs

    board = build(read_runs([str(out)]))
    write_page(out / "board.html", board, pictures=True)  # of what the user has just named
    print(terminal(board))
    print(f"page: {out / 'board.html'}, task: {out / 'tasks' / f'{TASK}.yaml'}")
