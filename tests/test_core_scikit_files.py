"""The files read without scikit-learn hold what scikit-learn reads from them."""

import numpy as np
from sklearn.datasets import load_digits, load_sample_images

from mmi_plugin.conditions.registry import photos, sample_photos
from mmi_plugin.sources.demo import digit_images, digits


def test_photographs() -> None:
    expected = load_sample_images().images
    found = [np.asarray(photo) for photo in photos()]
    assert len(found) == len(expected) == 2
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))
    crops = sample_photos()
    assert len(crops) == 24
    assert np.array_equal(crops[0], expected[0][:224, :224])
    assert np.array_equal(crops[12], expected[1][:224, :224])


def test_digits() -> None:
    expected = load_digits()
    images, shown = digits()
    assert np.array_equal(images, expected.images)
    assert np.array_equal(shown, expected.target)
    assert [digit for _, digit in digit_images()] == expected.target.tolist()
