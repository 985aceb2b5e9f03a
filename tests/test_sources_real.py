"""Real data in the folder `../shared/data` beside the project; skipped where it is absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmi_plugin.harness.launcher import main
from mmi_plugin.item import check
from mmi_plugin.results.runs import read_run
from mmi_plugin.sources import load
from mmi_plugin.sources.local import ROOT
from tests.harness_runs import OUR_MODEL, TASKS, arguments

REAL = Path(__file__).parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data is absent")


@pytest.mark.parametrize(
    ("name", "split", "file", "question"),
    [
        ("openbookqa", "test", "openbookqa/test.jsonl", "question_stem"),
        ("openbookqa", "train", "openbookqa/train.jsonl", "question_stem"),
        ("arc_challenge", "test", "arc_challenge/test.jsonl", "question"),
    ],
)
def test_questions(name: str, split: str, file: str, question: str) -> None:
    rows = [json.loads(line) for line in (REAL / file).read_text(encoding="utf-8").splitlines()]
    usable = [
        row for row in rows if len({text.strip() for text in row["choices"]["text"]}) == len(row["choices"]["text"])
    ]
    assert len(usable) >= 0.99 * len(rows)
    items = load(name, split, path=str(REAL / name)).items
    for item, row in zip(items, usable, strict=True):
        check(item, item.id)
        assert item.question == row[question].strip()
        answer = dict(zip(row["choices"]["label"], row["choices"]["text"], strict=True))[row["answerKey"]]
        assert item.answer == answer.strip()


def test_photographs() -> None:
    folder = REAL / "imagenet_samples"
    labels = [json.loads(line)["label"] for line in (folder / "metadata.jsonl").read_text().splitlines()]
    items = load("mini_imagenet", "test", path=str(folder), from_split=".", options=26).items
    assert [item.answer for item in items] == [label.replace("_", " ") for label in labels]
    assert all(len(item.options) == 26 and min(item.image.size) > 50 for item in items)


def test_evaluation(tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT, str(REAL))
    load.cache_clear()
    photos = str(REAL / "imagenet_samples")
    kwargs = {"source": "mini_imagenet", "path": photos, "from_split": "."}
    settings = {"include": str(TASKS / "_mmi_base"), "task": "photographs", "dataset_kwargs": kwargs}
    (tmp_path / "photographs.yaml").write_text(json.dumps(settings), encoding="utf-8")
    more = ("--include_path", str(tmp_path), "--gen_kwargs", "max_new_tokens=1", "--batch_size", "8")
    tasks = "mmi_openbookqa,mmi_arc_challenge,photographs"
    assert main([*OUR_MODEL, *arguments(tiny_llava, tasks, tmp_path / "out", *more, limit=20)]) == 0
    run = read_run(tmp_path / "out")
    assert set(run) == set(tasks.split(","))
    for result in run.values():  # items are whole, so there may be a few records more than the limit
        kinds = len(result.conditions)
        assert len(result.records) == -(-20 // kinds) * kinds
