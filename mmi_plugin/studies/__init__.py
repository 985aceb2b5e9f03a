"""Studies: configs, conditions and checkpoints in; what trainings and evaluations of them say out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmi_plugin.files import write_whole


def write_task(folder: Path, name: str, include: Path | str, options: Mapping[str, Any], **more: Any) -> None:
    """Write the task `name`, which has what `include` has but for its `dataset_kwargs`, `options`, and `more`:
    lmms-eval takes tasks as YAML files."""
    content = {"include": str(include), "task": name, **more, "dataset_kwargs": dict(options)}
    write_whole(folder / f"{name}.yaml", yaml.safe_dump(content, sort_keys=False))


def lmms_eval(**flags: object) -> int:
    """Evaluate with `flags` of lmms-eval's command line, True for one without a value; return its exit status.

    No module of its `include_path` is run, which may be a folder that we have written and no user has named.
    """
    from mmi_plugin.harness.launcher import main  # imports lmms-eval, for which nobody waits in vain

    given = [[f"--{name}"] if value is True else [f"--{name}", str(value)] for name, value in flags.items()]
    return main([part for flag in given for part in flag], modules=False)
