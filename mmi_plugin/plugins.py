"""Entry points and folders that users name in, what their modules register and a record of that code out."""

from __future__ import annotations

import hashlib
import sys
import traceback
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from mmi_plugin.errors import InputError

GROUPS = ("mmi_plugin.conditions", "mmi_plugin.sources", "mmi_plugin.families")
INCLUDED = "mmi_*.py"
"""Modules of a folder of `--include_path` that are run, directly in it; nothing else is."""
_included: dict[str, str] = {}  # file, which is its module's name -> SHA-256 of what was run


@cache
def load_plugins(group: str) -> None:
    """Import every module that installed packages name under `group`, one of `GROUPS`, by name; called when names are
    looked up, not at import, as such a module imports ours.

    Raises InputError that names the package and the entry point when one cannot be imported: a run without it would
    not know names that its user relies on.
    """
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        try:
            point.load()
        except Exception as error:  # of foreign code, which may raise anything
            package = point.dist.name if point.dist else "a package"
            raise InputError(f"{package}: entry point {group}:{point.name} cannot be loaded: {_said(error)}") from error


def include(folder: Path | str | None) -> None:
    """Run the modules `INCLUDED` of a folder that a user names, if any, once in a process, so that they register what
    they have. Raises InputError for no folder, and with file and line for a module that cannot be run."""
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise InputError(f"--include_path {folder}: no such folder")
    for path in sorted(path for path in Path(folder).absolute().glob(INCLUDED) if path.is_file()):
        if str(path) not in _included:
            _run(path)


def _run(path: Path) -> None:
    """Run a module under its path as its name, by which messages then call it."""
    name, module = str(path), ModuleType(str(path))
    module.__file__, sys.modules[name] = name, module
    try:
        content = path.read_bytes()
        exec(compile(content, name, "exec", dont_inherit=True), module.__dict__)
    except Exception as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
        where = f"{path}, line {lines[-1]}" if lines else name
        raise InputError(f"{where}: cannot be loaded: {_said(error)}") from error
    _included[name] = hashlib.sha256(content).hexdigest()


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"


def origin(module: str) -> dict[str, str]:
    """Return the package or file that a module is of, with what `versions` says of it; nothing for one of ours."""
    if module in _included:
        return {Path(module).name: _included[module]}
    return _installed().get(module.partition(".")[0], {})


def plugins() -> dict[str, str]:
    """Return every file that was included, with its SHA-256, and every package with an entry point of `GROUPS`, with
    its version and that of its code."""
    found = {name: version for package in _installed().values() for name, version in package.items()}
    for path, content in sorted(_included.items()):
        found[Path(path).name] = "+".join(filter(None, [found.get(Path(path).name), content]))
    return found


@cache
def _installed() -> dict[str, dict[str, str]]:
    """Return top-level module -> {its package: version and hash of its code}, of those that entry points name."""
    found = {}
    for point in (point for group in GROUPS for point in entry_points(group=group)):
        top = point.module.partition(".")[0]
        spec, state = find_spec(top), hashlib.sha256()
        folders = map(Path, (spec and spec.submodule_search_locations) or ())
        files = [path for folder in folders for path in folder.rglob("*.py")]
        for path in sorted(files or ([Path(spec.origin)] if spec and spec.origin else [])):
            state.update(path.read_bytes())
        name, version = (point.dist.name, point.dist.version) if point.dist else (top, "")
        found[top] = {name: f"{version}+{state.hexdigest()}"}
    return found
