"""README and docs/: links lead somewhere, commands are as written, nothing is said twice, pictures are of today."""

from __future__ import annotations

import argparse
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from PIL import Image

from benchmarks import pictures
from mmi_plugin.cli import parser
from mmi_plugin.conditions import get
from mmi_plugin.errors import InputError
from mmi_plugin.harness.flags import _upstream
from mmi_plugin.harness.launcher import OURS
from mmi_plugin.item import FAMILIES
from mmi_plugin.trainers.config import MMIConfig
from mmi_plugin.trainers.named import find_config
from tests import floors

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")] + sorted(DOCS.glob("*.md"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`]+)`")
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("mmi", "lmms_eval", "python", "accelerate", "make", "bash", "pip")
NOT_TASKS = {"mmi_plugin", "mmi_hf", "mmi_own"}
SHARED_WORDS = 12  # in a row: what two texts may not have in common


def said(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(FENCED.sub("", said(page)))]
    inner = [link for link in links if link and not re.match(r"\w+:", link)]
    assert [link for link in inner if not (page.parent / link).exists()] == []


def test_the_readme_is_short_and_leads_to_every_page() -> None:
    assert len(said(ROOT / "README.md").splitlines()) < 200
    linked = set(LINK.findall(said(ROOT / "README.md")))
    through = {"docs/index.md", "docs/published.md"}  # which is README again; named by docs/paper.md
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} - through <= linked


def commands(text: str, within: bool = True) -> Iterator[list[str]]:
    """Yield the words of every command in code blocks and, `within` lines, in code, without comments and options
    that stand for any."""
    blocks = [line[4:] for line in text.replace("\\\n", " ").splitlines() if line.startswith("    ")]
    spans = [" ".join(span.split()) for span in CODE.findall(FENCED.sub("", text))] if within else []
    for code in [*blocks, *spans]:
        for part in re.split(r" \| |&& ", code):
            part = re.sub(r"^\s*(?:[A-Z_]+=\S+ )+", "", re.sub(r"\[[^\]]*\.\.\.\]", "", part)).strip()
            if part.split(" ", 1)[0] in PROGRAMS:
                yield shlex.split(part, comments=True)


def comments(file: Path) -> str:
    """Return the comments of a config as code blocks."""
    lines = [line[1:].strip() for line in said(file).splitlines() if line.startswith("#")]
    return "\n".join(f"    {line}" for line in lines)


@cache
def task_names() -> frozenset[str]:
    """Tasks and groups, and what all names of some begin with."""
    loaded = [yaml.safe_load(said(file).replace("!function", "")) for file in (ROOT / "tasks").glob("*.yaml")]
    named = [one.get("group") or one["task"] for one in loaded]
    return frozenset("_".join(name.split("_")[:count]) for name in named for count in range(2, 2 + name.count("_")))


@cache
def config_fields() -> frozenset[str]:
    return frozenset(f"--{field.name}" for field in fields(MMIConfig))


@cache
def flags_of_lmms_eval() -> frozenset[str]:
    return frozenset({*_upstream()[0].values(), *OURS, "--help"})


