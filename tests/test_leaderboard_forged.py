"""Results folders by hostile hands: each ends in one line and status 2, and what could be recounted is recounted."""

from __future__ import annotations

import csv
import json
import os
import shutil
import socket
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmi_plugin.item import Item, user_text
from mmi_plugin.results.reading import _listed
from mmi_plugin.results.runs import newest_results, read_run
from mmi_plugin.sources import load
from tests.leaderboard_boards import DIGITS, board, edited, leaderboard, number, recount, samples, samples_file

Forge = Callable[[Path], object]


def _file(change: Callable[[dict], Any]) -> Forge:
    """Change the results file; what is returned, unless None, is written in its place."""

    def forge(folder: Path) -> None:
        path = newest_results(folder)
        content = json.loads(path.read_text(encoding="utf-8"))
        found = change(content)
        path.write_text(json.dumps(content if found is None else found), encoding="utf-8")

    return forge


def _config(change: Callable[[dict], Any]) -> Forge:
    return _file(lambda content: change(content["configs"][DIGITS]) and None)


def _row(**fields: object) -> Forge:
    """Change the third row of the samples."""

    def forge(folder: Path) -> None:
        rows = samples(folder)
        rows[2].update(fields)
        _write(folder, rows)

    return forge


def _write(folder: Path, rows: list[dict]) -> None:
    samples_file(folder).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _text(old: str, new: str) -> Forge:
    """Change the text of the results file, once."""

    def forge(folder: Path) -> None:
        path = newest_results(folder)
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return forge


def _line(text: str | bytes) -> Forge:
    """Put a line before the samples."""

    def forge(folder: Path) -> None:
        line = text if isinstance(text, bytes) else text.encode()
        samples_file(folder).write_bytes(line + b"\n" + samples_file(folder).read_bytes())

    return forge


def _outside(folder: Path, path: Path) -> None:
    """Put a link in the place of a file, which moves out of the folder."""
    other = folder.parent / "outside"
    shutil.move(path, other)
    path.symlink_to(other)


def _named_out(folder: Path) -> None:
    """Name a task so that its samples would be read from elsewhere."""
    name = f"/../../{DIGITS}"
    _file(lambda c: c["configs"].update({name: c["configs"].pop(DIGITS)}) or c["results"].update({name: {}}))(folder)


def _gold_of_one_row(folder: Path) -> None:
    rows = samples(folder)
    letter = "ABCD"["ABCD".index(rows[2]["gold"]) - 1]
    rows[2].update(gold=letter, target=letter)
    _write(folder, rows)
    recount(folder, rows)


def _twice(folder: Path) -> None:
    _write(folder, [*samples(folder), samples(folder)[0]])


def _swapped(folder: Path) -> None:
    """A whole other file in the place of the samples."""
    samples_file(folder).write_bytes(newest_results(folder).read_bytes())


DEEP = "[" * 100_000 + "]" * 100_000
NESTED: Any = []
for _ in range(300):
    NESTED = [NESTED]
