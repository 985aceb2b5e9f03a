"""Facts, sentences on an item's wrong options, from its data set, from templates or from a file; checked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmi_plugin.answers import mentions
from mmi_plugin.conditions.text import template_fact
from mmi_plugin.errors import InputError
from mmi_plugin.files import is_text, json_lines, parse_json, read_bytes
from mmi_plugin.item import Item
from mmi_plugin.sources.registry import Benchmark


def template_facts(options: Sequence[str], answer: str) -> dict[str, str]:
    """Return wrong option -> its template fact."""
    return {option: template_fact(option) for option in options if option != answer}


def fact_map(facts: Any, where: str, padded: bool = False) -> dict[str, str]:
    """Return a row's map from option to sentence. `padded`: without the nulls and empty texts that fill up a table.

    Raises InputError that begins with `where` for anything else.
    """
    kinds = (str, type(None)) if padded else str
    if not isinstance(facts, dict) or not all(isinstance(text, kinds) for text in facts.values()):
        raise InputError(f"{where}: field 'facts' is not a map from option to text")
    if not all(is_text(part) for fact in facts.items() for part in fact if part):
        raise InputError(f"{where}: field 'facts' is not UTF-8, or has a lone surrogate")
    return {option: text for option, text in facts.items() if text or not padded}


Facts = Mapping[str, str]
"""Wrong option -> a sentence on it."""


class FactsFile:
    """A `.jsonl` file of {"id", "facts": {wrong option: sentence}, "model"} that only ever grows.

    `facts`: item id -> its facts. A last line without its end, as a kill leaves it, does not count
    and is overwritten by the next `add`. Raises InputError that names file, row and field.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.facts: dict[str, Facts] = {}
        try:
            data = read_bytes(path) if path.exists() else b""
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
        self._whole = data.rfind(b"\n") + 1  # bytes
        for number, line in json_lines(data[: self._whole]):
            self._take(line, f"{path}, row {number}")

    def _take(self, line: bytes, where: str) -> None:
        row = parse_json(line, where)
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not is_text(row["id"]):
            raise InputError(f"{where}: field 'id' is missing or no text")
        facts = fact_map(row.get("facts"), where)
        if row["id"] in self.facts:
            raise InputError(f"{where}: field 'id' {row['id']!r} is there twice")
        self.facts[row["id"]] = facts

    def add(self, item: Item, facts: Facts, model: str) -> None:
        """Append the facts on one item; they are on disk when this returns."""
        line = json.dumps({"id": item.id, "facts": facts, "model": model}, ensure_ascii=False).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("r+b" if self._path.exists() else "wb") as file:
            file.seek(self._whole)
            file.truncate()
            file.write(line)
        self._whole += len(line)
        self.facts[item.id] = facts


@lru_cache(maxsize=8)
def with_facts(bench: Benchmark, path: Path) -> Benchmark:
    """Return the benchmark with the facts of a file in place of its own.

    Raises InputError for an item that the file lacks, a fact on what is no wrong option of its
    item, and a fact that names the right answer.
    """
    if not path.is_file():
        raise InputError(f"facts {str(path)!r}: no such file")
    facts = FactsFile(path).facts
    return replace(bench, items=tuple(_with(item, facts, path) for item in bench.items))


def _with(item: Item, facts: Mapping[str, Facts], path: Path) -> Item:
    if item.id not in facts:
        raise InputError(f"{path}: item {item.id} is missing; finish the file with `mmi data facts`")
    check_facts(item, facts[item.id], path)
    return replace(item, facts=facts[item.id])


def check_facts(item: Item, facts: Facts, path: Path) -> None:
    """Raise an InputError unless every fact is a text on a wrong option that does not name the answer."""
    for option, fact in facts.items():
        if option not in item.wrong_options:
            raise InputError(f"{path}: item {item.id}: {option!r} is none of its wrong options")
        where = f"{path}: item {item.id}: the fact on {option!r}"
        if not fact.strip():
            raise InputError(f"{where} is empty")
        if mentions(fact, item.answer):
            raise InputError(f"{where} names the answer {item.answer!r}: {fact!r}")
