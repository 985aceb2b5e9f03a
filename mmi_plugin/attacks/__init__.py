"""Attacks: what a condition asks an adversary for, and the search for the worst; logits in, perturbations out.

Pure torch: a model is here a function from perturbations of rows to the logits of their options.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mmi_plugin.conditions import Condition


@dataclass(frozen=True)
class Attack:
    """What is searched. space: "embeddings", "pixels" or "tokens". by: "apgd", "square", "noise", or of tokens
    "gradients" and "noise".

    eps: of embeddings relative to the root mean square of those that may move; of pixels in 255ths. text: which text
    of image-heavy items moves, that of the whole "prompt" or what is "after_image". length: tokens of a suffix.
    """

    space: str
    by: str
    eps: float = 0.0
    norm: str = "linf"
    steps: int = 20
    restarts: int = 1
    queries: int = 1000
    text: str = "prompt"
    length: int = 0
    candidates: int = 0

    @staticmethod
    def of(condition: Condition) -> Attack | None:
        """Return what a condition asks for; None where it asks for no attack."""
        if not condition.attack:
            return None
        by, space = condition.attack
        given: dict[str, Any] = condition.values
        return Attack(space, by, **given)
