"""Local copies in every accepted layout, the contract of the columns, and what is wrong with a copy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, Value, load_dataset

from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, image_hash
from mmi_plugin.sources import SOURCES, load, options_of, pool_images
from mmi_plugin.sources.local import ROOT
from tests.suite import DATA, ITEMS, at

FILES = {
    "mini_imagenet": "data/test",
    "caltech101": "data/train",
    "food101": "data/validation",
    "openbookqa": "main/test",
    "mmlu": "all/test",
    "arc_challenge": "ARC-Challenge/test",
    "scienceqa": "ScienceQA-IMG/test",
    "mmbench": "en/dev",
    "seedbench": "data/test",
}


@pytest.fixture(autouse=True)
def forget() -> None:
    load.cache_clear()


def hub(name: str) -> Dataset:
    file = DATA / name / f"{FILES[name]}-00000-of-00001.parquet"
    return load_dataset("parquet", data_files=str(file), split="train")


def content(item: Item) -> tuple[Any, ...]:
    """What a model sees of an item, pixels included."""
    pixels = item.image and (item.image.size, item.image.tobytes())
    return item.question, item.options, item.answer, dict(item.facts), pixels


def contents(name: str, split: str = "test", **options: Any) -> list[tuple[Any, ...]]:
    return [content(item) for item in load(name, split, **options).items]


def save_images(name: str, folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, row in enumerate(hub(name)):
        image = row["image"][0] if isinstance(row["image"], list) else row["image"]
        paths.append(f"{number:03d}.png")
        image.save(folder / paths[-1])
    return paths


def save_jsonl(name: str, folder: Path) -> None:
    data = hub(name)
    rows = list(data.remove_columns([column for column in data.column_names if column == "image"]))
    if "image" in data.column_names:
        for row, path in zip(rows, save_images(name, folder / "images"), strict=True):
            row["image"] = f"images/{path}"
    if hasattr(data.features.get("label"), "names"):
        rows = [{**row, "label": data.features["label"].names[row["label"]]} for row in rows]
    split = FILES[name].split("/")[-1]
    (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def save_parquet(name: str, folder: Path) -> None:
    hub(name).to_parquet(folder / f"{FILES[name].split('/')[-1]}.parquet")


def save_shards(name: str, folder: Path) -> None:
    """Two shards, in the layout of the hub's own conversion to parquet."""
    data, split = hub(name), FILES[name].split("/")[-1]
    for shard in range(2):
        data.shard(2, shard, contiguous=True).to_parquet(folder / split / f"000{shard}.parquet")


@pytest.mark.parametrize("save", [save_jsonl, save_parquet, save_shards])
@pytest.mark.parametrize("name", ITEMS)
def test_every_layout_gives_the_same_items(name: str, save: Callable[[str, Path], None], tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir()
    save(name, folder)
    if save is save_jsonl and name == "caltech101":  # classes are those that occur: the same here
        assert {row["label"] for row in hub(name)} == set(range(9))
    assert contents(name, path=str(folder)) == contents(name, path=at(name))


@pytest.mark.parametrize("name", ITEMS)
def test_data_root_takes_the_place_of_the_hub(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT, str(DATA))
    assert contents(name) == contents(name, path=at(name))


def test_a_folder_of_images_by_class_and_one_with_metadata(tmp_path: Path) -> None:
    data = hub("mini_imagenet")
    by_class, listed = tmp_path / "classes", tmp_path / "listed" / "test"
    listed.mkdir(parents=True)
    lines = []
    for number, row in enumerate(data):
        wnid = data.features["label"].names[row["label"]]
        folder = by_class / "test" / wnid
        folder.mkdir(parents=True)
        row["image"].save(folder / f"{number}.png")
        row["image"].save(listed / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "label": wnid}))
    (listed / "metadata.jsonl").write_text("\n".join(lines), encoding="utf-8")
    expected = contents("mini_imagenet", path=at("mini_imagenet"))
    assert contents("mini_imagenet", path=str(by_class)) == expected
    assert contents("mini_imagenet", path=str(listed.parent)) == expected
    assert contents("mini_imagenet", path=str(listed), from_split=".") == expected


def test_facts_of_the_rows_take_the_place_of_templates(tmp_path: Path) -> None:
    save_jsonl("food101", tmp_path)
    file = tmp_path / "validation.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["facts"] = {"ramen": "Ramen is served in a bowl."}
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    items = load("food101", "test", path=str(tmp_path)).items
    assert items[0].facts == {"ramen": "Ramen is served in a bowl."}
    assert set(items[1].facts) == set(items[1].wrong_options)
    assert all(option in text and items[1].answer not in text for option, text in items[1].facts.items())


