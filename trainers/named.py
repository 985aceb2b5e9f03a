"""The name of a bundled training config in, as `demo/ours`, its file out; and the list of them, a line each."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from mmi_plugin.errors import InputError, nearest

_OTHER = ("ablation", "accelerate", "data", "deepspeed")  # folders of configs that train nothing by themselves
_LONG = 80  # characters of a hint that lists all names


def configs(other: str = "") -> dict[str, Path]:
    """Return name -> file of the training configs that the package ships, in a checkout as when installed.

    other: of what trains nothing those of one folder, as `data`.
    """
    (folder,) = find_spec("mmi_plugin.configs").submodule_search_locations
    files = sorted(Path(folder).rglob("*.yaml"))
    names = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    heads = {file.relative_to(folder).parts[0] for file in files} - set(_OTHER)
    return {name: file for name, file in names.items() if name.split("/")[0] in ({other} if other else heads)}


def find_config(name: str, other: str = "", flag: str = "--config") -> Path:
    """Return the file that `name` is a path to, else the bundled config of that name, with or without `.yaml`.

    other: as of `configs`. Raises InputError with the nearest name when it is neither.
    """
    if Path(name).is_file():
        return Path(name)
    bundled = configs(other)
    if (short := name.removeprefix("configs/").removesuffix(".yaml")) in bundled:
        return bundled[short]
    hint = nearest(short, bundled)
    hint = hint if len(hint) < _LONG else "`mmi configs` lists them"
    raise InputError(f"{flag}: {name} is no file that can be read, and no bundled config: {hint}")


def description(file: Path) -> str:
    """Return what the head of a config says, after its first line, which is how to run it."""
    lines = file.read_text(encoding="utf-8").splitlines()
    head = lines[: next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return " ".join(line.lstrip("# ") for line in head[1:])
