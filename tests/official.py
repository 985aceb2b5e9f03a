"""A training file in the official form, and beside it what the published profile takes from a user's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def listed(question: str, *options: str) -> str:
    lettered = [f"{letter}: {option}" for letter, option in zip("ABCD", options, strict=False)]
    return "\n".join([f"Question:\n{question}", "Option:", *lettered, ""])


def write(root: Path, items: int = 4) -> Path:
    """Write train.json and published/ below `root`, which is meant as MMI_DATA_ROOT; return the training file."""
    own = root / "published"
    (own / "irrelevant_images").mkdir(parents=True)
    for number in range(3):
        Image.effect_noise((40 + 9 * number, 36), 60).convert("RGB").save(own / "irrelevant_images" / f"{number}.png")
    (own / "system_text.txt").write_text("Choose one option.\n")
    (own / "unrelated_texts.txt").write_text("Salt melts ice.\nBees dance.\nOwls see at night.\n")
    rows: list[dict[str, Any]] = []
    for number in range(items):
        Image.effect_noise((40, 30), 20 + 30 * number).convert("RGB").save(root / f"{number}.png")
        image = {"image": f"{number}.png"}
        facts = {"dog": "It has the ears of a dog."} if number % 2 else {}
        rows += [
            {"id": number, "type": "image_heavy", **image, "question": listed("What is this?", "cat", "dog"),
             "answer": "A", "facts": facts},
            {"id": f"t{number}", "type": "text_heavy", "question": listed("Which is hot?", "ice", "fire", "snow"),
             "answer": "B"},
            {"id": number, "type": "VQA", **image, "question": "<image>\nWhat do you see?",
             "answer": ["Grey noise.", "Nothing but noise, I think.", "No"][number % 3]},
        ]  # fmt: skip
    (root / "train.json").write_text(json.dumps(rows))
    return root / "train.json"