def test_a_fact_on_what_is_no_class_is_named(tmp_path: Path) -> None:
    save_jsonl("food101", tmp_path)
    file = tmp_path / "validation.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["facts"] = {"ramn": "Ramen is served in a bowl."}
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(
        InputError, match=r"validation\.jsonl, row 2: field 'facts' has 'ramn', no class: did you mean 'ra"
    ):
        load("food101", "test", path=str(tmp_path))


@pytest.mark.parametrize("as_list", [False, True])
def test_the_published_evaluation_file(tmp_path: Path, as_list: bool) -> None:
    save_images("mini_imagenet", tmp_path)
    letters = {"A": "robin", "B": "orange", "C": "lamp"}
    record = {
        "id": 7,
        "question": "What is shown?",
        "multiple_choices": list(letters.values()) if as_list else letters,
        "multiple_choices_answer": "orange" if as_list else "B",
        "image": "000.png",
        "facts": {"lamp": "A lamp gives light."},
    }
    file = tmp_path / "multiple_choice_data_test.json"
    file.write_text(json.dumps([record]), encoding="utf-8")
    for path in (file, tmp_path):
        (item,) = load("mini_imagenet", "test", path=str(path)).items
        assert (item.id, item.question, item.answer) == ("mini_imagenet-7", "What is shown?", "orange")
        assert (item.options, item.facts) == (("robin", "orange", "lamp"), {"lamp": "A lamp gives light."})
        assert item.image.tobytes() == hub("mini_imagenet")[0]["image"].convert("RGB").tobytes()
        load.cache_clear()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"multiple_choices_answer": "D"}, "field 'answer' is 'D', not among the options"),
        ({"multiple_choices_answer": None}, "field 'multiple_choices_answer' is missing"),
        ({"multiple_choices": "x"}, "field 'multiple_choices' is neither"),
        ({"question": " "}, "field 'question' is empty"),
        ({"facts": ["x"]}, "field 'facts' is not a map"),
        ({"image": None}, "field 'image' is missing"),
    ],
)
def test_a_bad_record_of_the_published_file_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    good = {"id": 1, "question": "What?", "multiple_choices": ["a", "b"], "multiple_choices_answer": "A", "image": "x"}
    file = tmp_path / "data.json"
    file.write_text(json.dumps([good, {**good, "id": 2, **change}]), encoding="utf-8")
    with pytest.raises(InputError, match=rf"^food101: .*data\.json, row 2: {said}"):
        load("food101", "test", path=str(file))


CONTRACT = [(name, column) for name in ITEMS for column in SOURCES[name].columns]


@pytest.mark.parametrize(("name", "column"), CONTRACT)
def test_a_renamed_column_is_named(name: str, column: str, tmp_path: Path) -> None:
    split = FILES[name].split("/")[-1]
    hub(name).rename_column(column, f"{column}_new").to_parquet(tmp_path / f"{split}.parquet")
    hint = rf"column '{column}' is missing: (did you mean|valid:)"
    with pytest.raises(InputError, match=rf"^{name}: .*{split}\.parquet: {hint}"):
        load(name, "test", path=str(tmp_path))


@pytest.mark.parametrize(("name", "column"), CONTRACT)
def test_a_column_of_another_kind_is_named(name: str, column: str, tmp_path: Path) -> None:
    data, split = hub(name), FILES[name].split("/")[-1]
    features = Features({**data.features, column: Value("float64")})
    rows = [{**row, column: 1.5} for row in data.select(range(1))]
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(
        InputError, match=rf"^{name}: .*{split}\.parquet: column '{column}' is Value\('float64'\), not "
    ):
        load(name, "test", path=str(tmp_path))


@pytest.mark.parametrize(
    ("name", "row", "change", "said"),
    [
        ("openbookqa", 2, {"answerKey": "E"}, "row 3: field 'answerKey' is 'E', not one of A, B, C, D"),
        ("openbookqa", 0, {"question_stem": None}, "row 1: field 'question_stem' is null"),
        ("arc_challenge", 1, {"choices": {"text": [], "label": []}}, "row 2: field 'choices' is "),
        ("mmlu", 3, {"answer": -1}, "row 4: field 'answer' is -1, not 0 to 3"),
        ("mmlu", 1, {"choices": ["a", None, "b", "c"]}, "row 2: field 'choices' is "),
        ("scienceqa", 0, {"answer": 2}, "row 1: field 'answer' is 2, not 0 to 1"),
        ("mmbench", 2, {"answer": "D"}, "row 3: field 'answer' is 'D', not one of A, B, C"),
        ("seedbench", 3, {"choice_b": " "}, "row 4: field 'answer' is empty"),
        ("food101", 4, {"label": None}, "row 5: field 'label' is None"),
    ],
)
def test_a_bad_row_is_named(name: str, row: int, change: dict[str, Any], said: str, tmp_path: Path) -> None:
    data, split = hub(name), FILES[name].split("/")[-1]
    rows = [{**values, **(change if number == row else {})} for number, values in enumerate(data)]
    Dataset.from_list(rows, features=data.features).to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(InputError, match=rf"^{name}: .*{split}\.parquet, {said}"):
        load(name, "test", path=str(tmp_path))


