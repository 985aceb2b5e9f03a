"""The page shows hostile text as text, and allows itself nothing but its own style."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from tests.report_demo import ABLATION, demo
from tests.report_pages import HOSTILE, example, hostile_page, page


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    clean, hostile = page(tmp_path, demo(), [example()]), hostile_page(tmp_path)
    assert {tag for tag, _ in hostile.elements} <= {tag for tag, _ in clean.elements}
    assert not [name for _, attrs in hostile.elements for name in attrs if name.startswith("on")]
    assert HOSTILE[0] in hostile.all("mark") and "{{ 7*7 }}{% raw %}" in hostile.all("mark")
    for hidden in "\x00\x07\x1b\x7f\x9f\u202e\u2066\ufeff\u200f":
        assert hidden not in hostile.source and f"⟨U+{ord(hidden):04X}⟩" in hostile.source
    assert "1,000,000 characters in all" in hostile.source
    assert len(re.findall("x{1501,}", hostile.source)) == 1, "only the configuration is shown in full"


def test_the_page_needs_nothing_else_and_allows_nothing_else(tmp_path: Path) -> None:
    found = page(tmp_path, demo(ABLATION, 3), [example()])
    (policy,) = [attrs["content"] for _, attrs in found.elements if attrs.get("http-equiv")]
    (style,) = re.findall(r"<style>(.*?)</style>", found.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in found.elements}
    assert not [attrs for _, attrs in found.elements if "style" in attrs or "href" in attrs]
    assert all(attrs["src"].startswith("data:") for _, attrs in found.elements if "src" in attrs)
    assert "url(" not in style and "@import" not in style and "http" not in style
