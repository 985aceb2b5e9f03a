"""Docstrings of what is public: one everywhere in conditions/, and shapes wherever tensors go in or come out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import mmi_plugin.attacks
import mmi_plugin.conditions
import mmi_plugin.models
import mmi_plugin.trainers

TENSORS = ("trainers", "models", "attacks")
FOLDERS = {name: Path(next(iter(getattr(mmi_plugin, name).__path__))) for name in (*TENSORS, "conditions")}
# (B, L), (N,), (), (R, L, ...), (own, prefix + own): sizes and commas, no prose.
SIZE = r"(?:[\w'*]+(?: [+*] [\w'*]+)?|\.\.\.)"
SHAPE = re.compile(rf"(?<!\w)\((?:|{SIZE},|{SIZE}(?:, {SIZE})+)\)")


def public(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Functions, classes and methods without an underscore, by name; no overrides that only take what another takes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            inner = node.body if isinstance(node, ast.ClassDef) else []
            for part in inner:
                if isinstance(part, ast.FunctionDef) and (not part.name.startswith("_") or part.name == "__call__"):
                    yield f"{node.name}.{part.name}", part


def takes_tensors(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether a function's signature, or the fields of a class, name tensors or arrays."""
    if isinstance(node, ast.ClassDef):
        hints = [part.annotation for part in node.body if isinstance(part, ast.AnnAssign)]
    else:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        hints = [argument.annotation for argument in arguments] + [node.returns]
    return any(re.search(r"\bTensor\b|\bndarray\b", ast.unparse(hint)) for hint in hints if hint)


def lacking(text: str, shapes: bool) -> dict[str, str]:
    """What is public and lacks a docstring or, with `shapes`, tensors' shapes in it: name -> what it lacks."""
    found = {}
    for name, node in public(ast.parse(text)):
        said = ast.get_docstring(node)
        if shapes and takes_tensors(node) and not SHAPE.search(said or ""):
            found[name] = "no shape" if said else "no docstring"
        elif not shapes and not said and isinstance(node, ast.FunctionDef):
            found[name] = "no docstring"
    return found


def files(folder: str) -> list[Path]:
    return sorted(FOLDERS[folder].glob("*.py"))


@pytest.mark.parametrize(
    "path", [path for folder in TENSORS for path in files(folder)], ids=lambda p: f"{p.parent.name}/{p.stem}"
)
def test_tensors_have_their_shapes(path: Path) -> None:
    assert lacking(path.read_text(encoding="utf-8"), shapes=True) == {}


@pytest.mark.parametrize("path", files("conditions"), ids=lambda path: path.stem)
def test_conditions_have_docstrings(path: Path) -> None:
    assert lacking(path.read_text(encoding="utf-8"), shapes=False) == {}


def test_what_is_lacking_is_found() -> None:
    text = '''
def shaped(x: torch.Tensor) -> int:
    """Return how many of x (B, L)."""
def prose(x: torch.Tensor | None = None):
    """Return it (and nothing else, ever)."""
def bare() -> dict[str, np.ndarray]: ...
def plain(x: int): ...
def _own(x: torch.Tensor): ...
class Rows:
    """Rows."""
    labels: torch.Tensor
    def take(self, rows: torch.Tensor):
        """Take rows (A,)."""
    def drop(self, rows: torch.Tensor): ...
'''
    assert lacking(text, True) == {
        "prose": "no shape", "bare": "no docstring", "Rows": "no shape", "Rows.drop": "no docstring"
    }  # fmt: skip
    assert set(lacking(text, False)) == {"bare", "plain", "Rows.drop"}
    for shape in ("(B, L)", "(N,)", "()", "(R, L, ...)", "(own, prefix + own)", "(images, tokens, D)", "(A', L)"):
        assert SHAPE.search(f"Of {shape} values."), shape
    assert not SHAPE.search("of the values (all, but for those outside)") and not SHAPE.search("(B)")
