"""The foreign names that trainers/ leans on are there, each by itself; and none that is private stands elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mmi_plugin.trainers import compat
from tests.foreign import Foreign, check, private_uses

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
    assert private_uses(TRAINERS) == []
    texts = {path.name: path.read_text(encoding="utf-8") for path in TRAINERS.glob("*.py")}
    assert {name for name, text in texts.items() if overridden(text)} == {"compat.py"}


def test_the_search_finds_what_is_private(tmp_path: Path) -> None:
    text = "class A(B):\n    _VALID_DICT_FIELDS = _own = 1\n    def _save_checkpoint(self):\n        super()._gone()\n"
    assert overridden(text) == {"_save_checkpoint", "_VALID_DICT_FIELDS"}
    (tmp_path / "module.py").write_text(f"{text}x._a\nx.b._c\nfrom m import _d\n", encoding="utf-8")
    places = {"module.py:4 super()._gone", "module.py:5 x._a", "module.py:6 x.b._c", "module.py:7 _d"}
    assert set(private_uses(tmp_path)) == places
