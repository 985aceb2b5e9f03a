"""The page shows hostile text as text, and allows itself nothing but its own style and script."""

from __future__ import annotations

import base64
import hashlib
import re

from mmi_plugin.report.page import to_html
from tests.report_demo import Demo, ablation
from tests.report_pages import HOSTILE, Page, example, hostile_source, page, without_scripts


def test_hostile_text_stays_text() -> None:
    source = hostile_source()
    clean, hostile = page(Demo(), [example()]), Page(without_scripts(source))
    assert source.count("<script") == to_html(Demo().board(), Demo().study([example()])).count("<script") == 4
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in clean.elements}
    assert not [name for _, attrs in hostile.elements for name in attrs if name.startswith("on")]
    assert HOSTILE[0] in hostile.all("mark") and "{{ 7*7 }}{% raw %}" in hostile.all("mark")
    for hidden in "\x00\x07\x1b\x7f\x9f\u202e\u2066\ufeff\u200f":
        assert hidden not in source and f"⟨U+{ord(hidden):04X}⟩" in source
    assert "1,000,000 characters in all" in source
    assert len(re.findall("x{1501,}", source)) == 1, "only the configuration is shown in full"


def test_the_page_needs_nothing_else_and_allows_nothing_else() -> None:
    demo = ablation()
    source = to_html(demo.board(), demo.study([example()]))
    found = Page(without_scripts(source))
    (policy,) = [attrs["content"] for _, attrs in found.elements if attrs.get("http-equiv")]
    (style,) = re.findall(r"<style>(.*?)</style>", source, re.DOTALL)
    (script,) = re.findall(r"<script>(.*?)</script>", source, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)]
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digests[0]}'",
        f"script-src 'sha256-{digests[1]}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in found.elements}
    assert not [attrs for _, attrs in found.elements if "style" in attrs or "href" in attrs]
    assert all(attrs["src"].startswith("data:") for _, attrs in found.elements if "src" in attrs)
    assert "url(" not in style and "@import" not in style and "http" not in style
