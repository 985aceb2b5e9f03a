import pytest

from mmi_plugin.answers import mentions, parse_letter

DIGITS = ("seven", "three", "nine", "two")


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


def test_option_text_beats_the_article_in_front() -> None:
    assert parse_letter("A dog", ("cat", "dog", "A dog", "eel")) == "C"
    assert parse_letter("A dog", ("cat", "dog", "fox", "eel")) == "B"


def test_options_with_letters_as_text() -> None:
    assert parse_letter("B", ("A", "B", "C", "D")) == "B"
    assert parse_letter("5", ("4", "5")) == "B"


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
