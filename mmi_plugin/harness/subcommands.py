"""lmms-eval's `tasks`, `power` and `--power-analysis` with our tasks among its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lmms_eval import tasks
from lmms_eval.cli import power_utils

from mmi_plugin.harness.task_manager import QuickTaskManager, tasks_folder


@contextmanager
def with_our_tasks() -> Iterator[None]:
    """Within, lmms-eval's subcommands know our tasks."""
    theirs = tasks.TaskManager, power_utils.collect_task_sizes
    tasks.TaskManager, power_utils.collect_task_sizes = _WithOurs, task_sizes
    try:
        yield
    finally:
        tasks.TaskManager, power_utils.collect_task_sizes = theirs


class _WithOurs(tasks.TaskManager):
    def __init__(self, verbosity: str = "INFO", include_path: str | None = None, **options: Any) -> None:
        more = [include_path] if include_path else []
        super().__init__(verbosity, include_path=[tasks_folder(), *more], **options)


_theirs = power_utils.collect_task_sizes


def task_sizes(requested: str | None, *, verbosity: str = "WARNING", include_path: str | None = None) -> dict[str, int]:
    """Return how many items each of the tasks `requested` has; a prompt of ours is an item under one condition.

    Raises InputError for a name that no task has.
    """
    if not requested:
        return {}
    manager = QuickTaskManager(requested, include_path, verbosity)
    foreign = [name for name in manager.match_tasks(requested.split(",")) if not manager.all_own([name])]
    own = {name: task.expected_items for name, task in manager.own.items()}
    return own | _theirs(",".join(foreign), verbosity=verbosity, include_path=include_path)
