"""`mmi leaderboard` as a user runs it, and results folders that are edited after the fact."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmi_plugin.cli import main
from mmi_plugin.results import Record
from mmi_plugin.results.measures import task_numbers
from mmi_plugin.results.runs import newest_results

DIGITS = "mmi_demo_digits"


def leaderboard(*arguments: object) -> int:
    """Run the command; return its exit status."""
    return main(["leaderboard", *map(str, arguments)])


def board(tmp_path: Path, *arguments: object) -> dict[str, Any]:
    """Return the JSON of a leaderboard that must succeed."""
    path = tmp_path / "board.json"
    assert leaderboard(*arguments, "--json", path) == 0
    return json.loads(path.read_text(encoding="utf-8"))


def number(content: dict[str, Any], model: str, over: str, measure: str, condition: str | None = None) -> dict:
    """Return the one row of these names."""
    wanted = {"model": model, "over": over, "measure": measure, "condition": condition}
    (found,) = [row for row in content["numbers"] if wanted.items() <= row.items()]
    return found


def samples(folder: Path, task: str = DIGITS) -> list[dict[str, Any]]:
    """Return the logged samples of a task, as they stand in the file."""
    return [json.loads(line) for line in samples_file(folder, task).read_text(encoding="utf-8").splitlines()]


def samples_file(folder: Path, task: str = DIGITS) -> Path:
    results = newest_results(folder)
    return results.with_name(results.name.replace("_results.json", f"_samples_{task}.jsonl"))


def edited(
    folder: Path,
    copy: Path,
    config: Callable[[dict], object] | None = None,
    rows: Callable[[list[dict]], list[dict]] | None = None,
) -> Path:
    """Copy a results folder, with the digits task's config or samples changed, and its numbers as the samples say."""
    shutil.copytree(folder, copy)
    if config:
        path = newest_results(copy)
        content = json.loads(path.read_text(encoding="utf-8"))
        config(content["configs"][DIGITS])
        path.write_text(json.dumps(content), encoding="utf-8")
    if rows:
        changed = rows(samples(copy))
        samples_file(copy).write_text("".join(json.dumps(row) + "\n" for row in changed), encoding="utf-8")
        recount(copy, changed)
    return copy


def recount(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write the numbers of `rows` into the results of the digits task."""
    path = newest_results(folder)
    content = json.loads(path.read_text(encoding="utf-8"))
    conditions = content["configs"][DIGITS]["dataset_kwargs"]["conditions"]
    numbers = task_numbers(
        [Record.from_dict({**row, "probabilities": None}) for row in rows], "image_heavy", conditions
    )
    content["results"][DIGITS].update({f"{name},none": value for name, value in numbers.items()})
    path.write_text(json.dumps(content), encoding="utf-8")
