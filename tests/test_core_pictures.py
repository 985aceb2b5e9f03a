"""Pictures are decoded when looked at, never before, and never kept."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from mmi_plugin import pictures
from mmi_plugin.errors import InputError
from mmi_plugin.items import Item, item_hash
from mmi_plugin.pictures import Picture

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(kind: str = "PNG", **options: object) -> bytes:
    buffer = BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def picture(data: bytes) -> Picture:
    return Picture(partial(bytes, data), "f.parquet, row 3: field 'image'")


def test_an_item_gives_the_pixels_of_its_picture() -> None:
    item = Item("q", "image_heavy", "Which?", "cat", ("dog", "cat"), picture(encoded()))
    assert np.array_equal(np.asarray(item.image), PIXELS)
    assert isinstance(item.picture, Picture)
    assert replace(item, context="It rains.").image is item.image
    assert Item("q", "text_heavy", "Which?", "cat", ("dog", "cat")).image is None


def test_looking_again_gives_the_same_object_while_it_is_held_and_frees_it_afterwards() -> None:
    reads: list[int] = []

    def read() -> bytes:
        reads.append(1)
        return encoded()

    lazy = Picture(read, "here")
    held = lazy.open()
    for _ in range(10):
        picture(encoded()).open()
    assert lazy.open() is held and len(reads) == 1
    before = id(held)
    del held
    for _ in range(10):
        picture(encoded()).open()
    gc.collect()
    lazy.open()
    assert len(reads) == 2, before
    assert len(pictures._recent) <= 4


def test_a_picture_is_upright_and_rgb() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    assert picture(encoded("JPEG", exif=exif)).open().size == (40, 60)
    buffer = BytesIO()
    Image.new("P", (3, 2)).save(buffer, "PNG")
    assert picture(buffer.getvalue()).open().mode == "RGB"


def test_hashing_decodes_nothing_and_follows_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    item = Item("q", "image_heavy", "Which?", "cat", ("dog", "cat"), picture(encoded()))
    other = replace(item, image=picture(encoded(compress_level=0)))
    monkeypatch.setattr(Picture, "open", lambda _: pytest.fail("decoded"))
    assert item_hash(item) == item_hash(replace(item, image=picture(encoded())))
    assert item_hash(item) != item_hash(other)


@pytest.mark.parametrize(
    "spoil",
    [lambda data: b"no image", lambda data: b"", lambda data: data[: len(data) // 2]],
    ids=["other", "empty", "cut"],
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("lenient", [False, True])
def test_what_is_no_whole_image_is_named_when_hashed_and_when_opened(
    lenient: bool, kind: str, spoil: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after lmms-eval told Pillow to let cut images pass."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    broken = picture(spoil(encoded(kind)))
    for look in (broken.digest, broken.open):
        with pytest.raises(InputError, match=r"^f\.parquet, row 3: field 'image' does not decode: "):
            look()


def test_a_jpeg_with_much_behind_its_end_is_whole() -> None:
    assert picture(encoded("JPEG") + bytes(5000)).digest()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^row 1 does not decode: .*gone\.png"):
        Picture((tmp_path / "gone.png").read_bytes, "row 1").digest()


def test_pictures_travel_to_other_processes() -> None:
    item = Item("q", "image_heavy", "Which?", "cat", ("dog", "cat"), picture(encoded()))
    assert item.image is not None
    copy = pickle.loads(pickle.dumps(item))
    assert isinstance(copy.picture, Picture)
    assert np.array_equal(np.asarray(copy.image), PIXELS)
