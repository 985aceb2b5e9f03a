"""A made-up `demo.json` of realistic shape: figures are counts of right items, so that n is real."""

from __future__ import annotations

import random
from typing import Any

SHAPE = {
    "mmi_demo_digits": (400, ("clean", "unrelated_text", "misleading_text", "ocr_text")),
    "mmi_demo_capitals": (378, ("random_pixels", "black", "white", "irrelevant_image", "screenshot")),
    "mmi_demo_arith": (400, ("clean",)),
}
REFERENCES = ("clean", "random_pixels")
PERTURBED = {"vanilla": (0.01, 0.6), "d_vqa": (0.02, 0.65), "d_aug": (0.85, 0.95), "ours": (0.95, 0.99)}
ABLATION = ("vanilla", "d_vqa", "d_aug", "kl", "js", "rg", "adv", "ours")


def row(name: str, seed: int) -> dict[str, Any]:
    """One row: deterministic in (name, seed)."""
    rng = random.Random(f"{name}/{seed}")
    low, high = PERTURBED.get(name, (0.88, 0.97))
    made: dict[str, Any] = {
        "name": name,
        "seed": seed,
        "seconds": 0.0 if name == "vanilla" else round(rng.uniform(55, 65), 1),
        "accuracy": {},
        "flip_rate": {},
        "worst_case": {},
        "worst_case_seen": {},
        "unparseable": {},
        "n": {},
    }
    for task, (n, conditions) in SHAPE.items():
        shares = {}
        for condition in conditions:
            bounds = (0.95, 0.99) if condition in REFERENCES else (low, high)
            shares[condition] = rng.randint(round(bounds[0] * n), round(bounds[1] * n)) / n
            made["accuracy"][f"{task}/{condition}"] = shares[condition]
            if condition not in REFERENCES:
                made["flip_rate"][f"{task}/{condition}"] = 1 - shares[condition]
        made["worst_case"][task] = round(min(shares.values()) * n * 0.97) / n
        made["worst_case_seen"][task] = round(min(shares.values()) * n * 0.98) / n
        made["unparseable"][task] = 0.0
        made["n"][task] = n
    return made


def demo(names: tuple[str, ...] = ("vanilla", "ours"), seeds: int = 1) -> dict[str, Any]:
    """The content of a `demo.json`; Vanilla has one seed."""
    rows = [row(name, seed) for name in names for seed in range(1 if name == "vanilla" else seeds)]
    return {
        "rows": rows,
        "versions": {"python": "3.11.2", "torch": "2.15.0", "transformers": "5.23.0"},
        "config": {"learning_rate": 1e-3, "mix": [2, 2, 4], "consistency": "js"},
        "hashes": {task: f"{index}" * 64 for index, task in enumerate(SHAPE)},
    }
