"""The site as `make docs` has built it, strictly, in $MMI_SITE: whole, and without anything of other hosts."""

from __future__ import annotations

import os
import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import mmi_plugin as mmi

pytestmark = pytest.mark.skipif("MMI_SITE" not in os.environ, reason="make docs builds the site, and runs this")
PAGES = (
    *("index", "diagnose", "mitigate", "data", "conditions", "method", "paper", "statistics", "api", "gpu", "limits"),
    *("published", "ablations", "architecture", "baselines"),
)
LOADS = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src"}


class Page(HTMLParser):
    """What a page loads, where it leads, and the places in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}
        if found.get(LOADS.get(tag)):
            self.loads.append(found[LOADS[tag]])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


def site() -> Path:
    return Path(os.environ["MMI_SITE"])


@cache
def page(file: Path) -> Page:
    return Page(file.read_text(encoding="utf-8"))


def pages() -> list[Path]:
    return [file for file in sorted(site().rglob("*.html")) if file.name != "404.html"]  # whose links are absolute


def test_every_page_is_there() -> None:
    assert [name for name in PAGES if not (site() / f"{name}.html").is_file()] == []


def test_nothing_is_loaded_from_another_host() -> None:
    loaded = {address for file in pages() for address in page(file).loads}
    assert loaded and {address for address in loaded if urlsplit(address).netloc} == set()
    styles = "".join(file.read_text(encoding="utf-8") for file in site().rglob("*.css"))
    assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']*", styles) == []


def test_every_link_within_the_site_leads_to_a_page_and_a_place_on_it() -> None:
    broken = []
    for file in pages():
        for link in {*page(file).links, *page(file).loads}:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in page(target).places):
                broken.append(f"{file.name}: {link}")
    assert broken == []


def test_every_public_name_is_described() -> None:
    described = page(site() / "api.html").places
    named = {name.rpartition(".")[2] for name in described if name.startswith("mmi_plugin.")}
    assert set(mmi.__all__) <= named
    assert {"Results.records", "Results.numbers", "Results.save_page"} <= {
        ".".join(name.split(".")[-2:]) for name in described
    }


def test_parts_of_the_readme_and_of_the_code_are_on_the_pages() -> None:
    def said(name: str) -> str:
        return (site() / f"{name}.html").read_text(encoding="utf-8")

    assert "make demo" in said("index") and "mmi_image_heavy" in said("diagnose") and "L_sft" in said("mitigate")
    assert "shouted_text" in said("data") and "delta" in said("method") and "min floor" in said("method")
    assert not any("--8&lt;--" in said(name) or "--8<--" in said(name) for name in PAGES)
