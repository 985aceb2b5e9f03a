"""Pictures are decoded when looked at, never before, and never kept."""

from __future__ import annotations

import gc
import hashlib
import os
import pickle
import socket
import struct
import zlib
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
from mmi_plugin.item import Item, item_hash
from mmi_plugin.pictures import Picture, read_picture

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


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> Picture:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return picture(buffer.getvalue())


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


HALF = (200, 100, 0, 128)  # over white: c * 128/255 + 255 * 127/255
OVER_WHITE = (227, 177, 127)


@pytest.mark.parametrize(
    ("image", "kind", "options", "expected"),
    [
        (Image.new("RGBA", (2, 2), HALF), "PNG", {}, OVER_WHITE),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "PNG", {}, (255, 255, 255)),
        (Image.new("RGBA", (2, 2), HALF), "TIFF", {}, OVER_WHITE),
        (Image.new("RGBA", (2, 2), (0, 0, 0, 0)), "WEBP", {"lossless": True}, (255, 255, 255)),
        (Image.new("LA", (2, 2), (100, 128)), "PNG", {}, (177, 177, 177)),
        (Image.new("P", (2, 2), 0), "PNG", {"transparency": 0}, (255, 255, 255)),
        (Image.new("P", (2, 2), 0), "PNG", {"transparency": bytes([128])}, (127, 127, 127)),
        (Image.new("P", (2, 2), 0), "GIF", {"transparency": 0}, (255, 255, 255)),
        (Image.new("RGB", (2, 2), (10, 20, 30)), "PNG", {"transparency": (10, 20, 30)}, (255, 255, 255)),
        (Image.new("L", (2, 2), 7), "PNG", {"transparency": 7}, (255, 255, 255)),
        (Image.new("RGBA", (2, 2), (200, 100, 0, 255)), "PNG", {}, (200, 100, 0)),
    ],
)
def test_what_is_transparent_shows_white(
    image: Image.Image, kind: str, options: dict, expected: tuple[int, ...]
) -> None:
    """As a page shows it. Expected: the source-over rule of Porter and Duff, computed by hand."""
    shown = np.asarray(saved(image, kind, **options).open()).astype(int)
    assert shown.shape == (2, 2, 3) and np.abs(shown - expected).max() <= 1


@pytest.mark.parametrize(
    ("depth", "colour", "pixels", "key", "expected"),
    [
        (1, 0, b"\x40", b"\0\1", [(0,) * 3, (255,) * 3]),
        (1, 0, b"\x40", b"\0\0", [(255,) * 3, (255,) * 3]),
        (2, 0, b"\x60", b"\0\1", [(255,) * 3, (170,) * 3]),
        (4, 0, b"\x34", b"\0\3", [(255,) * 3, (68,) * 3]),
        (8, 0, b"\x03\x04", b"\0\3", [(255,) * 3, (4,) * 3]),
        (16, 0, b"\x03\x04\x03\x05", b"\x03\x04", [(255,) * 3, (3,) * 3]),
        (8, 2, b"\1\2\3\4\5\6", b"\0\1\0\2\0\3", [(255,) * 3, (4, 5, 6)]),
        (16, 2, b"\1\1\2\2\3\3\4\4\5\5\6\6", b"\1\1\2\2\3\3", [(255,) * 3, (4, 5, 6)]),
        (16, 2, b"\0\1\0\2\0\3\4\4\5\5\6\6", b"\0\1\0\2\0\3", [(255,) * 3, (4, 5, 6)]),
    ],
)
def test_a_transparent_colour_is_one_of_the_samples_of_the_file(
    depth: int, colour: int, pixels: bytes, key: bytes, expected: list[tuple[int, ...]]
) -> None:
    """Whatever their depth: two pixels of a PNG with a tRNS chunk, the samples' values by hand."""
    head = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    data = png(chunk(b"IHDR", head), chunk(b"tRNS", key), chunk(b"IDAT", zlib.compress(b"\0" + pixels)))
    assert list(map(tuple, np.asarray(picture(data).open())[0].tolist())) == expected


