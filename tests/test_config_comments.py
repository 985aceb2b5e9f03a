"""Figures in the comments of configs are those of their sources: of a named document, or of the file itself."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
CONFIGS = Path(str(resources.files("mmi_plugin.configs")))
FILES = sorted(CONFIGS.rglob("*.yaml"))
SOURCED = re.compile(r"([^()]*)\(((?:README|docs/\w+\.md)(?:, (?:README|docs/\w+\.md))*)\)")
FIGURE = re.compile(r"(?<![\w.:/@-])\d+(?:[.:x ]+\d+)*(?![\w:-])(?: \w+)?")


def said(path: Path) -> str:
    """The comments of a file without the commands among them."""
    kept, command = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            text = line[1:].strip()
            command = command or text.startswith(("accelerate ", "mmi "))
            kept += [] if command else [text]
            command = command and text.endswith("\\")
    return " ".join(kept)


def words(source: str) -> str:
    file = ROOT / ("README.md" if source == "README" else source)
    return " ".join(file.read_text(encoding="utf-8").split())


def of_the_file(figure: str, fields: dict[str, Any]) -> bool:
    """Whether a figure is a value of the file: "8 items", "2:2:4", "448 x 448 pixels", "8 GPUs", "1 on"."""
    number, _, unit = figure.rpartition(" ") if figure[-1].isalpha() else (figure, "", "")
    if ":" in number:
        return list(map(int, number.split(":"))) == fields["mix"]
    if unit == "pixels":
        width, height = map(int, number.split(" x "))
        return fields["processor_kwargs"]["max_pixels"] == width * height
    if unit == "items":
        return int(number) == fields["per_device_train_batch_size"]
    if unit == "GPUs":
        return int(number) == fields["num_processes"] // fields["num_machines"]
    if unit == "on":  # the rank of a machine
        return int(number) < fields["num_machines"]
    return number == "0"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_figure_is_that_of_its_source(path: Path) -> None:
    text, fields = said(path), yaml.safe_load(path.read_text(encoding="utf-8"))
    for clause, sources in SOURCED.findall(text):
        for figure in FIGURE.findall(clause):
            assert any(re.search(rf"(?<![\w.]){figure}\b", words(one)) for one in sources.split(", ")), figure
    for figure in FIGURE.findall(SOURCED.sub(" ", text)):
        assert of_the_file(figure, fields), f"{figure!r} in {text!r} names no source"


def test_a_stale_figure_would_be_seen() -> None:
    path = CONFIGS / "llava-1.5-7b" / "recommended.yaml"
    ((clause, sources), *_) = SOURCED.findall(said(path))
    assert sources == "README" and FIGURE.findall(clause) == ["6.8 points"]
    assert "6.8 points" in words("README") and not re.search(r"(?<![\w.])6.9 points\b", words("README"))
