"""Made-up records of known shape, and the statistics over them counted in the slow, obvious way."""

from __future__ import annotations

import random

from mmi_plugin.results import Record
from mmi_plugin.results.outcomes import Outcomes

CONDITIONS = ("clean", "unrelated_text", "misleading_text", "ocr_text")


def records(n: int = 60, seed: int = 0, right: float = 0.6, probabilities: bool = False) -> list[Record]:
    """Answers to `n` image-heavy items with four options: right, wrong, as the text says, or unparseable."""
    rng = random.Random(seed)
    found = []
    for index in range(n):
        gold = "ABCD"[index % 4]
        for condition in CONDITIONS:
            named = "ABCD"[(index + 1) % 4] if condition == "misleading_text" else None
            parsed = gold if rng.random() < right else rng.choice(["A", "B", "C", "D", None, named])
            weights = [rng.random() if rng.random() < 0.8 else 0.0 for _ in range(3)] + [0.1]
            shares = [weight / sum(weights) for weight in weights] if probabilities else None
            found.append(Record(f"item-{index:03}", condition, 0, gold, parsed, parsed or "?", named, shares))
    return found


def outcomes(found: list[Record], **more: object) -> Outcomes:
    return Outcomes.of("task", "image_heavy", CONDITIONS, found, **more)


def by_item(found: list[Record]) -> dict[str, dict[str, Record]]:
    groups: dict[str, dict[str, Record]] = {}
    for record in found:
        groups.setdefault(record.item_id, {})[record.condition] = record
    return groups