def test_images_of_a_users_own_source_are_shown_as_files_are() -> None:
    """They never were files: alpha, 16 bits and orientation are those of the image in memory."""
    turned = Image.new("RGB", (4, 2))
    turned.getexif()[0x0112] = 6
    clear = Image.new("P", (2, 2), 0)
    clear.info["transparency"] = 0
    for image, size, expected in [
        (Image.new("RGBA", (2, 2), HALF), (2, 2), OVER_WHITE),
        (Image.new("LA", (2, 2), (100, 128)), (2, 2), (177, 177, 177)),
        (Image.fromarray(np.full((2, 2), 32768, dtype=np.uint16)), (2, 2), (128, 128, 128)),
        (clear, (2, 2), (255, 255, 255)),
        (turned, (2, 4), (0, 0, 0)),
    ]:
        item = Item("q", "image_heavy", "Which?", "cat", ("dog", "cat"), image)
        added = replace(item, image=None, added_images=(image,))
        for seen in (item.image, *item.images, *added.images):
            assert seen.mode == "RGB" and seen.size == size
            assert np.abs(np.asarray(seen).astype(int) - expected).max() <= 1
        assert item_hash(item) == item_hash(replace(item, image=item.image)) != item_hash(replace(item, image=None))
    for mode in ("RGB", "L", "1", "CMYK"):
        plain = Image.new(mode, (2, 2))
        assert Item("q", "vqa", "Which?", "cat", image=plain).image is plain


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    """PNG's rule: floor(input * 255 / 65535 + 0.5)."""
    grey = np.array([[0, 128, 129, 1000, 32768, 65535]], dtype=np.uint16)
    shown = np.asarray(saved(Image.fromarray(grey), kind).open())
    assert shown[0].tolist() == [[level] * 3 for level in (0, 0, 1, 4, 128, 255)]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 257, 65535]], dtype=np.int32), (0, 1, 255)),
        (np.array([[0, 7, 255]], dtype=np.int32), (0, 7, 255)),
        (np.array([[0, 2**30, 2**31 - 1]], dtype=np.int32), (0, 127, 255)),
        (np.array([[-100, 0, 100]], dtype=np.int32), (0, 128, 255)),
        (np.array([[0, 0.5, 1]], dtype=np.float32), (0, 128, 255)),
        (np.array([[0, 7, 255]], dtype=np.float32), (0, 7, 255)),
        (np.array([[0, 257, 65535]], dtype=np.float32), (0, 1, 255)),
    ],
)
def test_longer_and_broken_numbers_are_scaled_by_the_range_they_fill(
    values: np.ndarray, expected: tuple[int, ...]
) -> None:
    shown = np.asarray(saved(Image.fromarray(values), "TIFF").open())
    assert np.abs(shown[0, :, 0].astype(int) - expected).max() <= 1
    with pytest.raises(InputError, match="no numbers"):
        saved(Image.fromarray(np.array([[0, np.nan]], dtype=np.float32)), "TIFF").open()


def test_a_plain_pictures_digest_is_that_of_its_bytes_and_a_changed_readings_is_another() -> None:
    """Results of plain pictures stay comparable; what alpha or 16 bits once looked like is no longer seen."""
    assert picture(encoded()).digest() == hashlib.sha256(encoded()).hexdigest()
    clear = saved(Image.new("RGBA", (2, 2)))
    assert clear.digest() != hashlib.sha256(clear.encoded()).hexdigest()
    deep = saved(Image.fromarray(np.zeros((2, 2), dtype=np.uint16)))
    assert deep.digest() != hashlib.sha256(deep.encoded()).hexdigest()


def test_only_listed_formats_are_opened_whatever_a_file_calls_itself() -> None:
    """PostScript would start Ghostscript."""
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    others = [script]
    for kind in ("EPS", "PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000"):
        buffer = BytesIO()
        Image.fromarray(PIXELS).save(buffer, kind)
        others.append(buffer.getvalue())
    for data in others:
        for look in (picture(data).digest, picture(data).open):
            with pytest.raises(InputError, match=r"^f\.parquet, row 3: field 'image' does not decode: cannot identify"):
                look()
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        assert picture(encoded(kind)).digest() and picture(encoded(kind)).open().size == (60, 40)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says to be large."""
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return png(chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")))


@pytest.mark.parametrize("limit", [None, 10**12])
def test_a_picture_has_at_most_64_million_pixels(limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever others told Pillow."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    for size in ((8001, 8000), (50_000, 50_000)):
        for look in (picture(bomb(*size)).digest, picture(bomb(*size)).open):
            with pytest.raises(InputError, match=r"^f\.parquet, row 3: field 'image' does not decode: .*pixels"):
                look()
    assert picture(bomb(8000, 8000)).digest() and limit == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_damaged_pictures_end_in_one_line(kind: str) -> None:
    """Bytes changed at random, mostly in the head: a picture comes out, or an InputError."""
    whole, rng = encoded(kind), np.random.default_rng(1)
    for _ in range(150):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), rng.choice([40, 400, len(data)])), rng.integers(1, 6)):
            data[place] = rng.integers(0, 256)
        for look in (picture(bytes(data)).digest, picture(bytes(data)).open):
            try:
                look()
            except InputError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder", "large", "proc"])
def test_only_regular_files_of_a_picture_s_size_are_read(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe without a writer hangs, /dev/zero fills the memory."""
    path = tmp_path / "x.png"
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind("x.png")
    elif kind == "folder":
        path.mkdir()
    elif kind == "large":
        with path.open("wb") as file:
            file.truncate(1 << 40)  # takes no room on the disk
    else:
        path.symlink_to({"device": "/dev/zero", "proc": "/proc/self/mem"}[kind])
    reason = {"large": "bytes", "folder": "regular file", "device": "regular file", "fifo": "regular file"}
    with pytest.raises(InputError, match=f"^row 1 does not decode: .*{reason.get(kind, '')}"):
        Picture(partial(read_picture, path), "row 1").digest()
