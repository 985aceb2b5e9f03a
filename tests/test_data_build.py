"""`mmi data build` on small local copies in the hub's schema."""

from __future__ import annotations

import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import yaml
from PIL import Image
from pyarrow import parquet

from mmi_plugin import cli, files
from mmi_plugin.data import build as building
from mmi_plugin.data.build import read_recipe
from mmi_plugin.item import Item, image_hash
from mmi_plugin.sources import llava_instruct, load
from mmi_plugin.sources.local import ROOT
from mmi_plugin.trainers import run
from tests import training
from tests.suite import DATA
from tests.training_rows import read_built

PAPER = Path(__file__).parent.parent / "configs" / "data" / "paper.yaml"
PARTS = ["mini_imagenet", "caltech101", "openbookqa", "mmlu", "llava_instruct", "textcaps"]


def noise(number: int) -> Image.Image:
    return Image.effect_noise((24, 20), 40 + number).convert("RGB")


@pytest.fixture
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Local copies of everything that the paper's mixture needs."""
    root = tmp_path / "copies"
    shutil.copytree(DATA, root)
    for file in (*root.glob("openbookqa/*/test-*"), *root.glob("mmlu/*/test-*")):  # the fixtures test what they train
        parquet.write_table(parquet.read_table(file).slice(0, 1), file)
    folder = root / "llava_instruct"
    (folder / "coco").mkdir(parents=True)
    noise(1).save(folder / "coco" / "1.jpg")
    test = load_test("openbookqa")
    options = "\n".join(f"{letter}. {option.upper()}" for letter, option in zip("ABCD", test.options, strict=True))
    load_test("mini_imagenet").image.save(folder / "coco" / "leak.png")
    records = [
        talk("<image>\nWhat is it?", "Noise.", "Why?", "There is no shape.", image="coco/1.jpg"),
        talk("Name a colour.", "Green."),
        talk(f"  {test.question.upper()}\n{options}", "A"),
        talk("What is shown?\n<image>", "A bird.", image="coco/leak.png"),
        talk("<image>\nWho?", "Nobody.", image="coco/gone.jpg"),
        {"id": "x", "conversations": [{"from": "gpt", "value": "Hello."}]},
    ]
    (folder / llava_instruct.FILE).write_text(json.dumps(records, indent=1))
    captions = [{"image": noise(i), "caption_str": [f"caption {i}", "other"]} for i in range(5)]
    features = datasets.Features(
        {"image": datasets.Image(), "caption_str": datasets.Sequence(datasets.Value("string"))}
    )
    (root / "textcaps" / "data").mkdir(parents=True)
    datasets.Dataset.from_list(captions, features=features).to_parquet(
        root / "textcaps" / "data" / "train-00000-of-00001.parquet"
    )
    monkeypatch.setenv(ROOT, str(root))
    load.cache_clear()
    yield root
    load.cache_clear()


def load_test(name: str) -> Item:
    return load(name, "test", path=str(DATA / name)).items[0]


def talk(*texts: str, image: str | None = None) -> dict:
    turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
    return {"id": "x", "conversations": turns} | ({"image": image} if image else {})


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """The paper's recipe with small shards and all of MMLU."""
    content = yaml.safe_load(PAPER.read_text())
    content["rows_per_shard"] = 3
    for part in content["parts"]:
        part.pop("share", None)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_the_papers_recipe_names_its_parts_and_its_share() -> None:
    recipe = read_recipe(PAPER)
    assert [part.source for part in recipe.parts] == PARTS
    assert {part.source: part.share for part in recipe.parts if part.share < 1} == {"mmlu": 0.005}
    drawn = [recipe.parts[3].draws(Item(str(i), "text_heavy", "?", "a"), 0) for i in range(20_000)]
    assert 60 <= sum(drawn) <= 140