FORGED: dict[str, Forge] = {
    "results is a list": _file(lambda c: [c]),
    "results is a text": _file(lambda c: "x"),
    "results is null": lambda f: newest_results(f).write_text("null"),
    "results is empty": lambda f: newest_results(f).write_text(""),
    "results is half": lambda f: newest_results(f).write_bytes(newest_results(f).read_bytes()[:999]),
    "results is binary": lambda f: newest_results(f).write_bytes(bytes(range(256))),
    "results is deep": lambda f: newest_results(f).write_text(DEEP),
    "results is UTF-16": lambda f: newest_results(f).write_bytes(newest_results(f).read_text().encode("utf-16")),
    "configs missing": _file(lambda c: c.pop("configs") and None),
    "configs a list": _file(lambda c: c.update(configs=[])),
    "configs empty": _file(lambda c: c.update(configs={})),
    "config a list": _file(lambda c: c["configs"].update({DIGITS: []})),
    "config a number": _file(lambda c: c["configs"].update({DIGITS: 1})),
    "results of tasks missing": _file(lambda c: c.pop("results") and None),
    "results of tasks a list": _file(lambda c: c.update(results=[])),
    "results of the task missing": _file(lambda c: c["results"].pop(DIGITS) and None),
    "results of the task a text": _file(lambda c: c["results"].update({DIGITS: "x"})),
    "flags a list": _file(lambda c: c.update(config=[1])),
    "resolved flags a text": _file(lambda c: c["config"].update(resolved_cli_args="x")),
    "mmi a list": _file(lambda c: c.update(mmi=[1])),
    "mmi's model a text": _file(lambda c: c["mmi"].update(model="x")),
    "mmi's decoding a list": _file(lambda c: c["mmi"].update(decoding=[1])),
    "setup is deep": _file(lambda c: c["mmi"]["model"].update(template_hash=NESTED)),
    "tags are numbers": _config(lambda c: c.update(reasoning_tags=[1, 2])),
    "tags are no JSON": _config(lambda c: c.update(reasoning_tags="[[")),
    "family unknown": _config(lambda c: c["metadata"].update(family="x")),
    "family a list": _config(lambda c: c["metadata"].update(family=["vqa"])),
    "family of others": _config(lambda c: c["metadata"].update(family="text_heavy")),
    "hash a number": _config(lambda c: c["metadata"].update(content_hash=1)),
    "hash a list": _config(lambda c: c["metadata"].update(content_hash=[])),
    "hash short": _config(lambda c: c["metadata"].update(content_hash="\x1b[31m")),
    "versions a list": _config(lambda c: c["metadata"].update(condition_versions=[1])),
    "version a text": _config(lambda c: c["metadata"]["condition_versions"].update(clean="1")),
    "version of one missing": _config(lambda c: c["metadata"]["condition_versions"].pop("clean")),
    "version of one more": _config(lambda c: c["metadata"]["condition_versions"].update(black=1)),
    "split a number": _config(lambda c: c.update(test_split=1)),
    "options a list": _config(lambda c: c.update(dataset_kwargs=[])),
    "options missing": _config(lambda c: c.pop("dataset_kwargs")),
    "conditions missing": _config(lambda c: c["dataset_kwargs"].pop("conditions")),
    "conditions a text": _config(lambda c: c["dataset_kwargs"].update(conditions="clean")),
    "conditions none": _config(lambda c: c["dataset_kwargs"].update(conditions=[])),
    "conditions lists": _config(lambda c: c["dataset_kwargs"].update(conditions=[["clean"]])),
    "condition unknown": _config(lambda c: c["dataset_kwargs"]["conditions"].append("\x1b]0;owned\x07")),
    "condition twice": _config(lambda c: c["dataset_kwargs"]["conditions"].append("clean")),
    "conditions without the reference": _config(lambda c: c["dataset_kwargs"]["conditions"].remove("clean")),
    "seed of the task another": _config(lambda c: c["dataset_kwargs"].update(seed=1)),
    "seed of the task true": _config(lambda c: c["dataset_kwargs"].update(seed=True)),
    "seed of the task huge": _text('"seed": 0', f'"seed": {"9" * 5000}'),
    "seed of the task long": _text('"seed": 0', f'"seed": {"9" * 4000}'),
    "a number another": _file(lambda c: c["results"][DIGITS].update({"worst_case,none": 1.0})),
    "a number NaN": _file(lambda c: c["results"][DIGITS].update({"worst_case,none": float("nan")})),
    "a number infinite": _file(lambda c: c["results"][DIGITS].update({"worst_case,none": float("inf")})),
    "a number huge": _text('"worst_case,none": ', f'"worst_case,none": {"9" * 400}, "x": '),
    "a number a text": _file(lambda c: c["results"][DIGITS].update({"worst_case,none": "1"})),
    "items another number": _file(lambda c: c["results"][DIGITS].update({"items,none": 9})),
    "a field twice": _text('"configs": ', '"configs": {}, "configs": '),
    "task's name leads out": _named_out,
    "task's name has lines": _file(lambda c: c["configs"].update({"a\nb\x1b": c["configs"][DIGITS]})),
    "task's name is empty": _file(lambda c: c["configs"].update({"": c["configs"][DIGITS]})),
    "results a link out": lambda f: _outside(f, newest_results(f)),
    "samples a link out": lambda f: _outside(f, samples_file(f)),
    "samples a pipe": lambda f: (samples_file(f).unlink(), os.mkfifo(samples_file(f))),
    "samples a folder": lambda f: (samples_file(f).unlink(), samples_file(f).mkdir()),
    "samples missing": lambda f: samples_file(f).unlink(),
    "samples empty": lambda f: samples_file(f).write_text(""),
    "samples another file": _swapped,
    "row a list": _line("[]"),
    "row a number": _line("1"),
    "row deep": _line(DEEP),
    "row a long number": _line("9" * 5000),
    "row not UTF-8": _line(b'{"item_id": "\xff"}'),
    "row with a field twice": _line('{"gold": "A", "gold": "B"}'),
    "row twice": _twice,
    "row missing": lambda f: _write(f, samples(f)[1:]),
    "item missing": lambda f: _write(f, samples(f)[4:]),
    "item's name a number": _row(item_id=1),
    "condition of a row another": _row(condition="black"),
    "seed of a row another": _row(seed=7),
    "seed of a row true": _row(seed=False),
    "gold of a row": _gold_of_one_row,
    "gold is not the target": _row(target="Z"),
    "gold no letter": _row(gold="", target=""),
    "gold two letters": _row(gold="AB", target="AB"),
    "gold beyond the options": _row(gold="Z", target="Z"),
    "letter no letter": _row(parsed="\x1b[2J"),
    "letter a list": _row(parsed=["A"]),
    "letter another, with its number": _row(parsed="D", raw="A"),
    "named beyond the options": _row(named="Q"),
    "options others": _row(options=["one", "two", "three", "four"]),
    "options a text": _row(options="ABCD"),
    "options in neither row nor prompt": _row(options=None, input="Which?"),
    "options one in the prompt": _row(options=None, input="Which?\nA: x"),
    "options numbers": _row(options=[1, 2, 3, 4]),
    "options none": _row(options=[]),
    "answer null": _row(raw=None),
    "prompt a list": _row(input=[]),
    "failure a number": _row(failure=1),
    "cut off a text": _row(cut_off="no"),
    "probabilities a text": _row(probabilities="x"),
    "probabilities true": _row(probabilities=[True, False, False, False]),
    "probabilities nested": _row(probabilities=NESTED),
    "probabilities of fewer options": _row(probabilities=[0.5, 0.5]),
    "probabilities huge": _row(probabilities=[10**400, 0, 0, 0]),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_folder_is_refused_in_one_line(
    evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = Path(shutil.copytree(evaluated[0], tmp_path / "run"))
    FORGED[kind](folder)
    outputs = ("--csv", tmp_path / "b.csv", "--json", tmp_path / "b.json", "--html", tmp_path / "b.html")
    assert leaderboard(folder, *outputs) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and len(line) < 1000
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in line)
    assert not list(tmp_path.glob("b.*"))


def test_as_many_kinds_as_the_campaign_asks_for() -> None:
    assert len(FORGED) >= 60


def test_letters_are_read_anew_from_the_answers(evaluated: list[Path], tmp_path: Path) -> None:
    """A model that is always wrong, whose letters and numbers say that it is always right."""

    def wrong(rows: list[dict]) -> list[dict]:
        return [row | {"raw": _other(row), "parsed": row["gold"], "cut_off": True} for row in rows]

    folder = edited(evaluated[0], tmp_path / "run", rows=wrong)
    content = board(tmp_path, f"m={folder}", "--md", tmp_path / "board.md")
    for measure, condition in (("worst_case", None), ("accuracy", "clean"), ("cut_off", None)):
        assert number(content, "m", DIGITS, measure, condition)["value"] == 0
    n = len(samples(folder))
    said = f"{n} letters of m, read anew from its answers, are others than logged."
    assert said in (tmp_path / "board.md").read_text(encoding="utf-8")
    result = read_run(folder)[DIGITS]
    assert result.numbers["worst_case"] == result.numbers["cut_off"] == 0 and result.read_anew == n


def _other(row: dict) -> str:
    return "ABCD"["ABCD".index(row["gold"]) - 1]


def test_thoughts_and_given_back_prompts_are_left_out_as_they_were(evaluated: list[Path], tmp_path: Path) -> None:
    def rewritten(rows: list[dict]) -> list[dict]:
        return [row | {"raw": f"{row['input']}[T]It is {_other(row)}.[/T]{row['gold']}", "parsed": "A"} for row in rows]

    folder = edited(evaluated[0], tmp_path / "run", lambda c: c.update(reasoning_tags=[["[T]", "[/T]"]]), rewritten)
    assert number(board(tmp_path, f"m={folder}"), "m", DIGITS, "worst_case")["value"] == 1


def _old(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "options"} for row in rows]


