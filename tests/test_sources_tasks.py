"""The nine tasks and their groups through the real command line, on the fixtures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmi_plugin.harness.launcher import main
from mmi_plugin.harness.task_manager import QuickTaskManager
from mmi_plugin.results import TaskResult
from mmi_plugin.results.runs import newest_results, read_run
from mmi_plugin.sources import load
from mmi_plugin.sources.local import ROOT
from tests.harness_runs import OUR_MODEL, TASKS, arguments, save_varied
from tests.suite import DATA, FAMILIES, ITEMS, at

ONE_TOKEN = ("--gen_kwargs", "max_new_tokens=1", "--batch_size", "16")
MEMBERS = {
    "mmi_image_heavy": {"mmi_mini_imagenet", "mmi_caltech101", "mmi_food101"},
    "mmi_text_heavy": {"mmi_openbookqa", "mmi_mmlu", "mmi_arc_challenge"},
    "mmi_vqa": {"mmi_scienceqa", "mmi_mmbench", "mmi_seedbench"},
}


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaVA that answers A, B, C or D."""
    return save_varied(tmp_path_factory.mktemp("letters"), seed=1, letters_only=True)


@pytest.fixture(scope="module")
def out(letters: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run of everything; the patterns match groups, groups of groups and members."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(ROOT, str(DATA))
        load.cache_clear()
        tasks = "mmi_all,mmi_image_*,mmi_food101,mmi_vqa,mmi_m*"
        assert main([*OUR_MODEL, *arguments(letters, tasks, folder, *ONE_TOKEN, limit=None)]) == 0
    return folder


@pytest.fixture(scope="module")
def run(out: Path) -> dict[str, TaskResult]:
    return read_run(out)


def test_every_task_runs_once_with_all_its_items(run: dict[str, TaskResult]) -> None:
    assert set(run) == {f"mmi_{name}" for name in ITEMS}
    for task, result in run.items():
        name = task.removeprefix("mmi_")
        assert name in FAMILIES[result.family]
        assert len(result.records) == ITEMS[name] * len(result.conditions)
        assert result.numbers["items"] == ITEMS[name] and result.numbers["incomplete"] == 0
        bench = load(name, "test", path=at(name))
        assert result.content_hash == bench.digest(result.conditions, 0)


def test_groups_hold_the_means_of_their_data_sets(out: Path, run: dict[str, TaskResult]) -> None:
    groups = json.loads(newest_results(out).read_text(encoding="utf-8"))["groups"]
    members = {**MEMBERS, "mmi_all": set(run)}
    assert set(groups) == set(members)
    for group, numbers in groups.items():
        for metric in ("accuracy/clean", "accuracy/black", "flip_rate/misleading_text", "worst_case", "unparseable"):
            values = [run[task].numbers[metric] for task in members[group] if metric in run[task].numbers]
            assert (f"{metric},none" in numbers) == bool(values)
            if values:
                assert numbers[f"{metric},none"] == pytest.approx(sum(values) / len(values))
    assert any(0 < numbers["worst_case,none"] < 1 for numbers in groups.values())


class Names(QuickTaskManager):
    """Resolves names without building the tasks, which would need their data."""

    def load_task_or_group(self, task_list: Any = None, task_type: str = "simple") -> dict[Any, Any]:
        return {}


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ("mmi_*", ["mmi_adv_demo", "mmi_all", "mmi_demo", "mmi_interference_all", "mmi_published"]),
        ("mmi_ood", ["mmi_ood"]),
        ("mmi_all,mmi_vqa,mmi_food101", ["mmi_all"]),
        ("mmi_openbookqa,mmi_vqa,mmi_mmbench", ["mmi_openbookqa", "mmi_vqa"]),
        ("mmi_image_heavy,mmi_ood", ["mmi_arc_challenge", "mmi_image_heavy"]),
    ],
)
def test_no_task_is_in_two_of_the_names_that_are_run(asked: str, kept: list[str]) -> None:
    assert Names(asked).match_tasks(asked.split(",")) == kept


def _task(folder: Path, **options: object) -> tuple[str, str]:
    settings = {"include": str(TASKS / "_mmi_base"), "task": "mine", "dataset_kwargs": options}
    (folder / "mine.yaml").write_text(json.dumps(settings), encoding="utf-8")
    return "--include_path", str(folder)


def test_options_of_a_source_and_a_pool_in_a_task(letters: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, item in enumerate(load("scienceqa", "test", path=at("scienceqa")).items):
        item.image.save(photos / f"{number}.png")
    tasks = {
        "food": {"source": "food101", "path": at("food101"), "options": 6, "hard": True, "conditions": ["clean"]},
        "text": {"source": "mmlu", "path": at("mmlu"), "pool": str(photos), "conditions": ["irrelevant_image"]},
        "same": {"source": "mmlu", "path": at("mmlu"), "conditions": ["irrelevant_image"]},
    }
    results = {}
    for name, options in tasks.items():
        out = tmp_path / name
        out.mkdir()
        flags = _task(out, **options)
        assert main([*OUR_MODEL, *arguments(letters, "mine", out, *flags, *ONE_TOKEN, limit=None)]) == 0
        results[name] = read_run(out)["mine"]
        config = json.loads(newest_results(out).read_text(encoding="utf-8"))["configs"]["mine"]["dataset_kwargs"]
        assert config == {**options, "seed": 0}
    food = load("food101", "test", path=at("food101"), options=6, hard=True)
    assert results["food"].content_hash == food.digest(("clean",), 0)
    assert [record.gold for record in results["food"].records] == [item.gold for item in food.items]
    assert results["text"].content_hash != results["same"].content_hash


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"source": "food101", "optoins": 6}, "unknown key 'optoins' in dataset_kwargs: did you mean 'options'?"),
        ({"source": "food101", "options": "6"}, "key 'options' is '6', not int"),
        ({"source": "food101", "path": ["a", "b"]}, "key 'path' is ['a', 'b'], not str"),
        ({"source": "food101", "seed": 1.5}, "key 'seed' is 1.5, not int"),
        ({"source": "food101", "options": 6, "path": "gone"}, "food101: path 'gone' does not exist"),
        ({"source": "mmlu", "path": at("mmlu"), "pool": "gone"}, "pool 'gone' is neither a folder nor a source"),
        ({"source": "mmlu", "path": at("openbookqa")}, "openbookqa holds no split 'test'"),
        ({"source": "openbookqa", "path": at("openbookqa") + "/additional"}, "column 'question_stem' is missing"),
    ],
)
def test_a_wrong_task_is_said_before_the_model_loads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: dict[str, object], said: str
) -> None:
    flags = _task(tmp_path, **options)
    assert main([*OUR_MODEL, *arguments(tmp_path / "nowhere", "mine", tmp_path, *flags)]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: mine: ") and said in line
