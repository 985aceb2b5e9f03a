"""The leaderboard's page: its numbers, its items, and hostile text, also in headless Chromium."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mmi_plugin.documents import Selection
from mmi_plugin.sources import load
from tests.leaderboard_boards import DIGITS, board, edited, leaderboard, number, samples
from tests.report_pages import HOSTILE, Page
from tests.test_report_browser import CHROMIUM, browse, screenshot

in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def path(evaluated: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "board.html"
    one, two = evaluated
    assert leaderboard(f"one={one}", f"two={two}", "--baseline", "two", "--html", made) == 0
    return made


@pytest.fixture(scope="module")
def hostile(evaluated: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page over runs whose answers, prompts, item ids and names attack it; 1 MB among them."""
    folder = tmp_path_factory.mktemp("hostile")

    def spoil(rows: list[dict]) -> list[dict]:
        ids = sorted({row["item_id"] for row in rows})
        for row in rows:
            bad = HOSTILE[ids.index(row["item_id"]) % len(HOSTILE)]
            row.update(raw=bad, input=f"{bad}\nA: a\nB: b\nC: c\nD: d", item_id=f"{row['item_id']} {bad[:2000]}")
            del row["options"]  # which the prompt lists
        return rows

    runs = [edited(run, folder / f"run{index}", rows=spoil) for index, run in enumerate(evaluated)]
    names = "</script><script>document.title='owned'</script>".replace("=", "\u202e"), "<!--<script>"
    arguments = [f"{name}={run}" for name, run in zip(names, runs, strict=True)]
    assert leaderboard(*arguments, "--baseline", names[1], "--html", folder / "board.html") == 0
    return folder / "board.html"


def _items(source: str, index: int = 0) -> dict:
    (text,) = re.findall(rf'<script type="application/json" id="items-{index}">(.*?)</script>', source, re.DOTALL)
    return json.loads(text)


def digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def test_the_numbers_are_in_the_tables(path: Path, evaluated: list[Path], tmp_path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    content = board(tmp_path, *(f"{n}={f}" for n, f in zip(("one", "two"), evaluated, strict=True)))
    for task in content["tasks"]:
        for model in ("one", "two"):
            found = number(content, model, task, "worst_case")
            reach = f"[{100 * found['low']:.1f}, {100 * found['high']:.1f}]"
            shown = f'{100 * found["value"]:.1f} <span class="reach">{reach}</span>'
            assert f'data-value="{found["value"]}">{shown}<' in source
    assert "after Holm&#39;s correction over" in source and ">baseline<" in source
    page = Page(re.sub(r"<script.*?</script>", "", source, flags=re.DOTALL))
    assert len(page.all("details")) == 3 and len(page.all("img")) == 6, "two of dots, a heatmap, three bar charts"


def test_the_item_browser_has_the_exact_prompts_answers_and_pictures(path: Path, evaluated: list[Path]) -> None:
    data = _items(path.read_text(encoding="utf-8"))
    assert data["remark"] == "" and data["of"] == len(data["items"])
    order = data["models"]
    items = {item["id"]: item for item in data["items"]}
    for name, folder in zip(("one", "two"), evaluated, strict=True):
        for row in samples(folder):
            item = items[row["item_id"]]
            cell = item["cells"][data["conditions"].index(row["condition"].replace("_", " "))]
            letter, raw, _, score, _, follows = cell["answers"][order.index(name)]
            assert score == (row["parsed"] == row["gold"])
            assert follows == (row["named"] is not None and row["parsed"] == row["named"])
            assert (letter, data["texts"][raw], item["gold"]) == (row["parsed"], row["raw"], row["gold"])
            assert data["texts"][cell["prompt"]] == row["input"] and cell.get("named") == row["named"]
            assert data["images"][cell["image"]].startswith("data:image/png;base64,")
    digits = len({cell["image"] for item in data["items"] for cell in item["cells"]})
    assert digits == len(data["images"]) <= len(items), "one picture per digit, whatever the condition"


def test_without_the_data_set_the_page_says_so(evaluated: list[Path], tmp_path: Path) -> None:
    gone, other = ({"source": "<gone>"}, ["--pictures"]), ({}, [])
    for (options, flags), reason in (
        (gone, f"No pictures: {DIGITS}: unknown source '<gone>'"),
        (other, "No pictures: the data set at hand is not the one"),
    ):

        def change(config: dict, options: dict = options) -> None:
            config["dataset_kwargs"].update(options)
            config["metadata"]["content_hash"] = "0" * 64

        folder = edited(evaluated[0], tmp_path / f"run{len(reason)}", config=change)
        assert leaderboard(folder, "--html", tmp_path / "page.html", *flags) == 0
        data = _items((tmp_path / "page.html").read_text(encoding="utf-8"))
        assert data["remark"].startswith(reason) and not data["images"] and data["texts"]


@pytest.mark.parametrize(
    "options",
    [{"source": "mmmlu"}, {"pool": "/"}, {"facts": "/etc/passwd"}, {"source": "imagenet", "path": "/"}, {"draws": 1}],
)
def test_a_page_reads_nothing_that_only_the_results_name(
    evaluated: list[Path], tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not from a folder, not from the hub; the sources that are in the package are none of theirs."""

    parse = Selection.parse

    def watched(found: dict, split: str, task: str) -> Selection:
        assert task != DIGITS, "read"
        return parse(found, split, task)

    monkeypatch.setattr("mmi_plugin.report.items.Selection.parse", watched)
    folder = edited(evaluated[0], tmp_path / "run", config=lambda config: config["dataset_kwargs"].update(options))
    assert leaderboard(folder, "--html", tmp_path / "page.html") == 0
    data = _items((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "only with --pictures" in data["remark"] and not data["images"] and data["texts"]


def test_the_page_allows_nothing_but_its_own_style_and_script(path: Path, hostile: Path) -> None:
    for source in (path.read_text(encoding="utf-8"), hostile.read_text(encoding="utf-8")):
        (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="(.*?)"', source)
        (style,) = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
        (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
        assert policy.split("; ") == [
            "default-src 'none'",
            "img-src data:",
            f"style-src 'sha256-{digest(style)}'",
            f"script-src 'sha256-{digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
        assert "innerHTML" not in script and "eval(" not in script
        static = re.sub(r"<script.*?</script>", "", source, flags=re.DOTALL)
        assert source.count("<script") == 4 and not re.findall(r"\son\w+=", static)


def test_hostile_text_is_spelt_out_and_cut(hostile: Path) -> None:
    source = hostile.read_text(encoding="utf-8")
    for hidden in "\x00\x07\x1b\x7f\x9f\u202e\u2066\ufeff\u200f":
        assert hidden not in source and f"\\u{ord(hidden):04x}" not in source
    assert "1,000,000 characters in all" in source and not re.search("x{4001,}", source)


@in_chromium
def test_the_browser_shows_items_and_runs_nothing_foreign(hostile: Path) -> None:
    document = browse(hostile, "--dump-dom")
    assert "<title>Modality interference leaderboard</title>" in document
    cards = re.findall(r"<article>.*?</article>", document, re.DOTALL)
    assert len(cards) == len(load("demo_digits").items[:15])
    assert any("&lt;script&gt;document.title='owned'&lt;/script&gt;" in card for card in cards)
    assert not any(re.search(r"<(script|img[^>]*onerror)", card) for card in cards)
    assert "15 of 15 items" in document and 'class="sort"' in document


@in_chromium
@pytest.mark.parametrize("width", [1280, 400])
def test_it_renders_in_light_and_dark(path: Path, width: int) -> None:
    assert screenshot(path, width).getpixel((2, 2)) == (255, 255, 255)
    dark = screenshot(path, width, "--blink-settings=preferredColorScheme=0")
    assert dark.getpixel((2, 2)) == (0x14, 0x17, 0x1A)


DRIVER = """<script>
const pick = (id, text) => {
  const box = document.getElementById(id);
  box.value = [...box.options].find((option) => option.textContent === text).value;
  box.dispatchEvent(new Event("change"));
};
const begin = performance.now(), seen = {};
pick("browse-condition", "misleading text");
pick("browse-model", "two");
for (const [name, filter] of [["flipped", "answer flipped"], ["lost", "right to wrong"], ["won", "wrong to right"],
                              ["followed", "answer is what the text names"], ["differ", "models disagree"]]) {
  pick("browse-filter", filter);
  seen[name] = document.getElementById("browse-count").textContent.split(" ")[0];
}
pick("browse-model", "any model");
pick("browse-filter", "answer flipped");
seen.any = document.getElementById("browse-count").textContent.split(" ")[0];
pick("browse-filter", "all items");
document.getElementById("browse-next").click();
seen.page = document.getElementById("browse-count").textContent;
seen.cards = document.querySelectorAll("article").length;
const table = document.querySelector("table.sortable");
const head = [...table.querySelectorAll("th button")].find((button) => button.textContent === "flip rate");
const order = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent.trim().split(" ")[0]).join(" ");
head.click(); seen.down = order(); head.click(); seen.up = order();
seen.quick = performance.now() - begin < 2000;
document.title = JSON.stringify(seen);
</script>"""


@in_chromium
def test_filters_paging_and_sorting_on_a_thousand_items(evaluated: list[Path], tmp_path: Path) -> None:
    def many(rows: list[dict]) -> list[dict]:
        return [row | {"item_id": f"{row['item_id']}-{copy}"} for copy in range(70) for row in rows]

    runs = [edited(run, tmp_path / f"run{index}", rows=many) for index, run in enumerate(evaluated)]
    page = tmp_path / "board.html"
    arguments = [f"{name}={run}" for name, run in zip(("one", "two"), runs, strict=True)]
    assert leaderboard(*arguments, "--html", page) == 0
    source = page.read_text(encoding="utf-8")
    page.write_text(re.sub(r"<meta http-equiv[^>]*>", "", source).replace("</body>", DRIVER + "</body>"), "utf-8")
    (title,) = re.findall(r"<title>(.*?)</title>", browse(page, "--dump-dom"))
    seen = json.loads(title)
    kept = {item["id"] for item in _items(source)["items"]}
    assert len(kept) == 1000
    rows = [{(row["item_id"], row["condition"]): row for row in samples(run)} for run in runs]

    def count(keep: Callable[[dict, dict], bool], models: list[dict]) -> str:
        pairs = [[(r[item, "clean"], r[item, "misleading_text"]) for r in models] for item in kept]
        return str(sum(any(keep(old, new) for old, new in found) for found in pairs))

    def right(row: dict) -> bool:
        return row["parsed"] == row["gold"]

    def flipped(old: dict, new: dict) -> bool:
        return old["parsed"] != new["parsed"]

    two = rows[1:]
    assert seen["flipped"] == count(flipped, two) not in ("0", "1000") and seen["any"] == count(flipped, rows)
    assert seen["lost"] == count(lambda old, new: right(old) and not right(new), two)
    assert seen["won"] == count(lambda old, new: not right(old) and right(new), two)
    assert seen["followed"] == count(lambda old, new: new["parsed"] == new["named"], two)
    letters = [[r[item, "misleading_text"]["parsed"] for r in rows] for item in kept]
    assert seen["differ"] == str(sum(a != b for a, b in letters))
    assert "page 2 of 50" in seen["page"] and "of 1050 in all" in seen["page"] and seen["cards"] == 20
    content = board(tmp_path, *arguments)
    flips = {name: number(content, name, "all", "flip_rate")["value"] for name in ("one", "two")}
    down = " ".join(sorted(flips, key=flips.get, reverse=True))
    assert (seen["down"], seen["up"]) == (down, " ".join(down.split()[::-1])) and seen["quick"]


def test_the_figures_are_pictures(evaluated: list[Path], tmp_path: Path) -> None:
    assert leaderboard(f"$x^2$ {DIGITS}={evaluated[0]}", f"two={evaluated[1]}", "--plots", tmp_path / "plots") == 0
    found = {path.name for path in (tmp_path / "plots").iterdir()}
    names = {"dots_image_heavy", "dots_text_heavy", "heatmap", "bars_mmi_demo_arith"}
    assert {f"{name}.{kind}" for name in names for kind in ("png", "svg", "pdf")} < found
    assert all((tmp_path / "plots" / name).stat().st_size > 5000 for name in found)
