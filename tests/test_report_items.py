"""The page in a real browser: its ranking, and items searched, linked to, side by side, from files beside it."""

from __future__ import annotations

import json
import re
import shutil
from hashlib import sha256
from html import unescape
from pathlib import Path

import pytest

from mmi_plugin.report import items, page
from mmi_plugin.sources import load
from tests.leaderboard_boards import DIGITS, edited, leaderboard, samples
from tests.report_pages import HOSTILE
from tests.test_leaderboard_page import digest
from tests.test_report_browser import CHROMIUM, browse

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")

MARKED = "misleading_text"


def driven(path: Path, driver: str, fragment: str = "", width: int = 1280) -> dict:
    """Return what a script that ends with `return` says of a page, whose own policy holds but for this script."""
    script = f"setTimeout(() => {{ document.title = JSON.stringify((() => {{ {driver} }})()); }}, 1000);"
    source = path.read_text(encoding="utf-8").replace("script-src '", f"script-src 'sha256-{digest(script)}' '")
    copy = path.with_name("driven.html")
    copy.write_text(source.replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    document = browse(copy, "--dump-dom", "--virtual-time-budget=5000", f"--window-size={width},1600", at=fragment)
    return json.loads(unescape(re.findall(r"<title>(.*?)</title>", document)[0]))


@pytest.fixture(scope="module")
def path(evaluated: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("items") / "board.html"
    for name in ("board.html.items-0-7.js", "other.html.items-0-0.js"):
        made.with_name(name).touch()
    named = [
        f"{name}={run}" for name, run in zip(("a-name-as-long-as-those-of-models-are", "two"), evaluated, strict=True)
    ]
    assert leaderboard(*named, "--baseline", "two", "--html", made) == 0
    return made


def test_the_ranking_fits_its_box(path: Path) -> None:
    found = driven(
        path,
        "const box = document.querySelector('.ranking').parentElement;"
        "return {needs: box.scrollWidth, has: box.clientWidth, wide: innerWidth, page: document.body.scrollWidth,"
        "        columns: document.querySelectorAll('.ranking thead th').length};",
    )
    assert found["columns"] == 10 and found["wide"] == 1280 and found["page"] <= 1280
    assert found["needs"] <= found["has"], "the last columns are cut"


CARDS = """
const cards = [...document.querySelectorAll("#browser article")];
const text = (node) => node.textContent;
return {
  count: text(document.getElementById("browse-count")),
  titles: cards.map((card) => text(card.querySelector("h3 bdi"))),
  linked: cards.filter((card) => card.classList.contains("linked")).map((card) => ({
    title: text(card.querySelector("h3 bdi")),
    gold: text(card.querySelector("p bdi")),
    marks: [...card.querySelectorAll("mark")].map(text),
    prompts: [...card.querySelectorAll(".prompt")].map(text),
    heads: [...card.querySelectorAll("h4")].map(text),
    answers: [...card.querySelectorAll("td")].map((cell) => text(cell.querySelector("bdi"))),
    top: Math.round(card.getBoundingClientRect().top),
    link: card.querySelector("a").getAttribute("href"),
  })),
};"""


def _rows(folder: Path, item: str) -> dict[str, dict]:
    return {row["condition"]: row for row in samples(folder) if row["item_id"] == item}


def _named(row: dict, letter: str | None) -> str:
    return "no option" if letter is None else f"{letter}: {row['options']['ABCD'.index(letter)]}"


def test_a_link_opens_one_item_under_one_condition(path: Path, evaluated: list[Path]) -> None:
    item = load("demo_digits").items[11].id
    fragment = f"#task={DIGITS}&item={item}&condition=misleading+text"
    (card,) = driven(path, CARDS, fragment)["linked"]
    rows = _rows(evaluated[1], item)
    reference, asked = rows["clean"]["input"], rows[MARKED]["input"]
    assert card["title"] == item and card["link"] == fragment and -1 <= card["top"] < 1600
    assert card["prompts"] == [asked] and asked.endswith(reference)
    assert card["marks"] == [asked.removesuffix(reference)]
    assert card["gold"] == _named(rows[MARKED], rows[MARKED]["gold"])
    models = [_rows(folder, item) for folder in evaluated]
    said = [[_named(row[name], row[name]["parsed"]) for name in ("clean", MARKED)] for row in models]
    assert sorted([card["answers"][:2], card["answers"][2:]]) == sorted(said)


def test_all_conditions_of_an_item_stand_side_by_side(path: Path, evaluated: list[Path]) -> None:
    item = load("demo_digits").items[3].id
    (card,) = driven(path, CARDS, f"#task={DIGITS}&item={item}&condition=all")["linked"]
    rows = _rows(evaluated[0], item)
    assert [head.replace(" ", "_") for head in card["heads"]] == list(rows)
    assert card["prompts"] == [row["input"] for row in rows.values()]
    assert len(card["marks"]) == 3 and len(card["answers"]) == 2 * len(rows)


def test_a_link_to_nothing_says_so(path: Path) -> None:
    found = driven(path, CARDS, f"#task={DIGITS}&item=%3Cimg%20src=x%3E")
    assert "There is no item <img src=x>." in found["count"] and not found["linked"]


def test_search_finds_ids_and_texts(path: Path, evaluated: list[Path]) -> None:
    rows = samples(evaluated[0])
    item = rows[-1]["item_id"]
    word = next(row for row in rows if row["condition"] == "ocr_text")["input"].splitlines()[1]
    driver = """
    const box = document.getElementById("browse-search");
    return WORDS.map((words) => {
      box.value = words;
      box.dispatchEvent(new Event("input"));
      return [...document.querySelectorAll("#browser h3 bdi")].map((node) => node.textContent);
    });"""
    by_id, by_text, none = driven(path, driver.replace("WORDS", json.dumps([item.upper(), word, "no such words"])))
    holding = {row["item_id"] for row in rows if word.lower() in row["input"].lower()}
    assert (by_id, set(by_text), none) == ([item], holding, []) and 0 < len(holding) < 15


def test_printing_opens_every_table_and_closes_it_again(path: Path) -> None:
    driver = """
    const state = () => [...document.querySelectorAll("details")].map((one) => one.open);
    const before = state(); dispatchEvent(new Event("beforeprint"));
    const printed = state(); dispatchEvent(new Event("afterprint"));
    return {before, printed, after: state()};"""
    found = driven(path, driver)
    assert found == {"before": [True, False, False], "printed": [True] * 3, "after": [True, False, False]}


@pytest.mark.long
@pytest.mark.parametrize("by", ["script", "style"])
def test_paper_shows_every_table(path: Path, tmp_path: Path, by: str) -> None:
    """Either way alone, of those that open them, makes more pages than neither."""

    def pages(*gone: str) -> int:
        source = path.read_text(encoding="utf-8")
        style, script = (re.findall(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)[0] for tag in ("style", "script"))
        for old in (style, script):
            new = old
            for name in gone:
                new = new.replace(name, "x")
            source = source.replace(old, new).replace(digest(old), digest(new))
        copy = tmp_path / f"{len(gone)}.html"
        copy.write_text(source, encoding="utf-8")
        browse(copy, f"--print-to-pdf={copy.with_suffix('.pdf')}")
        return len(re.findall(rb"/Type /Page\b(?!s)", copy.with_suffix(".pdf").read_bytes()))

    names = {"script": "beforeprint", "style": "::details-content"}
    other = names["style" if by == "script" else "script"]
    assert pages(other) > pages(*names.values()) > 0


@pytest.fixture(scope="module")
def parts(evaluated: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page that holds 9 of 15 items, and the others in two files; their texts attack it."""

    def spoil(rows: list[dict]) -> list[dict]:
        return [row | {"raw": HOSTILE[1] + HOSTILE[0], "input": f"{row['input']}{HOSTILE[2]}\u2028"} for row in rows]

    folder = tmp_path_factory.mktemp("parts")
    run, made = edited(evaluated[0], folder / "run", rows=spoil), folder / "page" / "board #1?.html"
    with pytest.MonkeyPatch.context() as patch:
        for module in (items, page):
            patch.setattr(module, "ITEMS", 9)
        patch.setattr(page, "PART", 4)
        assert leaderboard(f"one={run}", "--html", made) == 0
    return made


def _beside(path: Path) -> list[Path]:
    return sorted(path.parent.glob("board #1?.html.items-*.js"))


def test_further_items_come_from_files_beside_the_page(parts: Path, path: Path) -> None:
    files = [file.read_text("utf-8") for file in _beside(parts) if ".items-0-" in file.name]
    named = [json.loads(re.fullmatch(r'mmiItems\(0, "\w+", (.*)\);\n', file)[1]) for file in files]
    further = [item["id"] for one in named for item in one["items"]]
    assert [len(one["items"]) for one in named] == [4, 2] and "<" not in files[0]
    found = driven(parts, CARDS, f"#task={DIGITS}&item={further[-1]}&condition=clean")
    assert [card["title"] for card in found["linked"]] == [further[-1]], "in the second file"
    assert found["count"].startswith("15 of 15 items, page 1 of 1.") and set(further) < set(found["titles"])
    assert found["linked"][0]["prompts"][0].endswith(f"{HOSTILE[2]}⟨U+2028⟩")
    assert "'strict-dynamic'" in parts.read_text("utf-8") and "'strict-dynamic'" not in path.read_text("utf-8")


@pytest.mark.parametrize("damage", ["gone", "other"])
def test_a_file_that_is_gone_or_of_another_page_is_said(parts: Path, tmp_path: Path, damage: str) -> None:
    copy = shutil.copytree(parts.parent, tmp_path / "page") / parts.name
    file = _beside(copy)[0]
    if damage == "gone":
        file.unlink()
    else:
        file.write_text(re.sub(r'"\w{64}"', f'"{sha256(b"").hexdigest()}"', file.read_text("utf-8")), "utf-8")
    found = driven(copy, CARDS, f"#task={DIGITS}&item=nowhere&condition=clean")
    assert f"{file.name} is not beside this page, or of another one." in found["count"]
    assert found["count"].startswith("9 of 9 items (of 15 in all")


def test_files_of_an_earlier_page_go(path: Path) -> None:
    assert [file.name for file in path.parent.glob("*.js")] == ["other.html.items-0-0.js"]
