"""The functions behind `import mmi_plugin as mmi`: the same answers and numbers as the command lines."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import mmi_plugin as mmi
from mmi_plugin.errors import InputError
from mmi_plugin.harness.launcher import main
from mmi_plugin.studies.demo import base_folder
from tests.harness_runs import OUR_MODEL, arguments

CONDITIONS = ["clean", "unrelated_text", "misleading_text", "ocr_text"]  # of tasks/mmi_demo_digits.yaml
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def base() -> mmi.Results:
    model, processor = mmi.load(str(base_folder()))
    return mmi.evaluate(model, processor, "demo_digits", CONDITIONS, name="base", limit=10)


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("command")
    assert main([*OUR_MODEL, *arguments(base_folder(), "mmi_demo_digits", out, limit=40)]) == 0
    return out


def test_records_are_those_that_the_command_line_logs(base: mmi.Results, command: Path) -> None:
    (samples,) = command.rglob("*_samples_*.jsonl")
    logged = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    found = base.records()
    assert list(found.columns[:3]) == ["task", "item_id", "condition"] and len(found) == len(logged) == 40
    wanted = pd.DataFrame(logged).set_index(["item_id", "condition"])
    joined = found.set_index(["item_id", "condition"])
    for column in ("gold", "parsed", "named", "raw"):
        assert joined[column].fillna("").to_dict() == wanted[column].fillna("").to_dict(), column
    assert (found["right"] == (found["parsed"] == found["gold"])).all()


def test_numbers_are_those_of_lmms_evals_results(base: mmi.Results, command: Path) -> None:
    (results,) = command.rglob("*_results.json")
    theirs = json.loads(results.read_text(encoding="utf-8"))["results"]["mmi_demo_digits"]
    numbers = base.numbers()
    of_task = numbers[numbers["scope"] == "task"]
    for name in CONDITIONS:
        row = of_task[(of_task["measure"] == "accuracy") & (of_task["condition"] == name)].iloc[0]
        assert row["value"] == pytest.approx(theirs[f"accuracy/{name},none"]) and row["low"] <= row["value"]
    assert len(of_task[of_task["measure"] == "worst_case"]) == 1


def test_results_in_memory_and_those_of_the_command_line_are_compared_in_pairs(
    base: mmi.Results, command: Path
) -> None:
    found = mmi.compare(base, mmi.read(command, "command"))
    tested = found[found["condition"] == "misleading_text"].set_index("measure")
    assert tested.loc["accuracy", "difference"] == 0 and tested.loc["accuracy", "difference_n"] == 10
    letters = found[~found["measure"].isin(["js", "tv"])]  # which are equal but for rounding, as batches are others
    assert (letters["p"] == 1).all() and (letters["value_first"] == letters["value_second"]).all()
    assert (found["difference"].abs() < 1e-6).all()


def test_what_was_not_asked_the_same_is_not_compared(base: mmi.Results) -> None:
    model, processor = mmi.load(str(base_folder()))
    other = mmi.evaluate(model, processor, "demo_digits", CONDITIONS, seed=1, limit=10)
    with pytest.raises(InputError, match="seed 0 and seed 1"):
        mmi.compare(base, other)


def test_an_item_perturbed_is_what_the_task_asks(base: mmi.Results) -> None:
    item = mmi.items("demo_digits")[0]
    named = mmi.perturb(item, "misleading_text")
    records = base.records()
    row = records[(records["item_id"] == item.id) & (records["condition"] == "misleading_text")].iloc[0]
    assert named.context and row["prompt"].startswith(named.context) and named.letter(named.named) == row["named"]
    assert mmi.perturb(item, "misleading_text", seed=0) == named
    with pytest.raises(InputError, match=r"black.*not for image_heavy"):
        mmi.perturb(item, "black")


def test_items_of_ones_own_are_asked(base: mmi.Results, tmp_path: Path) -> None:
    model, processor = mmi.load(str(base_folder()))
    own = mmi.evaluate(model, processor, mmi.items("demo_digits")[:3], ["clean", "misleading_text"])
    assert list(own.records()["raw"]) == [
        raw
        for item in mmi.items("demo_digits")[:3]
        for name in ("clean", "misleading_text")
        for raw in base.records().query("item_id == @item.id and condition == @name")["raw"]
    ]
    own.save_page(tmp_path / "page.html")
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(InputError, match="image_heavy and vqa"):
        mmi.evaluate(model, processor, [mmi.items("demo_digits")[0], mmi.items("demo_arith")[0]])


def test_the_notebook_runs_and_is_short(tmp_path: Path) -> None:
    """Cells as one script, in a process of its own: what a reader would run, without Jupyter."""
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    lines = [line for cell in code for line in cell.splitlines() if line.strip()]
    assert len(code) >= 3 and len(lines) < 40
    script = tmp_path / "notebook.py"
    script.write_text("\n".join(code), encoding="utf-8")
    ran = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]


def test_the_public_names_are_those_that_the_document_describes() -> None:
    described = re.findall(r"^::: mmi_plugin\.(?:notebook|item)\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert sorted(described) == sorted(mmi.__all__) and len(described) <= 10
    assert [name for name in mmi.__all__ if not getattr(mmi, name).__doc__] == []
    with pytest.raises(AttributeError, match="has no attribute 'evaluat'"):
        _ = mmi.evaluat
    assert (ROOT / "mmi_plugin" / "py.typed").is_file()
