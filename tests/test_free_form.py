"""Free-form questions: answers compared by lmms-eval's own metrics, in numbers, tests and pages as choices are."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from lmms_eval.api.metrics import anls, exact_match_hf_evaluate
from lmms_eval.tasks.vqav2.utils import vqav2_process_results
from PIL import Image

import mmi_plugin as mmi
from mmi_plugin.answers import read_free
from mmi_plugin.answers.agreement import agreement, same
from mmi_plugin.cli import main
from mmi_plugin.documents import documents
from mmi_plugin.errors import InputError
from mmi_plugin.item import Item, user_text
from mmi_plugin.results import Record
from mmi_plugin.results.measures import Measure, per_item, task_numbers
from mmi_plugin.results.outcomes import Outcomes
from mmi_plugin.results.runs import read_run
from mmi_plugin.sources import load
from mmi_plugin.studies.demo import base_folder

TEN = ("red",) * 3 + ("dark red",) * 2 + ("blue",) + ("brown",) * 4
"""What ten people said."""


@pytest.mark.parametrize(
    ("metric", "said", "answers", "score"),
    [
        ("exact_match", "Paris.", ("paris", "Lutetia"), 1),  # labelled by hand: case and punctuation do not count
        ("exact_match", "It is Paris", ("Paris",), 0),
        ("exact_match", None, ("Paris",), 0),
        ("anls", "hallo", ("hello",), 0.8),  # one of five characters
        ("anls", "abcd", ("abxx",), 0.5),
        ("anls", "abcd", ("axxx",), 0),  # 0.25 is below the threshold
        ("anls", "Blue Whale", ("whale", "blue  whale"), 1),
        ("vqa_accuracy", "Brown", TEN, 1),  # min(n / 3, 1), mean over leaving one out: the known 0.3, 0.6, 0.9, 1
        ("vqa_accuracy", "red", TEN, 0.9),
        ("vqa_accuracy", "the dark red", TEN, 0.6),
        ("vqa_accuracy", "blue", TEN, 0.3),
        ("vqa_accuracy", "green", TEN, 0),
    ],
)
def test_scores_are_those_of_the_metrics(metric: str, said: str | None, answers: tuple[str, ...], score: float) -> None:
    assert agreement(metric, said, answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("metric", "said", "before", "alike"),
    [
        ("exact_match", "PARIS", "Paris!", True),
        ("exact_match", "Paris, France", "Paris", False),
        ("anls", "hallo", "hello", True),
        ("vqa_accuracy", "two dogs", "2 dogs.", True),  # the evaluation's own table of numbers
        ("vqa_accuracy", "a dog", "cat", False),
    ],
)
def test_a_metric_says_which_answers_are_the_same(metric: str, said: str, before: str, alike: bool) -> None:
    assert same(metric, said, before) is alike


def test_what_is_read_is_the_answer_after_its_thought() -> None:
    assert read_free("<think>a cat?</think> A dog.\n</s>rest").letter == "A dog."
    assert read_free("<think>a cat") == read_free("<think>a dog") and read_free("<think>a cat").cut_off
    assert read_free(" ").letter is None and len(read_free("a" * 5000).letter) == 1000


def answered(item: str, condition: str, said: str | None, answers: tuple[str, ...], metric: str) -> Record:
    return Record(item, condition, 0, answers[0], said, said or "", answers=answers, metric=metric)


def test_measures_of_graded_answers_are_those_counted_by_hand() -> None:
    said = {
        "1": (TEN, "brown", "red"),  # 1 and 0.9: another answer, yet both are right, so no flip
        "2": (TEN, "brown", "blue"),  # 1 and 0.3: right to wrong
        "3": (TEN, "green", "red"),  # 0 and 0.9: wrong to right
        "4": (TEN, "green", "pink"),  # 0 and 0: wrong to another wrong
        "5": (TEN, "green", "Green"),  # 0 and 0: the same
        "6": (TEN, None, None),  # no answer, twice
    }
    records = [
        answered(item, name, text, answers, "vqa_accuracy")
        for item, (answers, *texts) in said.items()
        for name, text in zip(("clean", "both"), texts, strict=True)
    ]
    found = per_item(Outcomes.of("t", "vqa", ("clean", "both"), records))
    expected = {
        Measure("accuracy", "clean"): [1, 1, 0, 0, 0, 0],
        Measure("accuracy", "both"): [0.9, 0.3, 0.9, 0, 0, 0],
        Measure("worst_case"): [0.9, 0.3, 0, 0, 0, 0],
        Measure("drop", "both"): [0.1, 0.7, -0.9, 0, 0, 0],
        Measure("flip_rate", "both"): [0, 1, 1, 1, 0, 0],
        Measure("right_to_wrong", "both"): [0, 1, 0, 0, 0, 0],
        Measure("wrong_to_right", "both"): [0, 0, 1, 0, 0, 0],
        Measure("wrong_to_wrong", "both"): [0, 0, 0, 1, 0, 0],
        Measure("unparseable", "both"): [0, 0, 0, 0, 0, 1],
    }
    for measure, values in expected.items():
        np.testing.assert_allclose(found[measure].values, values, atol=1e-12, err_msg=str(measure))
    assert not found[Measure("accuracy", "both")].binary and found[Measure("flip_rate", "both")].binary
    assert task_numbers(records, "vqa", ("clean", "both"))["accuracy/both"] == pytest.approx(2.1 / 6)


QUESTIONS = [
    {"question": "Which digit?", "answer": ["seven", "7"], "image": "1.png"},
    {"question": "Which colour?", "answer": ["white"], "image": "1.png"},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Image.new("RGB", (32, 32), "white").save(tmp_path / "1.png")
    file = tmp_path / "free.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS), encoding="utf-8")
    return file


def test_own_questions_without_options(data: Path) -> None:
    bench = load("records", "test", path=str(data), family="vqa", metric="exact_match")
    first = bench.items[0]
    assert first.answer == "seven" and first.answers == ("seven", "7") and not first.options
    rows = documents(bench, ("clean", "both")).rows
    assert rows[0]["prompt"] == "Question:\nWhich digit?\nAnswer the question using a single word or phrase."
    assert rows[1]["prompt"].endswith(rows[0]["prompt"]) and len(rows[1]["prompt"]) > 2 * len(rows[0]["prompt"])
    other = load("records", "test", path=str(data), family="vqa", metric="anls")
    assert other.digest(("clean",), 0) != bench.digest(("clean",), 0)
    heavy = load("records", "test", path=str(data), family="image_heavy", metric="anls")
    assert heavy.conditions == ("clean", "unrelated_text", "ocr_text")  # those that name no wrong option


@pytest.mark.parametrize("metric", ["exact_match", "anls"])
def test_mmi_eval_scores_them_as_lmms_eval_does(
    metric: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    model = ["--model_args", f"pretrained={base_folder()}", "--gen_kwargs", "max_new_tokens=4"]
    command = ["eval", "--data", str(data), "--family", "vqa", "--metric", metric, *model, "--out", str(out)]
    assert main(command) == 0
    assert f"mmi_own by {'ANLS' if metric == 'anls' else 'exact match'}" in " ".join(capsys.readouterr().out.split())
    (result,) = read_run(out).values()
    assert result.conditions == ("clean", "both") and len(result.records) == 4
    for record in result.records:
        said = record.raw.strip()
        if metric == "anls":
            score = anls(references=list(record.answers), predictions=[said])["anls"]
        else:
            alike = {"ignore_case": True, "ignore_punctuation": True}
            pairs = (exact_match_hf_evaluate([said], [answer], **alike) for answer in record.answers)
            score = max(pair["exact_match"] for pair in pairs)
        assert (record.parsed or "") == said and record.score == pytest.approx(score)
    page = (out / "board.html").read_text(encoding="utf-8")
    assert "seven / 7" in page and "Which digit?" in page and "Free-form answers are scored" in page

    (samples,) = out.rglob("*_samples_mmi_own.jsonl")
    rows = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    for change, said in (
        ({"answers": ["white", "x"]}, "field 'answers' is ['white', 'x'], and before ['white']"),
        ({"metric": "bleu"}, "key 'metric' is 'bleu': valid: anls"),
        ({"gold": "eight"}, "field 'gold' is 'eight', not one of the answers"),
    ):
        forged = [*rows[:-1], rows[-1] | change]
        samples.write_text("".join(json.dumps(row) + "\n" for row in forged), encoding="utf-8")
        with pytest.raises(InputError) as error:
            read_run(out)
        assert said in str(error.value)


def test_the_same_in_a_notebook() -> None:
    items = [
        Item(str(number), "vqa", "Which colour?", "brown", answers=TEN, image=Image.new("RGB", (32, 32), "brown"))
        for number in range(3)
    ]
    found = mmi.evaluate(*mmi.load(str(base_folder())), items, ("clean", "both"), metric="vqa_accuracy")
    records = found.records()
    given = [{"answer": answer, "answer_id": number} for number, answer in enumerate(TEN)]
    for row in records.to_dict("records"):
        answers = [dict(answer) for answer in given]
        score = vqav2_process_results({"answers": answers, "question_id": 0}, [row["raw"]])["exact_match"]
        assert row["score"] == pytest.approx(score)
    assert user_text(items[0]) == "Question:\nWhich colour?"  # as given: `records` alone adds the line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric": "bleu"}, "key 'metric' is 'bleu': valid: anls, exact_match, vqa_accuracy"),
        ({"metric": "vqa_accuracy"}, "row 1: 2 answers, and vqa_accuracy needs 4 at least"),
        ({"metric": "anls", "option_columns": "A,B"}, "key 'option_columns' is for questions with options"),
        ({}, "; key 'metric' asks questions without options: exact_match, anls, vqa_accuracy"),
    ],
)
def test_what_does_not_fit_is_one_line(change: dict[str, str], said: str, data: Path) -> None:
    with pytest.raises(InputError) as error:
        load("records", "test", path=str(data), family="vqa", **change)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_condition_that_names_a_wrong_option_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--data", str(data), "--family", "image_heavy", "--metric", "anls", "--conditions", "clean,typographic"]
    assert main(["eval", *asked, "--model_args", "pretrained=x", "--out", str(data.parent / "out")]) == 2
    assert "key 'conditions': 'typographic' names an option" in capsys.readouterr().err
