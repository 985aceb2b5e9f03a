"""The files read without scikit-learn and scikit-image hold what these read from them."""

import numpy as np
import skimage.data
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

from mmi_plugin.conditions.pools import PHOTO, photo_files, sample_photos
from mmi_plugin.sources.demo import digit_images, digits

# Of scikit-image's documentation: functions that give one photograph each, of different things.
PHOTOGRAPHS = (
    *("astronaut", "chelsea", "coffee", "stereo_motorcycle", "rocket", "hubble_deep_field", "retina"),
    *("immunohistochemistry", "camera", "clock", "coins", "moon", "brick", "cell", "grass", "gravel"),
)


def test_photographs() -> None:
    expected = list(load_sample_images().images)
    for name in PHOTOGRAPHS:
        found = getattr(skimage.data, name)()
        expected.append(found[0] if isinstance(found, tuple) else found)
    files = [np.asarray(Image.open(file)) for file in photo_files()]
    assert len(files) == len(expected) == 18
    assert all(np.array_equal(one, other) for one, other in zip(files, expected, strict=True))


def test_the_pool_is_the_photographs_each_once_and_not_large() -> None:
    photos = sample_photos()
    assert len(photos) == len({photo.tobytes() for photo in photos}) == 18
    assert all(photo.mode == "RGB" and 300 < max(photo.size) <= PHOTO for photo in photos)
    for photo, file in zip(photos, photo_files(), strict=True):
        whole = Image.open(file).convert("RGB").resize(photo.size, Image.Resampling.BOX)
        assert np.abs(np.asarray(photo, int) - np.asarray(whole, int)).mean() < 8, file.name


def test_digits() -> None:
    expected = load_digits()
    images, shown = digits()
    assert np.array_equal(images, expected.images)
    assert np.array_equal(shown, expected.target)
    assert [digit for _, digit in digit_images()] == expected.target.tolist()
