"""Answers under a conflict of image and text in; which of the two a model follows as one is less certain, out.

After arXiv 2511.02243: whether the text is followed depends on how uncertain the text alone leaves the model, relative
to the image alone, and on a preference that is left where both are equally uncertain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mmi_plugin.results.estimates import Estimate, estimate
from mmi_plugin.results.measures import PerItem, logit_gap
from mmi_plugin.results.outcomes import Outcomes

IMAGE_ALONE, CONFLICT, TEXT_ALONE = "clean", "misleading_text", "misleading_text@picture=black"
_BINS = 5
_FLAT = 1e-6  # a slope in logits that says nothing


@dataclass(frozen=True)
class Bin:
    """Items of about the same relative uncertainty: its mean, and the share that follows the text."""

    uncertainty: float
    share: Estimate


@dataclass(frozen=True)
class Reliance:
    """Of `n` items on which the image alone leads to the right option, the text alone to the one that it names.

    text_ratio: of answers that follow either, the share that follows the text. logit_gap: log p of the text's option
    minus log p of the image's under the conflict, in nats, mean over these items. balance: the relative uncertainty at
    which both are followed as often (a logistic regression's; the higher, the more the text is preferred), and `slope`
    how steeply that turns, in logits; None where all follow one, or it does not depend on uncertainty. bins: fifths of
    the items by their relative uncertainty, ascending.
    """

    n: int
    text_ratio: Estimate
    logit_gap: Estimate
    balance: float | None
    slope: float | None
    bins: tuple[Bin, ...]

    def probability(self, uncertainty: np.ndarray) -> np.ndarray | None:
        """Return the regression's probability of following the text at relative uncertainties (N,), (N,)."""
        return None if self.balance is None else 1 / (1 + np.exp(-self.slope * (uncertainty - self.balance)))


def relative_uncertainty(image_alone: np.ndarray, text_alone: np.ndarray) -> np.ndarray:
    """Return 2 (H_text - H_image) / (H_text + H_image) of the entropies: (items, options) twice -> (items,), from -2
    (only the image leaves doubts) to 2; NaN where neither does."""
    from scipy.stats import entropy  # slow to import

    image, text = entropy(image_alone, axis=-1), entropy(text_alone, axis=-1)
    both = image + text
    return np.divide(2 * (text - image), both, out=np.full(len(both), np.nan), where=both > 0)


def reliance(outcomes: Outcomes) -> Reliance | None:
    """Return which modality is followed; None unless the three conditions were asked, with probabilities, and there is
    a conflict on some item."""
    names = IMAGE_ALONE, CONFLICT, TEXT_ALONE
    if outcomes.probabilities is None or any(name not in outcomes.conditions for name in names):
        return None
    image, conflict, text = map(outcomes.conditions.index, names)
    gold, named, parsed = outcomes.gold[:, conflict], outcomes.named[:, conflict], outcomes.parsed
    leads = (parsed[:, image] == gold) & (parsed[:, text] == named)
    decided = leads & ((parsed[:, conflict] == gold) | (parsed[:, conflict] == named))
    uncertainty = relative_uncertainty(outcomes.probabilities[:, image], outcomes.probabilities[:, text])
    counted = decided & ~np.isnan(uncertainty) & (named != gold)
    if not counted.any():
        return None
    clusters = None if outcomes.clusters is None else outcomes.clusters[counted]
    follows, uncertainty = (parsed[:, conflict] == named)[counted], uncertainty[counted]
    gap = logit_gap(outcomes, conflict)
    return Reliance(
        len(follows),
        estimate([PerItem(follows.astype(float), clusters=clusters)]),
        estimate([replace(gap, values=gap.values[counted], clusters=clusters)]),
        *_balance(uncertainty, follows),
        _bins(uncertainty, follows, clusters),
    )


def _balance(uncertainty: np.ndarray, follows: np.ndarray) -> tuple[float | None, float | None]:
    """Return where a logistic regression of `follows` on `uncertainty` is one half, and its slope.

    A weak prior on the slope (C = 100) keeps it finite where the two kinds do not overlap.
    """
    from sklearn.linear_model import LogisticRegression  # slow to import

    if follows.all() or not follows.any() or np.ptp(uncertainty) == 0:
        return None, None
    fitted = LogisticRegression(C=100.0).fit(uncertainty[:, None], follows)
    slope, start = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return (-start / slope if abs(slope) > _FLAT else None), slope


def _bins(uncertainty: np.ndarray, follows: np.ndarray, clusters: np.ndarray | None) -> tuple[Bin, ...]:
    parts = np.array_split(np.argsort(uncertainty, kind="stable"), min(_BINS, len(follows)))
    shares = [
        PerItem(follows[part].astype(float), clusters=None if clusters is None else clusters[part]) for part in parts
    ]
    return tuple(Bin(float(uncertainty[part].mean()), estimate([own])) for part, own in zip(parts, shares, strict=True))
