"""lmms-eval's question for further models in, the manifest of `mmi_hf` out."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from mmi_plugin.errors import complain

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifests() -> list[ModelManifest]:
    """Return our harness models: what the entry point `lmms_eval.models` asks for at every start of lmms-eval.

    Ends its own command line where that is asked for a task of ours without `--include_path`: it would look for it
    among its 2,000, not find it and leave with 0.
    """
    from lmms_eval.models.registry_v2 import ModelManifest  # which asks for this function when it is imported first

    if asked := _asked_in_vain(sys.argv):
        known = f"`lmms-eval` knows it with --include_path {tasks_folder()} alone"
        complain(f"--tasks: no task {asked!r}: {known}; `lmms_eval`, with an underscore, knows it as it is")
        raise SystemExit(2)
    return [ModelManifest("mmi_hf", chat_class_path="mmi_plugin.harness.model.MmiHf")]


def _asked_in_vain(arguments: list[str]) -> str:
    """Return a task of ours that upstream's own command line is asked for and does not know."""
    stock = Path(arguments[0]).name == "lmms-eval" or Path(arguments[0]).parts[-2:] == ("lmms_eval", "__main__.py")
    if not stock or {"--include_path", "--config"} & set(arguments) or "LMMS_EVAL_PLUGINS" in os.environ:
        return ""
    asked = [name for flag, after in pairwise(arguments) if flag == "--tasks" for name in after.split(",")]
    copied = Path(_folder("lmms_eval.tasks"))
    ours = (name for name in asked if name.startswith("mmi_"))
    return next((name for name in ours if not any(copied.rglob(f"{name}.yaml"))), "")


def tasks_folder() -> str:
    """Return the folder of our task YAMLs, in a checkout as when installed."""
    return _folder("mmi_plugin.tasks")


def _folder(package: str) -> str:
    return find_spec(package).submodule_search_locations[0]
