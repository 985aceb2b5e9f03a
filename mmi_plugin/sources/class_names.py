"""Names of classes as people say them."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

_WNID = re.compile(r"n\d{8}")


@lru_cache
def wordnet_names() -> dict[str, str]:
    """WordNet id -> first lemma ("n02119789" -> "kit fox"), from the table that timm ships."""
    folder = Path(find_spec("timm").submodule_search_locations[0])  # without importing timm
    text = (folder / "data" / "_info" / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8")
    pairs = (line.split("\t", 1) for line in text.splitlines() if line)
    return {wnid: lemmas.split(",")[0].strip() for wnid, lemmas in pairs}


def readable(name: str) -> str:
    """Return a class name in words: WordNet ids looked up, underscores as spaces."""
    if _WNID.fullmatch(name):
        return wordnet_names().get(name, name)
    return name.replace("_", " ").strip()


def class_names(data: Dataset, column: str) -> list[str]:
    """Return the raw names of all classes, in the order of their labels or of the alphabet."""
    feature = data.features[column]
    return feature.names if hasattr(feature, "names") else sorted({str(name) for name in data[column]})
