"""The value of `--tasks` in, our tasks out: found quickly, and checked before a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmms_eval.cli.power_utils import collect_task_sizes
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config, pattern_match
from loguru import logger

from mmi_plugin.errors import InputError, nearest
from mmi_plugin.harness import tasks_folder
from mmi_plugin.harness.task import InterferenceTask

LISTINGS = ("list", "list_groups", "list_tags", "list_subtasks")


class QuickTaskManager(TaskManager):
    """lmms-eval's task manager with our tasks; its own 2,000 are indexed only when asked for.

    `requested` is the value of `--tasks`; `limit` and `offset` apply to our tasks, by whole items; `floor`: these ask
    each item's reference once more.
    """

    def __init__(
        self,
        requested: str,
        include_path: str | Sequence[str] | None = None,
        verbosity: str = "INFO",
        model_name: str | None = None,
        limit: float | None = None,
        offset: int = 0,
        floor: bool = False,
    ) -> None:
        more = [include_path] if isinstance(include_path, str) else list(include_path or ())
        self.limit, self.offset, self.floor = limit, offset, floor
        self.own: dict[str, InterferenceTask] = {}
        options = {"verbosity": verbosity, "include_path": [tasks_folder(), *more], "model_name": model_name}
        super().__init__(include_defaults=False, **options)
        names = requested.split(",")
        if requested in LISTINGS or not all(pattern_match(name, self.all_tasks) for name in names):
            super().__init__(include_defaults=True, **options)

    def match_tasks(self, task_list: Sequence[str]) -> list[str]:
        """Return the names that match, so that no task is in two of them.

        A group stands for its members. Of two groups that overlap the larger one is kept whole,
        and the other one is replaced by those of its tasks that are left.

        Builds our tasks among them, so that what is wrong with one is said before anything long
        starts. Raises InputError for a name or pattern that matches nothing.
        """
        for name in task_list:
            if not pattern_match(name, self.all_tasks):
                raise InputError(f"--tasks: no task {name!r}: {_hint(name, self.all_tasks)}")
        names = self._disjoint(pattern_match(list(task_list), self.all_tasks))
        self.load_task_or_group([name for name in names if self._is_own(name)])
        return names

    def load_task_or_group(self, task_list: Any = None, task_type: str = "simple") -> dict[Any, Any]:
        tasks = super().load_task_or_group(task_list, task_type)
        for task in _leaves(tasks):
            if isinstance(task, InterferenceTask):
                if self.floor:
                    task.ask_again()
                task.keep(self.limit, self.offset)
                self.own[task.task_name] = task
        return tasks

    def all_own(self, names: Sequence[str]) -> bool:
        """Whether every one of `names` is a task of ours or a group of only such tasks."""
        return all(self._is_own(name) for name in names)

    def _is_own(self, name: str) -> bool:
        members = self._members(name)
        if members:
            return self.all_own(members)
        is_class = self.task_index[name]["type"] == "python_task"
        task_class = self._config(name).get("class") if is_class else None
        return isinstance(task_class, type) and issubclass(task_class, InterferenceTask)

    def members_of(self, name: str) -> list[str]:
        """Return the tasks that `name` stands for, in order."""
        return sorted(self._tasks_of(name))

    def _disjoint(self, names: Sequence[str]) -> list[str]:
        tasks = {name: self._tasks_of(name) for name in names}
        kept: list[str] = []
        covered: set[str] = set()
        for name in sorted(names, key=lambda name: (-len(tasks[name]), not self._members(name))):
            left = tasks[name] - covered
            if len(left) < len(tasks[name]) and not self._is_nested(name, kept) and self._members(name):
                logger.warning(
                    f"--tasks: {name} overlaps a larger group and gets no numbers of its own; ask for it alone"
                )
            kept += [name] if left == tasks[name] else sorted(left)
            covered |= left
        return sorted(kept)

    def _tasks_of(self, name: str) -> set[str]:
        """Return the tasks that `name` stands for, through all groups below it."""
        members = self._members(name)
        return {task for member in members for task in self._tasks_of(member)} if members else {name}

    def _is_nested(self, name: str, groups: Sequence[str]) -> bool:
        return any(
            name == member or self._is_nested(name, [member]) for group in groups for member in self._members(group)
        )

    def _members(self, name: str) -> list[str]:
        """Return the registered names of a group's or a tag's direct members; empty for a task."""
        known = self.task_index[name]
        if known["type"] == "tag":
            return known["task"]
        if known["type"] != "group":
            return []
        entries = [entry["task"] if isinstance(entry, dict) else entry for entry in self._config(name)["task"]]
        return [entry for entry in entries if isinstance(entry, str) and entry in self.task_index]

    def _config(self, name: str) -> dict[str, Any]:
        return load_yaml_config(self.task_index[name]["yaml_path"], mode="full")


def _leaves(tasks: Mapping[Any, Any]) -> Iterator[Any]:
    for task in tasks.values():
        if isinstance(task, Mapping):
            yield from _leaves(task)
        else:
            yield task


def _hint(name: str, known: Sequence[str]) -> str:
    own = [task for task in known if task.startswith("mmi_")]
    return "the pattern matches nothing" if "*" in name else nearest(name, own)


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
    folders = [Path(tasks_folder()), *([include_path] if include_path else [])]
    files = {file.stem: file.absolute() for folder in folders for file in sorted(folder.glob("*.yaml"))}
    if name not in files:
        raise InputError(f"no task {name!r}: {nearest(name, files)}")
    config = load_yaml_config(str(files[name]), mode="simple")
    options = config.get("dataset_kwargs")
    if not isinstance(options, dict) or "source" not in options:
        raise InputError(f"{files[name]}: asks no data set of this package")
    return TaskFile(files[name], config["test_split"], options)


def find_tasks(name: str, include_path: Path | None = None) -> list[str]:
    """Return the tasks that `name` stands for: those of a group, or itself. Raises InputError for an unknown name."""
    known = QuickTaskManager("mmi_*", str(include_path) if include_path else None, "WARNING")
    if name not in known.all_tasks:
        raise InputError(f"{name}: neither a task of this package nor a file: {nearest(name, known.all_tasks)}")
    return known.members_of(name)


def task_sizes(requested: str | None, *, verbosity: str = "WARNING", include_path: str | None = None) -> dict[str, int]:
    """Return how many items each of the tasks `requested` has; a prompt of ours is an item under one condition.

    Raises InputError for a name that no task has.
    """
    if not requested:
        return {}
    manager = QuickTaskManager(requested, include_path, verbosity)
    foreign = [name for name in manager.match_tasks(requested.split(",")) if not manager.all_own([name])]
    own = {name: task.expected_items for name, task in manager.own.items()}
    return own | collect_task_sizes(",".join(foreign), verbosity=verbosity, include_path=include_path)
