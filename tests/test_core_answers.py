"""Answers, labelled by hand: `fixtures/answers.json` has the letter that a reader takes from each ("": none)."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmi_plugin.answers import THOUGHTS, Reading, answer_start, mentions, parse_letter, read

DIGITS = ("seven", "three", "nine", "two")
LABELLED = [
    (text, tuple(group["options"]), letter or None)
    for group in json.loads((Path(__file__).parent / "fixtures" / "answers.json").read_text(encoding="utf-8"))
    for letter, texts in group["answers"].items()
    for text in texts
]
# Answers with a letter L, and another one M.
CHOOSING = r"""
{L}
{L}.
({L})
**{L}**
{L}, because of the bar.
Answer: {L}
**Answer:** {L}
The answer is {L}.
The answer is: {L}
The correct option is ({L}).
Option {L}
option {l}
answer: {l}
({l})
I choose {L}.
I'd go with {L}
My answer is {L}, not {M}.
{L} is correct.
{L} is the best answer.
So, {L}.
It's not {M}, it's {L}.
{M} is wrong. {L} is right.
{M}: no. {L}: yes.
The answer is {M}... no, wait. The answer is {L}.
{M}. Actually, {L}.
Between {M} and {L}, I choose {L}.
答案：{L}
答えは{L}です。
Réponse : {L}
Die Antwort ist {L}.
{{"answer": "{L}"}}
\boxed{{{L}}}
<answer>{L}</answer>
""".strip().splitlines()
NOT_CHOOSING = """
{L}: no.
not {L}
{L} or {M}
{M} and {L}
{L}, {M}
{L} {M}
Neither {L} nor {M}.
{L} is wrong.
The answer is not {L}.
The answer is {L} or {M}.
I can't tell whether it is {L}.
It might be {L}.
Is it {L}?
If so, the answer is {L}.
""".strip().splitlines()


@pytest.mark.parametrize(
    ("raw", "letter"),
    [
        ("B", "B"),
        (" b \n", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B: three", "B"),
        ("B) three", "B"),
        ("**C**", "C"),
        ("Answer: D", "D"),
        ("The answer is B.", "B"),
        ("The correct answer is option (C).", "C"),
        ("I think the answer is B", "B"),
        ("three", "B"),
        ("Three!", "B"),
        ("It is a three.", "B"),
        ("D\nUSER: and", "D"),
        ("", None),
        ("E", None),
        ("A dog", None),
        ("a dog and a cat", None),
        ("three or nine", None),
        ("none of these", None),
        ("The answer is unclear", None),
    ],
)
def test_parse_letter(raw: str, letter: str | None) -> None:
    assert parse_letter(raw, DIGITS) == letter


def test_labelled_answers_are_read() -> None:
    assert len(LABELLED) > 2500
    misread = [
        (text, options, letter, found)
        for text, options, letter in LABELLED
        if (found := parse_letter(text, options)) != letter
    ]
    assert misread == []


def test_white_space_around_an_answer_does_not_matter() -> None:
    for text, options, letter in LABELLED:
        assert parse_letter(f"\n\n {text} \n", options) == letter, text


def test_the_place_of_a_letter_is_where_the_raw_text_has_it() -> None:
    circled = {"Ｂ": "B", "Ⓑ": "B", "🅱": "B", "А": "A"}
    placed = 0
    for text, options, letter in LABELLED:
        found = read(text, options)
        if found.start is not None:
            char = text[found.start]
            assert circled.get(char, char.upper()) == letter, text
            placed += 1
        moved = read(f"<think>A or B?</think>\n\n{text}", options)
        if "</think>" not in text and "<" not in text:
            assert moved.letter == letter, text
            assert moved.start == (None if found.start is None else found.start + len("<think>A or B?</think>\n\n"))
    assert placed > 1000


@pytest.mark.parametrize(
    ("raw", "start"),
    [
        ("B", 0),
        ("  **B**", 4),
        ("The answer is B.", 14),
        ("\\boxed{\\text{B}}", 13),
        ("three", None),
        ("It is a three.", None),
        ("It is a three, so B.", 18),
        ("**three**  \n\n (B)", 15),
        ("A... wait, no, B.", 15),
        ("A\u200b\n\n\n   Actually,   B", 20),
    ],
)
def test_where_the_letter_stands(raw: str, start: int | None) -> None:
    assert read(raw, DIGITS).start == start


@pytest.mark.parametrize("form", [*CHOOSING, *NOT_CHOOSING])
def test_every_letter_reads_alike(form: str) -> None:
    """A is no article, and I no pronoun, where what is around them says so."""
    options = ("ant", "bee", "cow", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay")
    for place, letter in enumerate("ABCDEFGHIJ"):
        raw = form.format(L=letter, l=letter.lower(), M="ABCDEFGHIJ"[(place + 3) % 10])
        assert parse_letter(raw, options) == (letter if form in CHOOSING else None), raw


def test_option_text_beats_the_article_in_front() -> None:
    assert parse_letter("A dog", ("cat", "dog", "A dog", "eel")) == "C"
    assert parse_letter("A dog", ("cat", "dog", "fox", "eel")) == "B"


def test_options_with_letters_as_text() -> None:
    assert parse_letter("B", ("A", "B", "C", "D")) == "B"
    assert parse_letter("B", ("B", "A", "C")) == "B"  # the label, not the option whose text it is
    assert parse_letter("**C**.", ("C", "NO_{2}", "O_{2}", "CO")) == "C"
    assert parse_letter("X", ("Y", "X")) == "B"
    assert parse_letter("5", ("4", "5")) == "B"


@pytest.mark.parametrize(
    ("raw", "options", "letter"),
    [
        ("Rr", ("RR", "Rr"), "B"),
        ("rR", ("RR", "Rr"), None),
        ("RR", ("rr", "Rr"), None),
        ("It is Rr.", ("RR", "Rr"), "B"),
        ("cafe\u0301", ("tea", "café"), "B"),
        ("café", ("cafe\u0301", "café"), "B"),
        ("cafe\u0301", ("cafe\u0301", "café"), "A"),
        ("CAFÉ", ("cafe\u0301", "café"), None),
        ("STRASSE", ("Straße", "Strasse"), None),
        ("x²", ("x2", "x²"), "B"),
        ("dog", ("dog", "dog"), None),
    ],
)
def test_no_fold_makes_two_options_equal(raw: str, options: tuple[str, ...], letter: str | None) -> None:
    assert parse_letter(raw, options) == letter


@pytest.mark.parametrize(("opening", "closing"), THOUGHTS)
def test_thoughts_are_left_out(opening: str, closing: str) -> None:
    assert read(f"{opening}The answer is A.{closing}\nB", DIGITS) == Reading(
        "B", len(f"{opening}The answer is A.{closing}\n"), False
    )
    assert parse_letter(f"The answer is A.{closing}B", DIGITS) == "B"  # the template opened it
    assert read(f"{opening}The answer is A.", DIGITS) == Reading(None, None, True)
    assert read(f"{opening.upper()}A", DIGITS).cut_off
    assert read(f"{opening}A{closing} B {opening}", DIGITS) == Reading(None, None, True)


def test_where_an_answer_starts() -> None:
    assert answer_start("B") == answer_start("") == 0
    assert answer_start("<think>\n</think>B") == 16
    assert answer_start("a</think>b</think>B") == 18
    assert answer_start("<think>the tag <think> nests</think>B") == 36
    assert answer_start("<think>B") is None
    assert read("<think>A</think>", DIGITS) == Reading(None, None, False)


def test_the_tags_of_thoughts_are_a_setting() -> None:
    own = [["<plan>", "</plan>"], ["", "=>"]]
    assert read("<plan>A</plan>B", DIGITS, own) == Reading("B", 14, False)
    assert read("<plan>A", DIGITS, own).cut_off
    assert parse_letter("<plan>A", DIGITS) == "A"
    assert read("The answer is A => B", DIGITS, own).start == 19
    assert not read("<think>A", DIGITS, own).cut_off
    assert answer_start("<think>A", ()) == 0


@given(
    st.text(st.sampled_from("AaBI .,:()\n*\\{}<>|_$'\"-?!\0\ud800\u200bé答はßİ𝐁👍"), max_size=40), st.integers(0, 10)
)
def test_any_text_is_read_or_not(text: str, count: int) -> None:
    options = ("A dog", "", "B", "is", "ß", "\ud800", "(", "no", "one", "a")[:count]
    found = read(text, options)
    assert found.letter is None or found.letter in "ABCDEFGHIJ"[:count]
    assert found.start is None or 0 <= found.start < len(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("blank", ["", " ", "\n"])
def test_long_runs_are_read_in_linear_time(blank: str) -> None:
    """A pattern that takes quadratic time for one of these needs more than the time limit."""
    marks = (
        "(",
        "[",
        "{",
        "<a",
        "<|",
        "\\",
        "$",
        "*",
        "_",
        "__",
        "`",
        "~~",
        "#",
        "-",
        "|-",
        ":",
        ".",
        "\0",
        " ",
        "\n",
        "\t",
    )
    words = (
        "A",
        "b",
        "A.",
        "A,",
        "(A)",
        "seven",
        "not",
        "if",
        "answer",
        "is",
        "no",
        "really",
        "答案",
        "é",
        "<think>",
        "</s>",
    )
    for unit in (*marks, *words):
        run = (unit + blank) * (50_000 // len(unit + blank))
        read(f"B{run}x", DIGITS)


@pytest.mark.parametrize(
    ("text", "phrase", "found"),
    [
        ("A ONE is drawn", "one", True),
        ("stone and bones", "one", False),
        ("new\nyork city", "New York", True),
        ("naïve", "naïve", True),
        ("anything", "", False),
        ("c++ is old", "C++", True),
    ],
)
def test_mentions_whole_words(text: str, phrase: str, found: bool) -> None:
    assert mentions(text, phrase) is found
