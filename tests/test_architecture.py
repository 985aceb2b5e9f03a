"""The rooms of the package as docs/architecture.md draws them: who may import whom, and how large things may grow."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from mmi_plugin.trainers.resume import ROOMS

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "mmi_plugin": ROOT / "mmi_plugin",
    "mmi_plugin.trainers": ROOT / "trainers",
    "mmi_plugin.tasks": ROOT / "tasks",
}
FILES, LINES, FUNCTION_LINES = 159, 300, 50  # at most

CORE = ("errors", "disk", "files", "cores", "plugins", "item", "pictures", "answers")
HOSTS = ("lmms_eval", "trl")
MODELS = ("torch", "transformers", *HOSTS)
# A room -> the foreign packages that it does without. It may import itself and the rooms on the lines above its own.
FLOORS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"core": MODELS},
    {"conditions": MODELS},
    {"sources": MODELS},
    {"documents": MODELS, "results": MODELS},
    {"attacks": ("transformers", *HOSTS)},
    {"models": HOSTS},
    {"harness": ("trl",), "trainers": ("lmms_eval",), "report": MODELS},
    {"data": HOSTS, "studies": HOSTS, "tasks": MODELS},
    {"commands": MODELS, "notebook": HOSTS},
    {"cli": MODELS},
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# The metrics of free-form answers are lmms-eval's own functions, called when there is such an answer.
LENT = {("mmi_plugin.answers.agreement", "lmms_eval")}
WITHOUT = {room: foreign for rooms in FLOORS for room, foreign in rooms.items()}


@lru_cache
def modules() -> dict[str, Path]:
    """Every module of the package by its name; a package has that of its folder."""
    found = {}
    for prefix, folder in FOLDERS.items():
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join([prefix, *parts]).removesuffix(".__init__")] = file
    return found


def room(module: str) -> str:
    name = module.split(".")[1] if "." in module else "core"
    return "core" if name in CORE else name


def imports(file: Path) -> Iterator[str]:
    """What a file imports, wherever in it: modules of the package by their full names, and names of others."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: imports are absolute"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in modules() else node.module for name in inner)


def test_every_module_is_in_a_room_that_the_document_names() -> None:
    rooms = {room(module) for module in modules()}
    assert rooms == set(LEVEL)
    document = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [name for name in rooms if f"`{name}" not in document] == []
    paths = re.findall(r"`((?:mmi_plugin|trainers|tasks|configs|benchmarks|tests)/[^`*{ ]*)`", document)
    assert len(paths) > 20 and [path for path in paths if not (ROOT / path).exists()] == []


def test_no_room_imports_one_beside_or_above_it_nor_a_package_that_it_does_without() -> None:
    wrong = []
    for module, file in modules().items():
        own = room(module)
        for name in imports(file):
            if name in modules():
                other = room(name)
                allowed = other == own or LEVEL[other] < LEVEL[own]
            else:
                foreign = name.split(".")[0]
                allowed = foreign not in WITHOUT[own] or (module, foreign) in LENT
            if not allowed:
                wrong.append(f"{module} imports {name}")
    assert wrong == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: {name for name in imports(file) if name in modules()} for module, file in modules().items()}
    TopologicalSorter({module: names - {module} for module, names in graph.items()}).prepare()  # raises CycleError


def test_files_and_functions_stay_small_enough_to_be_read() -> None:
    assert len(modules()) <= FILES
    long = []
    for module, file in modules().items():
        text = file.read_text(encoding="utf-8")
        if (lines := len(text.splitlines())) > LINES:
            long.append(f"{module}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{module}.{node.name}: {lines} lines")
    assert long == []


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_finds_what_it_measures(path: Path) -> None:
    import_module(f"benchmarks.{path.stem}")


def test_the_code_that_a_resumed_training_must_share_is_all_that_the_method_imports() -> None:
    graph = {module: {name for name in imports(file) if name in modules()} for module, file in modules().items()}
    reached, left = set(), {"mmi_plugin.trainers.method", "mmi_plugin.trainers.collator", "mmi_plugin.trainers.losses"}
    while left:
        reached |= left
        left = set().union(*(graph[module] for module in left)) - reached
    rooms = {module.split(".")[1] for module in reached if module.count(".") > 1}
    assert {"attacks", "trainers"} <= rooms <= set(ROOMS)
