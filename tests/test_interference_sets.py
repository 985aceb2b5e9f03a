"""Other people's interference sets, on made files with their columns: items, versions, groups, contracts, one run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmi_plugin.conditions import get
from mmi_plugin.documents import documents
from mmi_plugin.errors import InputError
from mmi_plugin.harness.launcher import main
from mmi_plugin.item import Given, Item, check, item_hash
from mmi_plugin.report.board import build
from mmi_plugin.report.page import to_html
from mmi_plugin.results import Record
from mmi_plugin.results.measures import Measure, per_item, task_numbers
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.results.runs import read_run, read_runs
from mmi_plugin.sources import Benchmark, load
from mmi_plugin.sources.local import ROOT
from tests import interference_sets as sets
from tests.harness_runs import OUR_MODEL, arguments, save_varied
from tests.leaderboard_boards import samples

COUNTS = {"scam": 3, "words_or_vision": 2, "d_sqa": 4, "vlms_are_biased": 3, "naturalbench": 8, "distract_bench": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sets.write_all(tmp_path_factory.mktemp("sets"))


@pytest.fixture
def data(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(ROOT, str(root))
    load.cache_clear()
    return root


def shade(item: Item) -> int:
    """What tells the made pictures apart."""
    return item.image.convert("RGB").getpixel((0, 0))[0]


def test_every_set_gives_its_items(data: Path) -> None:
    assert {name: len(load(name).items) for name in COUNTS} == COUNTS


def test_scam_pairs_its_three_pictures_by_id(data: Path) -> None:
    for number, item in enumerate(load("scam").items, start=1):
        word = {1: ("ball", "car"), 2: ("chair", "zebra"), 3: ("keyboard", "taxi")}[number]
        assert item.id == f"scam-img_{number:04}" and item.answer == word[0] and set(item.options) == set(word)
        real, made = (get(f"given_{name}")(item) for name in ("handwritten", "synthetic"))
        assert [shade(one) for one in (real, made, item)] == [number, 40 + number, 80 + number]
        assert (real.named, made.named, item.named) == (word[1], word[1], None)
        assert (real.question, real.options) == (item.question, item.options)


def test_the_order_of_options_depends_on_the_id_alone(tmp_path: Path) -> None:
    rows = sets.scam()
    before = {item.id: item.options for item in load("scam", path=str(sets.write(tmp_path / "a", "scam", rows))).items}
    turned = load("scam", path=str(sets.write(tmp_path / "b", "scam", rows[::-1])))
    assert {item.id: item.options for item in turned.items} == before
    assert len({options.index(answer) for options, answer in _answers(turned)}) == 2, "both orders occur"


def _answers(bench: Benchmark) -> list[tuple[tuple[str, ...], str]]:
    return [(item.options, item.answer) for item in bench.items]


def test_scam_leaves_out_and_names_what_has_no_counterpart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row for row in sets.scam() if row["id"] != "SynthSCAM_img_0002"]
    found = load("scam", path=str(sets.write(tmp_path, "scam", rows)))
    assert [item.id for item in found.items] == ["scam-img_0001", "scam-img_0003"]
    assert "scam: 1 pictures have no counterparts with the same words and are left out: rows 2" in caplog.text


def test_words_or_vision_puts_its_texts_before_the_question(data: Path) -> None:
    bench = load("words_or_vision")
    assert bench.metric == "exact_match" and bench.items[0].answers == ("red", "dark red")
    rows = documents(bench, ("clean", "given_corrupted", "given_irrelevant", "given_matching")).rows
    asked = "What colour is the ball? Answer in a word."
    texts = ["", "Here is a text:\nThe ball is blue.\n", "Here is a text:\nIt rained in May.\n"]
    wanted = [f"{text}Question:\n{asked}" for text in [*texts, "Here is a text:\nThe ball is red.\n"]]
    assert rows["prompt"][:4] == wanted
    assert [shade(item) for item in bench.items] == [0, 1], "one question on two pictures is two items"


def test_vlms_are_biased_names_the_expected_answer(data: Path) -> None:
    items = load("vlms_are_biased").items
    assert [(item.answer, item.named) for item in items] == [("5", "4"), ("5", "4"), ("4", "3")]
    assert [item.cluster for item in items] == ["images/dog_5.png", "images/dog_5.png", "images/logo_4.png"]


def test_naturalbench_has_four_items_a_group(data: Path) -> None:
    items = load("naturalbench").items
    assert [item.group for item in items] == ["0"] * 4 + ["1"] * 4
    assert [item.answer for item in items[:4]] == ["Yes", "No", "No", "Yes"]  # q0 on i0, i1, then q1
    assert [shade(item) for item in items[:4]] == [0, 99, 0, 99]
    assert [item.options for item in items[3:5]] == [("Yes", "No"), ("A", "B")]


def test_distract_bench_takes_questions_with_options(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    load.cache_clear()
    first, second = load("distract_bench").items
    assert (first.question, first.answer, second.answer) == ("How long?", "2.5", "A")
    assert "distract_bench: 1 questions have no options and are left out: rows 3" in caplog.text


def test_d_sqa_stands_beside_its_originals(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    load.cache_clear()
    added, pictured, inserted, replaced = load("d_sqa").items
    assert "d_sqa: 1 questions have no one original in ScienceQA and are left out: rows 2" in caplog.text
    assert added.question == "Which one purrs?" and added.picture is None
    assert get("given_distraction")(added).question == "A cow says moo.\nWhich one purrs?"
    assert pictured.picture is None and shade(get("given_distraction")(pictured)) == 77
    assert shade(inserted) == shade(get("given_distraction")(inserted)) == 1
    assert get("given_distraction")(inserted).question.startswith("Look well. A cow says moo.\n")
    assert shade(replaced) == 2 and shade(get("given_distraction")(replaced)) == 78
    assert len(load("d_sqa", kind="AC").items) == 1


def test_a_copy_of_d_sqa_that_lacks_a_kind_is_named(data: Path, tmp_path: Path) -> None:
    sets.save(sets.distracted()["AI"], sets.SCIENCE, tmp_path / "D-SQA-AI" / "test.parquet")
    with pytest.raises(InputError, match=r"holds no folder 'D-SQA-AC': key 'kind' asks one kind alone"):
        load("d_sqa", path=str(tmp_path))
    assert len(load("d_sqa", path=str(tmp_path), kind="AI").items) == 1
    with pytest.raises(InputError, match="d_sqa: key 'kind' is 'AX'"):
        load("d_sqa", kind="AX")
    with pytest.raises(InputError, match="d_sqa: unknown split 'train': valid: test"):
        load("d_sqa", "train")


def test_a_version_that_an_item_does_not_have_is_named(data: Path) -> None:
    item = load("scam").items[0]
    with pytest.raises(InputError, match="'given_corrupted': item scam-img_0001 has no version 'corrupted': valid: "):
        get("given_corrupted")(item)
    with pytest.raises(InputError, match="item i has no version 'handwritten': its data set came with none"):
        get("given_handwritten")(replace(item, id="i", given={}))


def test_what_a_version_names_is_an_option(data: Path) -> None:
    item = load("scam").items[0]
    with pytest.raises(InputError, match=r"^row 1: field 'named' is 'bus', not among the options \['"):
        check(replace(item, given={"synthetic": Given(named="bus")}), "row 1")


def test_versions_and_clusters_are_part_of_the_hash(data: Path) -> None:
    item = load("scam").items[0]
    others = [
        replace(item, given={}),
        replace(item, cluster="c"),
        replace(item, group="c"),
        replace(item, given=load("scam").items[1].given),
    ]
    assert len({item_hash(one) for one in (item, *others)}) == 5


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("scam", "attack_word"), ("words_or_vision", "full_prompt"), ("vlms_are_biased", "expected_bias"),
        ("naturalbench", "Image_1"), ("scienceqa_whole", "lecture"),
    ],
)  # fmt: skip
def test_a_missing_column_is_named(name: str, without: str, tmp_path: Path) -> None:
    rows = {"scienceqa_whole": sets.originals}.get(name) or getattr(sets, name)
    place = sets.write(tmp_path, name, rows(), without)
    with pytest.raises(InputError, match=rf"^{name}: .*parquet: column '{without}' is missing: "):
        load(name, path=str(place))


@pytest.mark.parametrize(
    ("name", "row", "change", "said"),
    [
        ("scam", 0, {"type": "FakeSCAM"}, "row 1: field 'type' is 'FakeSCAM': did you mean"),
        ("scam", 1, {"id": "img_0002"}, "row 2: field 'id' is 'img_0002', which does not begin with 'SCAM_'"),
        ("scam", 1, {"id": "SCAM_img_0001"}, "row 2: field 'id' is 'SCAM_img_0001', as in row 1"),
        ("words_or_vision", 2, {"text_type": "none"}, "row 3: field 'text_type' is 'none'"),
        ("words_or_vision", 2, {"full_prompt": "Which?"}, "row 3: field 'full_prompt' has no line of ten dashes"),
        ("words_or_vision", 2, {"answers": "[]"}, "row 3: field 'answers' is empty"),
        ("naturalbench", 1, {"Image_1_Question_0": "C"}, "row 2: field 'Image_1_Question_0' is 'C', not A or B"),
        ("naturalbench", 1, {"Question_Type": "open"}, "row 2: field 'Question_Type' is 'open'"),
        ("vlms_are_biased", 2, {"ground_truth": None}, "row 3: field 'ground_truth' is null"),
    ],
)
def test_bad_fields_are_named(name: str, row: int, change: dict[str, str], said: str, tmp_path: Path) -> None:
    rows = getattr(sets, name)()
    rows[row] |= change
    with pytest.raises(InputError) as error:
        load(name, path=str(sets.write(tmp_path, name, rows)))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_hub_without_the_questions_of_distract_bench_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv(ROOT, raising=False)
    load.cache_clear()
    with pytest.raises(InputError, match=r"a local copy goes to \$MMI_DATA_ROOT/distract_bench"):
        load("distract_bench")


def test_group_accuracy_is_that_counted_by_hand() -> None:
    said = {"1": "YYYN", "2": "YNNY", "3": "YNNY"}  # right is Y, N, N, Y: of three groups two are whole
    records = [
        Record(f"{group}-{place}", "clean", 0, "ABBA"[place], "AB"[letter == "N"], letter, group=group)
        for group, letters in said.items()
        for place, letter in enumerate(letters)
    ]
    found = per_item(Outcomes.of("t", "vqa", ("clean",), records))[Measure("group_accuracy", "clean")]
    assert sorted(found.values[~np.isnan(found.values)]) == [0, 1, 1]
    numbers = task_numbers(records, "vqa", ("clean",))
    assert numbers["group_accuracy/clean"] == pytest.approx(2 / 3)
    assert numbers["accuracy/clean"] == pytest.approx(9 / 12)
    alone = [replace(record, group=None) for record in records]
    assert "group_accuracy/clean" not in task_numbers(alone, "vqa", ("clean",))


def test_bias_ratio_is_that_counted_by_hand() -> None:
    rows = [("5", "4", "{4}"), ("5", "4", "5"), ("5", "4", None), ("4", "3", "3."), ("4", None, "3")]
    records = [
        Record(str(number), "clean", 0, right, said, said or "", named, answers=(right,), metric="exact_match")
        for number, (right, named, said) in enumerate(rows)
    ]
    found = per_item(Outcomes.of("t", "vqa", ("clean",), records))[Measure("bias_ratio", "clean")].values
    np.testing.assert_array_equal(found, [1, 0, 0, 1, np.nan])
    assert task_numbers(records, "vqa", ("clean",))["bias_ratio/clean"] == pytest.approx(2 / 4)


def test_all_sets_run_to_numbers_and_a_page_with_their_licences(data: Path, tmp_path: Path) -> None:
    checkpoint, out = save_varied(tmp_path / "model", seed=1), tmp_path / "out"
    flags = ("--gen_kwargs", "max_new_tokens=2", "--batch_size", "8")
    assert main([*OUR_MODEL, *arguments(checkpoint, "mmi_interference_all", out, *flags, limit=2)]) == 0
    run = read_run(out)
    assert set(run) == {f"mmi_{name}" for name in COUNTS}
    for result in run.values():
        assert result.numbers["items"] == max(1, -(-2 // len(result.conditions))) and not result.numbers["incomplete"]
    assert "bias_ratio/clean" in run["mmi_vlms_are_biased"].numbers
    assert "group_accuracy/clean" in run["mmi_naturalbench"].numbers
    assert {row["group"] for row in samples(out, "mmi_naturalbench")} == {"0"}
    page = to_html(build(read_runs([str(out)])))
    for said in (
        "scam: BLISS-e-V/SCAM, CC BY-NC 4.0; ",
        "naturalbench: BaiqiL/NaturalBench, Apache 2.0; ",
        "whole groups right",
    ):
        assert said in page
