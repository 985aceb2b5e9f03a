"""How far two distributions over the options are apart: the continuous causal effect."""

from __future__ import annotations

import numpy as np
from scipy.special import rel_entr


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits, in [0, 1]: (..., options) twice -> (...) (Lin, 1991)."""
    middle = (p + q) / 2
    nats = (rel_entr(p, middle) + rel_entr(q, middle)).sum(-1) / 2
    return np.clip(nats / np.log(2), 0, 1)


def total_variation(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Half the L1 distance, in [0, 1]: (..., options) twice -> (...)."""
    return np.abs(p - q).sum(-1) / 2
