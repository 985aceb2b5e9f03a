"""Answers of models, and those that could be given to real questions; neither is part of the project."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmi_plugin.answers import parse_letter
from mmi_plugin.item import LETTERS

DATA = Path(__file__).parents[2] / "shared" / "data"
QUESTIONS = {"arc_challenge": 4687, "openbookqa": 2000}  # options of the test splits

LIST = "{list}"
LETTER_FORMS = ("{L}", "{l}", "{L}.", "({L})", "The answer is {L}.", "Answer: {L}", "**{L}**", LIST + "\n\nAnswer: {L}")
BOTH_FORMS = ("{L}: {o}", "{L}. {o}", "{L}) {o}", "The correct answer is {L}: {o}", LIST + "\n{L}: {o}")
TEXT_FORMS = ("{o}", "{o}.", "It is {o}.", "The answer is {o}.", "{O}")
FORMS = (*LETTER_FORMS, *BOTH_FORMS, *TEXT_FORMS)
LISTS = ("{L}: {o}", "{L}. {o}", "({L}) {o}", "- **{L}**: {o}", "{o}")


def rows(path: Path) -> list[dict]:
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def questions(name: str) -> Iterator[tuple[str, ...]]:
    for row in rows(DATA / name / "test.jsonl"):
        yield tuple(row["choices"]["text"])


def listed(options: tuple[str, ...], form: str = "{L}: {o}") -> str:
    return "\n".join(form.format(L=letter, o=option) for letter, option in zip(LETTERS, options, strict=False))


def is_ambiguous(form: str, option: str, options: tuple[str, ...]) -> bool:
    """Whether a form means another option as well, by the rules: a letter is a label; texts may differ by case only."""
    text = option.strip().casefold()
    twins = [other for other in options if other.strip().casefold() == text]
    return (form in TEXT_FORMS and text.upper() in LETTERS[: len(options)]) or (form == "{O}" and len(twins) > 1)


def misread(name: str, step: int) -> tuple[int, int, list[tuple[str, str, str | None]]]:
    """Put every option into every `step`-th form: how many options, how many ambiguous answers, and what is misread."""
    count = ambiguous = 0
    wrong = []
    for options in questions(name):
        for letter, option in zip(LETTERS, options, strict=False):
            count += 1
            for form in FORMS[count % step :: step]:
                raw = form.format(L=letter, l=letter.lower(), o=option, O=option.upper(), list=listed(options))
                if is_ambiguous(form, option, options):
                    ambiguous += 1
                elif (found := parse_letter(raw, options)) != letter:
                    wrong.append((raw, letter, found))
    return count, ambiguous, wrong


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_option_is_read_in_forms_of_answers(name: str) -> None:
    count, ambiguous, wrong = misread(name, step=7)
    assert (count, wrong) == (QUESTIONS[name], [])
    assert ambiguous < 10


@pytest.mark.long
@pytest.mark.parametrize("name", QUESTIONS)
def test_every_option_is_read_in_every_form(name: str) -> None:
    count, ambiguous, wrong = misread(name, step=1)
    assert (count, wrong) == (QUESTIONS[name], [])
    assert ambiguous < 10


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_list_of_the_options_is_no_answer(name: str) -> None:
    for options in questions(name):
        for form in LISTS:
            assert parse_letter(listed(options, form), options) is None, options


def test_answers_as_models_write_them() -> None:
    """None is read wrong, and 99% of the clear ones are read."""
    read = [
        (row["text"], row["answer"], parse_letter(row["text"], tuple(row["options"])))
        for row in rows(DATA / "answers" / "answers.jsonl")
    ]
    assert [each for each in read if each[2] is not None and each[1] != each[2]] == []
    clear = [each for each in read if each[1] is not None]
    assert sum(each[2] is not None for each in clear) >= 0.99 * len(clear)
