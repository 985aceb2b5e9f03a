"""The foreign names that trainers/ leans on are there, each by itself; and none that is private stands elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mmi_plugin.trainers import compat
from tests.foreign import Foreign, check

TRAINERS = Path(compat.__file__).parent


@pytest.mark.parametrize("name", compat.FOREIGN, ids=lambda name: f"{name.path} {name.mentions}".strip())
def test_a_name_is_there(name: Foreign) -> None:
    check(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (Foreign("transformers:Trainer._no_such", "1", "why"), "transformers:Trainer._no_such is gone; since 1, nee"),
        (Foreign("transformers.no_such:name", "1", "why"), "transformers.no_such:name is gone"),
        (Foreign("transformers:Trainer.compute_loss", "1", "why", ("no_such",)), "does not take 'no_such' any more"),
        (Foreign("transformers:Trainer", "1", "why", mentions="self.no_such"), "does not know 'self.no_such' any more"),
    ],
    ids=["attribute", "module", "parameter", "mention"],
)
def test_a_name_that_is_gone_is_told(name: Foreign, said: str) -> None:
    with pytest.raises(LookupError, match=said):
        check(name)


def foreign_privates(text: str) -> set[str]:
    """The private names that a module takes from others: attributes of what is not its own object, and imports."""
    tree = ast.parse(text)
    found = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.endswith("__")
        and not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"))
    }
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return found | {alias.name for node in imports for alias in node.names if alias.name.startswith("_")}


def overridden(text: str) -> set[str]:
    """The names of FOREIGN that classes of a module define as their own."""
    known = {name.path.rpartition(".")[2] for name in compat.FOREIGN}
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            targets = [t.id for part in node.body if isinstance(part, ast.Assign) for t in part.targets]
            names |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)} | set(targets)
    return {name for name in names & known if name.startswith("_")}


def test_private_names_of_others_stand_in_compat_alone() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in TRAINERS.glob("*.py")}
    own = texts.pop("compat.py")
    assert {name: found for name, text in texts.items() if (found := foreign_privates(text) | overridden(text))} == {}
    named = {name.path.rpartition(".")[2] for name in compat.FOREIGN}
    assert foreign_privates(own) | overridden(own) <= named


def test_the_search_for_private_names_finds_them() -> None:
    taken = "x._a\nself._b\nself.c._d\nsuper()._e()\nfrom m import _f\ny.__doc__"
    assert foreign_privates(taken) == {"_a", "_d", "_e", "_f"}
    defined = "class A(B):\n    _VALID_DICT_FIELDS = []\n    _own = 1\n    def _save_checkpoint(self): ..."
    assert overridden(defined) == {"_save_checkpoint", "_VALID_DICT_FIELDS"}
