"""Names of other packages that another version may not have: is one there, and which are used outside `compat.py`."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from importlib import import_module
from operator import attrgetter
from pathlib import Path

from mmi_plugin.models.compat import Foreign


def check(name: Foreign) -> None:
    """Raise LookupError, which says what is gone and what it is needed for."""
    needed = f"since {name.since}, needed: {name.why}"
    module, _, path = name.path.partition(":")
    try:
        found = attrgetter(path)(import_module(module))
    except (ImportError, AttributeError) as error:
        raise LookupError(f"{name.path} is gone; {needed}") from error
    known = inspect.signature(found).parameters if name.parameters else ()
    for parameter in name.parameters:
        if parameter not in known:
            raise LookupError(f"{name.path} does not take {parameter!r} any more; {needed}")
    classes = inspect.getmro(found) if name.mentions else ()
    if name.mentions and not any(name.mentions in inspect.getsource(one) for one in classes if one is not object):
        raise LookupError(f"{name.path} does not know {name.mentions!r} any more; {needed}")


def private_uses(folder: Path) -> list[str]:
    """Return where modules of `folder`, except its compat.py, use a private name that the folder does not define."""
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}
    own = {name for tree in trees.values() for name in _defined(tree)}
    return [
        f"{path.name}:{line} {name}"
        for path, tree in trees.items()
        if path.name != "compat.py"
        for line, name in _foreign(tree, own)
    ]


def _defined(tree: ast.AST) -> Iterator[str]:
    """Yield the names of functions, of what classes assign, and of what methods assign to themselves."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node.value):
            yield node.attr


def _foreign(tree: ast.AST, own: set[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            if not _is_own(node.value) or node.attr not in own:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.name) for alias in node.names if _is_private(alias.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and _is_private(name.value):
                yield node.lineno, ast.unparse(node)


def _is_own(value: ast.expr) -> bool:
    return ast.unparse(value) in ("self", "cls", "super()")


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")
