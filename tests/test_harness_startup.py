"""What the launcher puts off: it is not run unless it is used, and then as usual."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from mmi_plugin.harness import later

START = """
import sys
from mmi_plugin.harness import later
later.install()
from lmms_eval import __main__, evaluator
from lmms_eval.models import get_model
get_model("openai")
print("transformers.pipelines" in sys.modules)
from lmms_eval.api.registry import hf_evaluate
print(callable(hf_evaluate.load), "transformers.pipelines" in sys.modules)
"""


STAND_INS = """
import sys
from mmi_plugin.harness import later
later.install()
from lmms_eval.models import get_model
from lmms_eval import evaluator
get_model("mmi_hf")
from lmms_eval.filters import build_filter_ensemble
put_off = [sys.modules[name] for name in ("scipy.optimize", "lmms_eval.filters.extraction", "lmms_eval.llm_judge")]
print([type(module).__name__ for module in put_off])

from transformers.loss.loss_for_object_detection import linear_sum_assignment
rows, columns = linear_sum_assignment([[4, 1, 3], [2, 0, 5], [3, 2, 2]])
print(rows.tolist(), columns.tolist())

from lmms_eval.filters.extraction import RegexFilter
class Digits(RegexFilter):
    pass
(step,) = build_filter_ensemble("f", [["regex", {"regex_pattern": "[0-9]+"}]]).filters
print(Digits("([0-9]+)").apply([["a 12"]], [{}]), type(step).__name__, issubclass(Digits, type(step)))
print([type(module).__name__ for module in put_off])
"""


def run(script: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_functions_and_classes_that_are_imported_by_name_run_their_module_when_used() -> None:
    before, assignment, filters, after = run(STAND_INS)[-4:]
    assert before == str(["_Unused"] * 3)
    assert assignment == "[0, 1, 2] [1, 0, 2]"  # costs 1 + 2 + 2, the least of the six orders
    assert filters == "[['12']] RegexFilter True"
    assert after == "['module', 'module', '_Unused']"


def test_a_client_of_a_server_starts_without_pipelines() -> None:
    assert run(START)[-2:] == ["False", "True True"]


@pytest.mark.parametrize("submodule_first", [False, True])
def test_a_module_runs_when_a_name_or_submodule_of_it_is_asked_for(
    submodule_first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "put_off"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import sys\nsys.put_off_ran = ran = True\nfrom put_off import part\nname = part.name\n"
    )
    (package / "part.py").write_text("name = 'part'\nfrom put_off import ran\n")
    (package / "alone.py").write_text("name = 'alone'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(later, "MODULES", {"put_off": (".alone",)})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    later.install()
    try:
        module = importlib.import_module("put_off")
        assert inspect.getmodule(later.install) is later and module.__file__ == str(package / "__init__.py")
        assert importlib.import_module("put_off.alone").name == "alone"
        assert not hasattr(sys, "put_off_ran"), "neither inspection nor that submodule runs it"
        if submodule_first:  # which reads a name of the package that imports it
            part = importlib.import_module("put_off.part")
            assert part is module.part and part.__spec__.name == "put_off.part" and hasattr(sys, "put_off_ran")
            assert part.__spec__.origin == str(package / "part.py") and importlib.reload(part).name == "part"
        assert module.name == "part" and sys.put_off_ran
        with pytest.raises(AttributeError):
            _ = module.nothing
        assert importlib.reload(module).name == "part"
    finally:
        for name in ("put_off", "put_off.part", "put_off.alone"):
            sys.modules.pop(name, None)
        vars(sys).pop("put_off_ran", None)
