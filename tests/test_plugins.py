"""Conditions and data sets of another package, installed as a user would, in tasks, sweeps, boards, pages, training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmi_plugin.conditions.registry import CONDITIONS, condition
from mmi_plugin.errors import InputError
from mmi_plugin.studies.demo import base_folder
from tests.leaderboard_boards import samples

EXAMPLE = Path(__file__).parent / "example_plugin"
BIN = Path(sys.executable).parent
TASK = """include: {base}
task: my_{source}
test_split: test
dataset_kwargs:
  source: {source}
  conditions: [{conditions}]
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the example package installed in it, and tasks with its names."""
    folder = tmp_path_factory.mktemp("packages")
    copied = folder / "source"
    copied.mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (copied / file.name).write_bytes(file.read_bytes())
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(folder / "site"), str(copied)], check=True, capture_output=True)
    tasks = folder / "tasks"
    tasks.mkdir()
    base = EXAMPLE.parents[1] / "tasks" / "_mmi_base"
    for source, conditions in (("demo_digits", "clean, shouted_text"), ("seasons", "random_pixels, black")):
        text = TASK.format(base=base, source=source, conditions=conditions)
        (tasks / f"my_{source}.yaml").write_text(text, encoding="utf-8")
    return folder


def run(packages: Path, *command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(packages / "site"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [str(BIN / str(command[0])), *map(str, command[1:])],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_names_of_another_package_are_known_in_tasks_boards_and_pages(packages: Path, tmp_path: Path) -> None:
    model = ["--model", "mmi_hf", "--model_args", f"pretrained={base_folder()}"]
    asked = ["--tasks", "my_demo_digits,my_seasons", "--include_path", packages / "tasks", "--limit", "8"]
    made = run(packages, "lmms_eval", *model, *asked, "--output_path", tmp_path / "out", "--log_samples")
    assert made.returncode == 0, made.stderr[-2000:]
    shouted = [row for row in samples(tmp_path / "out", "my_demo_digits") if row["condition"] == "shouted_text"]
    assert len(shouted) == 4 and all(row["input"].startswith("IT IS ") for row in shouted)

    page = tmp_path / "board.html"
    board = run(packages, "mmi", "leaderboard", tmp_path / "out", "--html", page)
    assert board.returncode == 0, board.stderr[-2000:]
    assert "shouted text*" in page.read_text(encoding="utf-8")


@pytest.mark.long
def test_sweeps_own_data_and_previews_know_them(packages: Path, tmp_path: Path) -> None:
    model = ["--model_args", f"pretrained={base_folder()}"]
    strengths = "louder_text@times=1,2"
    asked = ["my_demo_digits", strengths, "--include_path", packages / "tasks", *model, "--limit", "6"]
    swept = run(packages, "mmi", "sweep", *asked, "--out", tmp_path / "sweep")
    assert swept.returncode == 0, swept.stderr[-2000:]
    assert "times=2  flip_rate" in swept.stdout and (tmp_path / "sweep" / "sweep.csv").is_file()

    seen = run(packages, "mmi", "preview", "my_demo_digits", "--include_path", packages / "tasks", "--items", "1")
    assert "  shouted_text* (image 32 x 32)" in seen.stdout and "    IT IS " in seen.stdout, seen.stderr[-2000:]
    seasons = run(packages, "mmi", "preview", "my_seasons", "--include_path", packages / "tasks")
    assert "4 items under 2 conditions are 8 prompts" in seasons.stdout


def test_a_training_takes_them(packages: Path, tmp_path: Path) -> None:
    fields = ["--image_heavy_conditions", "clean", "shouted_text", "--max_steps", "1", "--save_strategy", "no"]
    fields += ["--sources", "demo_digits", "seasons", "demo_arith"]
    quiet = ["--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true", "--output_dir", tmp_path / "out"]
    made = run(packages, "mmi", "train", "demo/d_aug", "--model_name_or_path", base_folder(), *fields, *quiet)
    assert made.returncode == 0, made.stderr[-2000:]
    record = json.loads((tmp_path / "out" / "training.json").read_text(encoding="utf-8"))
    assert record["data"]["items"]["seasons"] == 4
    assert record["conditions"]["image_heavy"] == ["clean", "shouted_text"]


def test_a_package_that_cannot_be_imported_is_named_in_one_line(packages: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "broken-1.dist-info").mkdir(parents=True)
    (site / "broken.py").write_text("1 / 0", encoding="utf-8")
    metadata = "Metadata-Version: 2.1\nName: broken\nVersion: 1\n"
    (site / "broken-1.dist-info" / "METADATA").write_text(metadata, encoding="utf-8")
    points = "[mmi_plugin.conditions]\nmine = broken\n"
    (site / "broken-1.dist-info" / "entry_points.txt").write_text(points, encoding="utf-8")
    made = run(tmp_path, "mmi", "train", "demo/d_aug", "--image_heavy_conditions", "clean", "mine")
    assert made.returncode == 2
    assert made.stderr.endswith(
        "broken: entry point mmi_plugin.conditions:mine cannot be loaded: ZeroDivisionError: division by zero\n"
    )


def test_a_name_that_is_taken_is_refused() -> None:
    def clean(item: object, rng: object, pools: object) -> object:
        return item

    before = CONDITIONS["clean"]
    with pytest.raises(InputError, match=r"condition 'clean' is registered by mmi_plugin.conditions.text, too"):
        condition("image_heavy")(clean)
    assert CONDITIONS["clean"] is before