def test_an_image_that_does_not_decode_is_named_before_the_run(tmp_path: Path) -> None:
    save_jsonl("scienceqa", tmp_path)
    (tmp_path / "images" / "001.png").write_bytes(b"no image")
    bench = load("scienceqa", "test", path=str(tmp_path))
    with pytest.raises(InputError, match=r"^scienceqa: .*test\.jsonl, row 2: field 'image' does not decode"):
        bench.digest(bench.conditions, 0)
    with pytest.raises(InputError, match=r"row 2: field 'image' does not decode"):
        _ = bench.items[1].image


def test_what_cannot_be_found_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"^mmlu: path '/no/where' does not exist"):
        load("mmlu", "test", path="/no/where")
    with pytest.raises(InputError, match=r"holds no split 'auxiliary_train' or 'train' .*\(found: notes\.txt\)"):
        (tmp_path / "notes.txt").write_text("x")
        load("mmlu", "train", path=str(tmp_path))
    with pytest.raises(InputError, match=r"notes\.txt: not a \.parquet, \.jsonl, \.csv or \.json file"):
        load("mmlu", "test", path=str(tmp_path / "notes.txt"))
    with pytest.raises(InputError, match=r"^mmbench: unknown split 'train': valid: test"):
        load("mmbench", "train", path=at("mmbench"))
    with pytest.raises(InputError, match=r"test\.jsonl, row 2: not JSON: "):
        (tmp_path / "test.jsonl").write_text('{"question": "What?"}\nnot json\n')
        load("mmlu", "test", path=str(tmp_path))
    monkeypatch.setenv(ROOT, str(tmp_path / "gone"))
    with pytest.raises(InputError, match=rf"^mmlu: {ROOT} is '.*gone', not a folder"):
        load("mmlu")


def test_without_a_copy_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline it says so, and where a copy would go; online, `load_dataset` gets the hub's names."""
    import datasets

    monkeypatch.delenv(ROOT, raising=False)
    asked: list[tuple[Any, ...]] = []

    def answer(hub_id: str, config: str | None, split: str) -> Dataset:
        asked.append((hub_id, config, split))
        if hub_id == "cais/mmlu":
            raise ConnectionError("the hub cannot be reached")
        return hub("openbookqa")

    monkeypatch.setattr(datasets, "load_dataset", answer)
    with pytest.raises(InputError, match=rf"^mmlu: cannot load 'cais/mmlu' from the hub: .*goes to \${ROOT}/mmlu"):
        load("mmlu", "train")
    monkeypatch.setattr(datasets, "load_dataset", answer)
    assert len(load("openbookqa", "test").items) == 4
    assert asked == [("cais/mmlu", "all", "auxiliary_train"), ("allenai/openbookqa", "main", "test")]


def test_which_options_a_source_takes() -> None:
    assert options_of("demo_digits") == ()
    assert options_of("food101") == ("path", "from_split", "options", "hard")
    with pytest.raises(InputError, match="did you mean 'food101'"):
        options_of("food")


def test_a_pool_is_a_folder_or_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_images("scienceqa", tmp_path / "deeper")
    (tmp_path / "notes.txt").write_text("x")
    folder = pool_images(str(tmp_path))
    assert len(folder) == 3 and len({image_hash(image) for image in folder}) == 3
    monkeypatch.setenv(ROOT, str(DATA))
    assert [image_hash(image) for image in pool_images("scienceqa")] == [
        image_hash(item.picture) for item in load("scienceqa").items
    ]
    with pytest.raises(InputError, match="pool 'scienceq' is neither a folder nor a source: did you mean 'scienceqa'"):
        pool_images("scienceq")
    with pytest.raises(InputError, match="pool 'mmlu': the source has no images"):
        pool_images("mmlu")
    shutil.rmtree(tmp_path / "deeper")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="the folder holds no image"):
        pool_images(str(tmp_path / "empty"))
