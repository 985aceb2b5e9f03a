"""Bytes of image files in, images out: they stay encoded until somebody looks at them."""

from __future__ import annotations

import hashlib
import struct
import warnings
import weakref
import zlib
from base64 import b64decode
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps

from mmi_plugin.errors import InputError, shorten
from mmi_plugin.files import read_bytes

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # others start programs, or are hardly tried by anybody
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
PIXELS = 64_000_000  # at most
BYTES = 8 * PIXELS  # of a file, at most
Size = tuple[int, int]  # width and height in pixels
# Keeps the last few images alive, so that looking twice in a row decodes once.
_recent: deque[Image.Image] = deque(maxlen=4)
_JPEG_END = b"\xff\xd9"
_LYING = (5, 6, 7, 8)  # EXIF's orientations whose rows are shown as columns
# What Pillow raises at bytes that somebody made up.
_BROKEN = (
    *(OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, EOFError, RuntimeError, MemoryError),
    *(struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning),
)


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Open an encoded image of FORMATS with at most PIXELS, not decoded yet.

    Within, a cut image is an error: lmms-eval tells Pillow to fill what is missing with grey.
    """
    before = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = False, PIXELS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd tags
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(BytesIO(data), formats=FORMATS) as encoded:
                yield encoded
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS = before


def _is_deep(image: Image.Image) -> bool:
    """Whether a pixel is one number of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale one number a pixel to 0..255, with alpha where a value stands for nothing. Raises ValueError for NaN.

    16 bits are 0..65535. Longer numbers say no range: it is the first of 0..1 (for fractions), 0..255,
    0..65535 that holds them all, else from the least to the greatest.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("some pixels are no numbers")
    low, high = 0.0, 65535.0
    if image.mode in ("I", "F"):
        least, most = values.min(), values.max()
        tops = [top for top in ((1, 255, 65535) if image.mode == "F" else (255, 65535)) if most <= top]
        low, high = (0.0, float(tops[0])) if tops and least >= 0 else (least, most)
    scaled = np.floor((values - low) * 255 / max(high - low, 1e-300) + 0.5).astype(np.uint8)
    grey = Image.fromarray(scaled)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


# How Pillow scales a PNG's samples of other than 8 bits as it decodes them, but not its transparent colour.
_SCALES = {"1": 255.0, "L;2": 85.0, "L;4": 17.0, "RGB;16B": 1 / 256}


def _key_scaled(image: Image.Image) -> None:
    """Let the transparent colour of an image that is not decoded yet be that of its pixels when they are.

    Of 16 bits a colour Pillow keeps the first 8, so that a colour which differs in the others alone is one with it.
    """
    clear, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    scale = _SCALES.get(tiles[0][3]) if image.format == "PNG" and tiles else None
    if scale and isinstance(clear, int | tuple):
        image.info["transparency"] = (
            min(int(clear * scale), 255) if isinstance(clear, int) else tuple(int(level * scale) for level in clear)
        )


def shown(image: Image.Image) -> Image.Image:
    """Return an image in memory as a white page shows it, upright: the same object where it is shown as it is."""
    rotated = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return _shown(image) if rotated or _is_deep(image) or image.has_transparency_data else image


def _shown(image: Image.Image) -> Image.Image:
    """Return an image as a white page shows it, upright and RGB."""
    _key_scaled(image)
    image = ImageOps.exif_transpose(image)
    if _is_deep(image):
        image = _eight_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def read_picture(path: Path) -> bytes:
    """Return the bytes of a picture file. Raises OSError for what is no regular file or too large."""
    return read_bytes(path, BYTES)


def decode_base64(text: str) -> bytes:
    """Return the bytes of a picture file in base64. Raises ValueError for what is none, or too large."""
    if len(text) > BYTES * 4 // 3:
        raise ValueError(f"has {len(text):,} characters of base64, more than {BYTES * 4 // 3:,}")
    return b64decode("".join(text.split()), validate=True)


class Picture:
    """An encoded image: decoded when it is looked at, and again once nobody holds it any more.

    `read` gives the bytes of an image file and must be picklable; `where` begins the errors. size: what `size` is
    known to return or raise.
    """

    def __init__(self, read: Callable[[], bytes], where: str, size: Size | InputError | None = None) -> None:
        self._read, self._where, self._size = read, where, size
        self._digest = ""
        self._decoded: Callable[[], Image.Image | None] = lambda: None

    def __reduce__(self) -> tuple[Any, ...]:
        return Picture, (self._read, self._where, self._size)

    @property
    def size(self) -> Size:
        """The size at which `open` returns the image, found by decoding it once. Raises InputError as `open` does."""
        if self._size is None:
            try:
                self._size = self._measured()
            except InputError as error:
                self._size = error
        if isinstance(self._size, InputError):
            raise InputError(str(self._size))
        return self._size

    def _measured(self) -> Size:
        try:
            with _opened(self._read()) as encoded:
                width, height = encoded.size
                lying = encoded.getexif().get(ExifTags.Base.Orientation) in _LYING
                encoded.draft(None, (1, 1))  # all of a JPEG is read, and an eighth of its pixels a side made
                _shown(encoded)
        except _BROKEN as error:
            raise self._fault(error) from error
        return (height, width) if lying else (width, height)

    def open(self) -> Image.Image:
        """Return the image as RGB, upright, over white; the same object as long as anybody holds it.

        Raises InputError when it cannot be read or does not decode.
        """
        image = self._decoded()
        if image is None:
            try:
                with _opened(self._read()) as encoded:
                    image = _shown(encoded)
            except _BROKEN as error:
                raise self._fault(error) from error
            self._decoded = weakref.ref(image)
            _recent.append(image)
        return image

    def digest(self) -> str:
        """SHA-256 of the encoded bytes, read once. Raises InputError when they are not a whole image.

        Of more, where alpha or more than 8 bits were once shown in another way: results on what was
        seen then are not those on what is seen now.
        """
        if not self._digest:
            data, plain = self._whole()
            self._digest = hashlib.sha256(data if plain else b"over white, scaled:" + data).hexdigest()
        return self._digest

    def encoded(self) -> bytes:
        """Return the bytes of the image file. Raises InputError when they are not a whole image."""
        return self._whole()[0]

    def _whole(self) -> tuple[bytes, bool]:
        """Return the bytes, and whether every pixel is opaque and of 8 bits a colour."""
        try:
            data = self._read()
            with _opened(data) as encoded:
                plain = not (_is_deep(encoded) or encoded.has_transparency_data)
                encoded.verify()
        except _BROKEN as error:
            raise self._fault(error) from error
        # verify() reads PNG alone. A JPEG without its end marker is cut off, unless it decodes.
        if encoded.format != "PNG" and not (encoded.format in ("JPEG", "MPO") and _JPEG_END in data[-4096:]):
            self.open()
        return data, plain

    def _fault(self, error: Exception) -> InputError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return InputError(f"{self._where} does not decode: {shorten(reason, 300)}")


class ImageField:
    """Dataclass field that takes an image, kept as it is shown, or a Picture; reading it gives the image, decoded."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Image.Image | None:
        if instance is None:  # a dataclass asks the class for the field's default
            return None
        held = vars(instance)[self._name]
        return held.open() if isinstance(held, Picture) else held

    def __set__(self, instance: Any, value: Image.Image | Picture | None) -> None:
        vars(instance)[self._name] = shown(value) if isinstance(value, Image.Image) else value