def test_build_writes_what_was_asked_and_no_test_item(
    copies: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    assert cli.main(["data", "build", "--config", str(recipe), "--out", str(out)]) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert list(manifest["parts"]) == PARTS and all(part["licence"] for part in manifest["parts"].values())
    talks = manifest["parts"]["llava_instruct"]
    assert (talks["read"], talks["skipped"], talks["refused"], talks["items"]) == (6, 2, 2, {"vqa": 2})
    left = "".join(path.read_text() for path in sorted((out / "llava_instruct").glob("*.left_out.txt")))
    assert "row 5: field 'image'" in left and "row 6: field 'conversations'" in left
    assert "is the test item openbookqa-" in left and "is the test item mini_imagenet-" in left
    assert "llava_instruct: 2 items of 6 rows in 1 shards; 2 bad rows left out, 2 test items refused" in (
        capsys.readouterr().out
    )
    assert manifest["parts"]["textcaps"]["items"] == {"vqa": 5} and len(manifest["parts"]["textcaps"]["shards"]) == 2
    rows = read_built(out)
    items = {item.id: item for _, item in rows}
    assert len(items) == len(rows) == sum(sum(part["items"].values()) for part in manifest["parts"].values())
    for name in PARTS[:4]:
        for item in load(name, "train").items:
            if item.id in items:
                copy = items[item.id]
                assert (copy.question, copy.options, copy.answer, copy.facts) == (
                    *(item.question, item.options, item.answer, item.facts),
                )
                assert image_hash(copy.picture) == image_hash(item.picture)
    first = items["llava_instruct-000001"]
    assert first.history == (("What is it?", "Noise."),) and (first.question, first.answer) == (
        "Why?",
        "There is no shape.",
    )
    assert first.image.size == (24, 20)


def test_a_stopped_build_goes_on_to_the_same_bytes(
    copies: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = building.build(read_recipe(recipe), tmp_path / "whole")
    real, calls = building.write_shard, []

    def stopping(items: Iterator[Item], file: Path) -> int:
        calls.append(file)
        if len(calls) % 4 == 0:  # after the shard, before the state says so
            real(items, file)
            raise KeyboardInterrupt
        return real(items, file)

    monkeypatch.setattr(building, "write_shard", stopping)
    for _ in range(20):
        try:
            parts = building.build(read_recipe(recipe), tmp_path / "cut")
            break
        except KeyboardInterrupt:
            assert not (tmp_path / "cut" / "manifest.json").exists()
    assert len(calls) > 8 and parts == whole


def test_a_stream_holds_few_items_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory does not grow with the file: items are written as they come, and the JSON is read in pieces."""
    file = tmp_path / "talks.json"
    file.write_text(json.dumps([talk(f"Question {i}?", "An answer.") for i in range(500)]))
    monkeypatch.setattr(files, "CHUNK", 1000)
    real, live, most = llava_instruct._item, set(), []

    def counted(*args: object) -> Item:
        item = real(*args)
        live.add(id(item))
        weakref.finalize(item, live.discard, id(item))
        most.append(len(live))
        return item

    monkeypatch.setattr(llava_instruct, "_item", counted)
    path = tmp_path / "recipe.yaml"
    part = {"source": "llava_instruct", "licence": "CC BY 4.0", "path": str(file)}
    path.write_text(yaml.safe_dump({"parts": [part], "exclude": []}))
    manifest = building.build(read_recipe(path), tmp_path / "out")
    assert manifest["parts"]["llava_instruct"]["items"] == {"vqa": 500} and len(most) == 500
    assert max(most) <= 4


def test_a_built_folder_trains(copies: Path, recipe: Path, tiny_llava: Path, tmp_path: Path) -> None:
    building.build(read_recipe(recipe), tmp_path / "set")
    fields = {"sources": None, "train_file": str(tmp_path / "set"), "max_steps": 2, **training.OURS}
    trained = run.train(training.config(tiny_llava, tmp_path / "out", **fields))
    assert trained.state.global_step == 2
    shard = sorted((tmp_path / "set").glob("*/00000.parquet"))[0]
    shard.unlink()
    argv = ["--model_name_or_path", str(tiny_llava), "--output_dir", str(tmp_path / "o"), "--use_cpu", "true"]
    assert run.main([*argv, "--train_file", str(tmp_path / "set")]) == 2
    (tmp_path / "set" / "manifest.json").unlink()
    assert run.main([*argv, "--train_file", str(tmp_path / "set")]) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": None}, ["'parts'"]),
        ({"exclud": []}, ["'exclud'", "'exclude'"]),
        ({"exclude": ["opnbookqa"]}, ["'opnbookqa'", "'openbookqa'"]),
        ({"parts": [{"source": "texcaps", "licence": "x"}]}, ["entry 1", "'textcaps'"]),
        ({"parts": [{"source": "textcaps"}]}, ["entry 1", "'licence'"]),
        ({"parts": [{"source": "textcaps", "licence": "x", "share": 2}]}, ["'share'", "2"]),
        ({"parts": [{"source": "textcaps", "licence": "x"}] * 2}, ["entry 2", "twice"]),
        ({"rows_per_shard": 0}, ["'rows_per_shard'"]),
        ({"on_bad_row": "ask"}, ["'on_bad_row'"]),
    ],
)
def test_a_bad_recipe_is_named(tmp_path: Path, capsys: pytest.CaptureFixture, change: dict, words: list[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"parts": [{"source": "textcaps", "licence": "x"}], "exclude": [], **change}))
    assert cli.main(["data", "build", "--config", str(path), "--out", str(tmp_path / "out")]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: {path}") and all(word in line for word in words)


def test_another_recipe_does_not_go_into_the_same_folder(copies: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    for seed, status in ((0, 0), (1, 2)):
        part = {"source": "openbookqa", "licence": "x"}
        path.write_text(yaml.safe_dump({"parts": [part], "exclude": [], "seed": seed}))
        assert cli.main(["data", "build", "--config", str(path), "--out", str(tmp_path / "out")]) == status