def subparser(words: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser of a command of `mmi` and the words that are left for it."""
    found = parser()
    while words:
        choices = next((a.choices for a in found._actions if isinstance(a, argparse._SubParsersAction)), None)
        if choices is None:
            break
        assert words[0] in choices, f"{words[0]}: no command of {found.prog}"
        found, words = choices[words[0]], words[1:]
    return found, words


def check(words: list[str]) -> None:
    """Assert that a command and its flags exist."""
    program, rest = words[0], words[1:]
    if program == "python" and rest[:2] == ["-m", "lmms_eval"]:
        program, rest = "lmms_eval", rest[2:]
    flags = {word.partition("=")[0] for word in rest if re.match(r"--\w", word)}
    assert [
        word for word in rest if re.match(r"(configs|docs|benchmarks|tests)/", word) and not (ROOT / word).exists()
    ] == []
    if program == "mmi":
        found, left = subparser(rest)
        known = set(found._option_string_actions)
        if left and left[0] != "NAME" and found.prog.endswith(" train") and left[0] not in ("CONFIG", "--help"):
            find_config(left[0])
        fields_too = {"train", "sweep-train"} & set(found.prog.split())
        assert flags <= known | (config_fields() | {"--help"} if fields_too else set()), flags
    elif program == "lmms_eval":
        assert flags <= flags_of_lmms_eval(), flags - flags_of_lmms_eval()
        assert not rest or rest[0].startswith("-") or rest[0] in ("tasks", "models", "power", "eval"), rest
    elif program == "accelerate":
        place = next(place for place, word in enumerate(rest) if word.endswith(".py"))
        assert rest[0] == "launch" and (ROOT / rest[place]).is_file()
        theirs = {word for word in rest[:place] if word.startswith("--")}
        assert theirs <= set(launch_command_parser()._option_string_actions), theirs
        assert flags - theirs <= config_fields() | {"--config"}, flags
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", said(ROOT / "Makefile"), re.MULTILINE)
        assert set(rest) <= set(targets), rest
    elif program == "pip":
        extras = {name for word in rest for name in re.findall(r"\[(\w+)\]", word)}
        assert extras <= set(floors.settings()["project"]["optional-dependencies"]), extras
    elif rest and rest[0] != "-c":
        script = rest[1].replace(".", "/") + ".py" if rest[0] == "-m" else rest[0]
        assert (ROOT / script).is_file(), script
        assert [flag for flag in flags if flag not in said(ROOT / script)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists_with_its_flags(page: Path) -> None:
    for words in commands(said(page)):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_mmi_is_given_in_code_blocks_is_all_that_it_needs(page: Path) -> None:
    for words in commands(said(page), within=False):
        if words[0] == "mmi":
            _, rest = parser().parse_known_args(words[1:])  # or SystemExit
            assert not rest or words[1] in ("train", "sweep-train"), rest


def test_the_commands_in_the_comments_of_configs_exist() -> None:
    found = {file: list(commands(comments(file), within=False)) for file in CONFIGS}
    assert sum(map(len, found.values())) > 50
    for words in (words for of_file in found.values() for words in of_file):
        check(words)


def test_the_commands_of_the_readme_are_found() -> None:
    found = [" ".join(words) for words in commands(said(ROOT / "README.md"))]
    assert len(found) > 15 and "make demo" in found and "mmi configs" in found
    assert any(one.startswith("accelerate launch") and one.endswith("--output_dir OUT") for one in found)


@pytest.mark.parametrize(
    "wrong",
    [
        *("mmi leaderbord A", "mmi data facts T --outs F", "mmi train demo/ours --epss 1", "mmi eval --date q.csv"),
        *("mmi data build --config configs/data/papers.yaml", "mmi train demo/our"),
        *("lmms_eval --model mmi_hf --batchsize 1", "lmms_eval task list", "make demos", "bash benchmarks/cpu.sh"),
        *(
            "python -m benchmarks.pictures --to docs",
            "pip install 'mmi-plugin[lava]'",
            "accelerate launch trainers/t.py",
        ),
    ],
)
def test_a_wrong_command_would_be_seen(wrong: str) -> None:
    ((*words,),) = commands(f"    {wrong}   # so")
    with pytest.raises((AssertionError, InputError)):
        check(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_flag_task_and_file_that_is_named_exists(page: Path) -> None:
    text = said(page)
    known = flags_of_lmms_eval() | config_fields() | {"--config", "--help"}
    stack = [parser()]
    while stack:
        one = stack.pop()
        known |= set(one._option_string_actions)
        for action in one._actions:
            stack += action.choices.values() if isinstance(action, argparse._SubParsersAction) else []
    code = [span for span in CODE.findall(FENCED.sub("", text)) if span.split()[0] not in PROGRAMS]
    flags = {flag for span in code for flag in re.findall(r"(?<![\w-])--[a-z]\w*(?:-\w+)*", span)}
    assert flags - known == set()
    assert set(re.findall(r"\bmmi_[a-z0-9_]*[a-z0-9](?![\w*.])", text)) - NOT_TASKS - task_names() == set()
    for name in re.findall(r"\w+@[\w=@]+(?:\.\d[\w=@]*)*\b(?![=,])(?!\d*,)", text):
        assert get(name).name == name
    paths = re.findall(r"`((?:mmi_plugin|trainers|tasks|configs|benchmarks|tests|docs)/[\w./-]*)`", text)
    assert [path for path in paths if not (ROOT / path).exists()] == []


def shingles(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", FENCED.sub("", text))
    return {tuple(words[start : start + SHARED_WORDS]) for start in range(len(words) - SHARED_WORDS + 1)}


def test_no_page_says_what_readme_says() -> None:
    readme = shingles(said(ROOT / "README.md"))
    for page in DOCS.glob("*.md"):
        assert [" ".join(words) for words in sorted(readme & shingles(said(page)))] == [], page.name


def test_what_pages_take_from_elsewhere_is_there() -> None:
    taken = [part for page in DOCS.glob("*.md") for part in re.findall(r'^--8<-- "(.*)"$', said(page), re.MULTILINE)]
    assert len(taken) > 5
    for file, _, section in (part.partition(":") for part in taken):
        text = said(ROOT / file)
        assert not section or text.count(f"[start:{section}]") == text.count(f"[end:{section}]") == 1
        assert not section or not LINK.search(
            text.split(f"[start:{section}]")[1].split(f"[end:{section}]")[0].replace("](https://", "")
        ), f"{section}: a link that is relative to README"


def test_the_page_of_the_conditions_is_what_the_code_makes() -> None:
    assert said(DOCS / "conditions.md") == pictures.page()


def far(first: bytes, second: bytes) -> float:
    """Return the greatest mean difference of any panel-sized square of two pictures, of 255."""
    one, two = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float) for data in (first, second))
    if one.shape != two.shape:
        return 255.0
    side = 64
    apart = np.abs(one - two).mean(-1)
    rows, columns = (size // side * side for size in apart.shape)
    return float(apart[:rows, :columns].reshape(rows // side, side, columns // side, side).mean((1, 3)).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pictures_of_the_conditions_are_what_the_code_makes(family: str) -> None:
    kept = (DOCS / pictures.FOLDER / f"{family}.webp").read_bytes()
    assert len(kept) < 60_000
    assert far(kept, pictures.encoded(pictures.figure(family))) < 8  # letters and codecs differ a little by version


def test_another_picture_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = (DOCS / pictures.FOLDER / "text_heavy.webp").read_bytes()
    capital = pictures.examples()["text_heavy"]
    monkeypatch.setattr(pictures, "examples", lambda: {"text_heavy": type(capital)(**{**vars(capital), "id": "other"})})
    assert far(kept, pictures.encoded(pictures.figure("text_heavy"))) > 8