def test_results_without_options_have_them_from_the_prompts(evaluated: list[Path], tmp_path: Path) -> None:
    """Old ones have none, and whoever forges letters could leave them out."""
    folder = edited(evaluated[0], tmp_path / "run", rows=_old)
    found, kept = board(tmp_path, f"m={folder}"), board(tmp_path, f"m={evaluated[0]}")
    assert found["numbers"] == kept["numbers"]
    options = [[row.options for row in read_run(one)[DIGITS].records] for one in (folder, evaluated[0])]
    assert options[0] == options[1]

    def wrong(rows: list[dict]) -> list[dict]:
        return [row | {"raw": _other(row), "parsed": row["gold"]} for row in _old(rows)]

    forged = edited(evaluated[0], tmp_path / "forged", rows=wrong)
    assert number(board(tmp_path, f"m={forged}"), "m", DIGITS, "worst_case")["value"] == 0


@pytest.mark.parametrize("options", [("x", "y"), ("one\nof two lines", "B", "A: x"), tuple(map(str, range(26)))])
@pytest.mark.parametrize("context", ["", "A: a\nB: b\nC: c"])
def test_options_of_a_prompt_are_those_of_its_item(options: tuple[str, ...], context: str) -> None:
    item = Item("q", "text_heavy", "Which?", options[0], options, context=context, context_after="It rains.")
    assert _listed(user_text(item)) == list(options)


