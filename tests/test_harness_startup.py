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


def test_a_client_of_a_server_starts_without_pipelines() -> None:
    done = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["False", "True True"]


def test_a_module_runs_when_a_name_of_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "put_off"
    package.mkdir()
    (package / "__init__.py").write_text(
        "import sys\nsys.put_off_ran = True\nfrom put_off import part\nname = part.name\n"
    )
    (package / "part.py").write_text("name = 'part'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(later, "MODULES", ("put_off",))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    later.install()
    try:
        module = importlib.import_module("put_off")
        assert inspect.getmodule(later.install) is later and module.__file__ == str(package / "__init__.py")
        assert importlib.import_module("put_off.part").name == "part"
        assert not hasattr(sys, "put_off_ran"), "neither inspection nor a submodule runs it"
        assert module.name == "part" and sys.put_off_ran
        with pytest.raises(AttributeError):
            _ = module.nothing
        assert importlib.reload(module).name == "part"
    finally:
        for name in ("put_off", "put_off.part"):
            sys.modules.pop(name, None)
        vars(sys).pop("put_off_ran", None)
