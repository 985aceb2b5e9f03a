"""Times the package's bootstrap beside plain resampling with numpy: `python -m benchmarks.bootstrap`."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from mmi_plugin.results.intervals import RESAMPLES, bootstrap_means

ROUNDS = 5


def plain(sample: np.ndarray) -> np.ndarray:
    rng, n = np.random.default_rng(0), len(sample)
    return sample[rng.integers(0, n, (RESAMPLES, n))].mean(1)


def milliseconds(resample: Callable[[np.ndarray], np.ndarray], sample: np.ndarray) -> float:
    """Return the processor time of the fastest of `ROUNDS` calls."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        resample(sample)
        times.append(time.process_time() - start)
    return 1000 * min(times)


def main() -> None:
    rng = np.random.default_rng(1)
    print(f"{RESAMPLES} resamples, milliseconds\n items  distinct   ours  plain")
    for n in (20, 60, 400, 1000, 3000, 10_000):
        for distinct in (4, 40, n):
            sample = rng.random(n) if distinct == n else rng.integers(0, distinct, n) / distinct
            print(f"{n:6} {distinct:9} {milliseconds(bootstrap_means, sample):6.1f} {milliseconds(plain, sample):6.1f}")


if __name__ == "__main__":
    main()