def test_nothing_that_is_read_reaches_a_network(
    evaluated: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results that name a hub data set, and a page with all that a board can show."""

    def refuse(*arguments: object, **_: object) -> None:
        raise AssertionError(f"a connection to {arguments[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("create_connection", "getaddrinfo", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)

    def named(config: dict) -> None:
        config["dataset_kwargs"].update(source="food101", path="https://example.org/data.parquet")
        config["dataset_path"] = "https://example.org/data"

    hub = edited(evaluated[1], tmp_path / "hub", named)
    load.cache_clear()
    outputs = ("--csv", tmp_path / "b.csv", "--json", tmp_path / "b.json", "--md", tmp_path / "b.md")
    page = ("--html", tmp_path / "b.html", "--plots", tmp_path / "plots")
    assert leaderboard(f"one={evaluated[0]}", f"two={hub}", "--baseline", "one", *outputs, *page) == 0
    assert read_run(hub) and (tmp_path / "b.html").stat().st_size > 1000
    with pytest.raises(AssertionError, match="a connection to"):
        socket.create_connection(("127.0.0.1", 9))


def test_gold_that_differs_from_model_to_model_is_refused(
    evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever changes gold everywhere in a folder still stands beside others who were asked the same items."""

    def easy(rows: list[dict]) -> list[dict]:
        return [row | {"gold": row["parsed"], "target": row["parsed"]} for row in rows if row["condition"] == "clean"]

    def only_clean(config: dict) -> None:
        config["dataset_kwargs"]["conditions"] = ["clean"]
        config["metadata"]["condition_versions"] = {"clean": 1}

    def clean(rows: list[dict]) -> list[dict]:
        return [row for row in rows if row["condition"] == "clean"]

    one = edited(evaluated[0], tmp_path / "one", only_clean, clean)
    other = edited(evaluated[1], tmp_path / "other", only_clean, easy)
    assert leaderboard(f"one={one}", f"two={other}") == 2
    assert "one and two cannot be compared on mmi_demo_digits: field 'gold' is " in capsys.readouterr().err


def test_names_of_folders_reach_neither_terminal_nor_spreadsheet_as_they_are(
    evaluated: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "=1\n\x1b]0;owned\x07\udcff"]
    folders = [Path(shutil.copytree(evaluated[0], tmp_path / str(i))) for i in range(len(names))]
    for folder, name in zip(folders, names, strict=True):
        next(folder.glob("*__model")).rename(folder / name)
    outputs = ("--csv", tmp_path / "board.csv", "--json", tmp_path / "board.json", "--md", tmp_path / "board.md")
    assert leaderboard(*folders, *outputs, "--html", tmp_path / "board.html") == 0
    said = capsys.readouterr()
    assert not set("\x1b\x07\r") & set(said.out + said.err)
    with (tmp_path / "board.csv").open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert {row["model"][:2] for row in rows} == {f"'{first}" for first in "=+-@\t⟨"}
    drops = [float(row["low"]) for row in rows if row["measure"] == "drop"]
    assert min(drops) < 0, "numbers stay numbers"
    assert leaderboard(tmp_path / "\x1b[2Jx\ny") == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and "\x1b" not in line


def test_an_argument_that_is_no_name_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    for argument in ("x" * 5000, f"a={'x' * 5000}"):
        assert leaderboard(argument) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
