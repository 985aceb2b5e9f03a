"""`mmi baselines` as a user runs it: every run by its own settings, named in the results and on the board."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mmi_plugin.cli import main
from mmi_plugin.errors import InputError
from mmi_plugin.models.baselines import METHODS
from mmi_plugin.results.runs import read_run
from mmi_plugin.studies.baselines import arguments, run
from tests.harness_runs import save_varied
from tests.leaderboard_boards import samples

FEW = ("--gen_kwargs", "max_new_tokens=1", "--batch_size", "16", "--limit", "20")
ONLY = ("--only", "vcd", "shift")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("baselines")
    model = save_varied(folder / "model", letters_only=True)
    given = f"pretrained={model},shift_by=100,shift_letter=C,vcd_alpha=0.5"
    assert main(["baselines", "mmi_demo_digits", *ONLY, "--model_args", given, "--out", str(folder / "out"), *FEW]) == 0
    return folder / "out"


def test_the_results_name_the_baseline_with_its_settings(out: Path) -> None:
    found = {}
    for name in ("plain", "vcd", "control_shift"):
        (task,) = read_run(out / "runs" / name).values()
        found[name] = task.setup["decoding"].get("baseline")
    vcd = {"name": "vcd", "alpha": 0.5, "beta": 0.1, "step": 500, "seed": 0}
    assert found == {"plain": None, "vcd": vcd, "control_shift": {"name": "shift", "letter": "C", "by": 100.0}}


def test_the_board_says_what_the_samples_say(out: Path) -> None:
    with (out / "baselines.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"plain", "vcd", "control_shift"}
    asked = samples(out / "runs" / "control_shift")
    assert {row["parsed"] for row in asked} == {"C"}  # a shift by 100 leaves nothing else
    right = [row["gold"] == "C" for row in asked if row["condition"] == "clean"]
    (cell,) = [
        row for row in rows
        if (row["model"], row["measure"], row["condition"], row["over"])
        == ("control_shift", "accuracy", "clean", "mmi_demo_digits")
    ]  # fmt: skip
    assert float(cell["value"]) == pytest.approx(sum(right) / len(right))
    assert "control_shift" in (out / "baselines.html").read_text(encoding="utf-8")


def test_rows_of_another_model_stand_beside(out: Path, tmp_path: Path) -> None:
    """What was asked is kept, so that the second board costs no answer; a name twice is refused before any."""
    model = out.parent / "model"
    given = f"pretrained={model},shift_by=100,shift_letter=C,vcd_alpha=0.5"
    again = ["baselines", "mmi_demo_digits", *ONLY, "--model_args", given, "--out", str(out), *FEW]
    before = sorted(path.name for path in (out / "runs").rglob("*_results.json"))
    assert main([*again, "--beside", f"ours={out / 'runs' / 'control_shift'}"]) == 0
    assert sorted(path.name for path in (out / "runs").rglob("*_results.json")) == before
    with (out / "baselines.csv").open(encoding="utf-8") as file:
        values = {
            row["model"]: row["value"]
            for row in csv.DictReader(file)
            if (row["measure"], row["scope"]) == ("worst_case", "all")
        }
    assert values["ours"] == values["control_shift"] and len(values) == 4
    with pytest.raises(InputError, match="'vcd' is the name of a row that is asked"):
        run("mmi_demo_digits", tmp_path, "mmi_hf", given, ["vcd", "shift"], ["vcd=x"], None, {})


def test_settings_go_to_their_own_run_and_what_is_left_to_all() -> None:
    given = arguments("pretrained=DIR,vcd_alpha=2,dtype=float32", None)
    assert len(given) == len(METHODS) + 1
    assert given["plain"] == "pretrained=DIR,dtype=float32"
    assert given["vcd"] == "pretrained=DIR,dtype=float32,baseline=vcd,vcd_alpha=2"
    assert given["control_cut"] == "pretrained=DIR,dtype=float32,baseline=cut"


@pytest.mark.parametrize(
    ("given", "only", "said"),
    [
        ("pretrained=DIR", ["vdc"], "--only: no baseline 'vdc'"),
        ("pretrained=DIR,baseline=vcd", None, "--only vcd"),
        ("pretrained=DIR,vcd_alpha=1", ["pai"], "vcd_alpha is a setting of vcd, which is not asked"),
        ("pretrained=DIR,vcd_alpha=x", ["vcd"], "vcd_alpha is 'x', not a number"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_loaded(
    given: str, only: list[str] | None, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        arguments(given, only)


def test_another_model_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["baselines", "mmi_demo", "--model", "llava_hf", "--model_args", "pretrained=D", "--out", "O"]
    assert main(asked) == 2
    assert "baselines decode by mmi_hf alone" in capsys.readouterr().err
