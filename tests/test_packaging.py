"""What the package declares is what it needs and ships: bounds, imports, folders, files beside the code."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

import mmi_plugin
from tests import floors

ROOT = Path(__file__).parents[1]
CODE = Path(mmi_plugin.__file__).parent, ROOT / "trainers"
WITHOUT = ("build", "deepspeed", "mkdocs-material", "mkdocstrings", "twine")  # of extras that the tests do without


def test_every_requirement_has_both_bounds_and_what_is_installed_lies_within() -> None:
    for requirement in floors.requirements():
        assert Version(floors.bound(requirement, ">=")) < Version(floors.bound(requirement, "<")), requirement
        if requirement.name not in WITHOUT:
            assert requirement.specifier.contains(version(requirement.name)), requirement


@pytest.mark.skipif(sys.version_info < (3, 11), reason="3.10 knows too few packages by what is imported")
def test_every_package_that_the_code_imports_is_required() -> None:
    required = {canonicalize_name(requirement.name) for requirement in floors.requirements()}
    owners = packages_distributions()
    imported = {name for folder in CODE for path in folder.rglob("*.py") for name in _imports(path)}
    assert {"torch", "trl", "openai"} <= imported
    for name in imported - set(sys.stdlib_module_names) - {"mmi_plugin", "deepspeed"}:
        assert {canonicalize_name(owner) for owner in owners[name]} & required, name


def _imports(path: Path) -> set[str]:
    """The outermost packages that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.split(".")[0] for name in names}


def test_every_folder_of_code_is_shipped() -> None:
    settings = floors.settings()["tool"]["setuptools"]
    folders = {
        ".".join((name, *file.parent.relative_to(ROOT / place).parts))
        for name, place in settings["package-dir"].items()
        for file in (ROOT / place).rglob("__init__.py")
    }
    assert folders == set(settings["packages"])


def test_every_file_beside_the_code_is_shipped_and_no_tool_of_developers() -> None:
    settings = floors.settings()["tool"]["setuptools"]
    assert {name.split(".")[0] for name in settings["packages"]} == {"mmi_plugin"}
    shipped, data = set(), settings["package-data"]
    for name in settings["packages"]:
        root = max((prefix for prefix in settings["package-dir"] if f"{name}.".startswith(f"{prefix}.")), key=len)
        folder = ROOT / settings["package-dir"][root] / Path(*name.removeprefix(root).strip(".").split("."))
        shipped |= {file for pattern in ("*.py", *data.get(name, ())) for file in folder.glob(pattern)}
    kept = [file for place in settings["package-dir"].values() for file in (ROOT / place).rglob("*") if file.is_file()]
    assert {file for file in kept if "__pycache__" not in file.parts} == {file for file in shipped if file.is_file()}
    names = {str(file.relative_to(ROOT)) for file in shipped}
    assert {"mmi_plugin/conditions/facts.txt", "mmi_plugin/sources/capitals.tsv", "tasks/_mmi_base"} < names
    assert {"mmi_plugin/report/page.html.j2", "mmi_plugin/studies/base/model.safetensors"} < names
