"""The YAML of one of our tasks, by its name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmi_plugin.errors import InputError, nearest


@dataclass(frozen=True)
class TaskFile:
    """`options`: the task's `dataset_kwargs`."""

    path: Path
    split: str
    options: dict[str, Any]


def find_task(name: str, include_path: Path | None = None) -> TaskFile:
    """Return the task `name` of this package's folder or of `include_path`, which goes first.

    Raises InputError with the nearest name, or when the file asks no data set of this package.
    """
    from lmms_eval.utils import load_yaml_config

    from mmi_plugin.harness.task_manager import tasks_folder

    folders = [Path(tasks_folder()), *([include_path] if include_path else [])]
    files = {file.stem: file.absolute() for folder in folders for file in sorted(folder.glob("*.yaml"))}
    if name not in files:
        raise InputError(f"no task {name!r}: {nearest(name, files)}")
    config = load_yaml_config(str(files[name]), mode="simple")
    options = config.get("dataset_kwargs")
    if not isinstance(options, dict) or "source" not in options:
        raise InputError(f"{files[name]}: asks no data set of this package")
    return TaskFile(files[name], config["test_split"], options)
