"""What the harness model says about one prompt, and how it reaches the task."""

from __future__ import annotations

from dataclasses import dataclass

from lmms_eval.api.instance import GenerationResult, TokenCounts


@dataclass
class Counts(TokenCounts):
    """Token counts, and the probability of each option.

    lmms-eval keeps an answer's text and its token counts with the request and drops everything
    else, so the probabilities travel in the counts.
    """

    probabilities: tuple[float, ...] | None = None


def result(text: str, tokens: int, probabilities: tuple[float, ...] | None) -> GenerationResult:
    """Return an answer of `tokens` tokens in the form that lmms-eval takes from a model."""
    return GenerationResult(text, Counts(output_tokens=tokens, probabilities=probabilities))


def probabilities_of(counts: TokenCounts | None) -> tuple[float, ...] | None:
    """Return the probabilities of the options; None where the model gave none."""
    return getattr(counts, "probabilities", None)
