"""Bytes of image files in, images out: they stay encoded until somebody looks at them."""

from __future__ import annotations

import hashlib
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from mmi_plugin.errors import InputError

# Keeps the last few images alive, so that looking twice in a row decodes once.
_recent: deque[Image.Image] = deque(maxlen=4)
_JPEG_END = b"\xff\xd9"
_BROKEN = (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError)


@contextmanager
def _strict() -> Iterator[None]:
    """Within, a cut image is an error. lmms-eval tells Pillow to fill what is missing with grey."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


class Picture:
    """An encoded image: decoded when it is looked at, and again once nobody holds it any more.

    `read` gives the bytes of an image file and must be picklable; `where` begins the errors.
    """

    def __init__(self, read: Callable[[], bytes], where: str) -> None:
        self._read, self._where = read, where
        self._decoded: Callable[[], Image.Image | None] = lambda: None

    def __reduce__(self) -> tuple[Any, ...]:
        return Picture, (self._read, self._where)

    def open(self) -> Image.Image:
        """Return the image as RGB, upright; the same object as long as anybody holds it.

        Raises InputError when it cannot be read or does not decode.
        """
        image = self._decoded()
        if image is None:
            try:
                with _strict(), Image.open(BytesIO(self._read())) as encoded:
                    image = ImageOps.exif_transpose(encoded).convert("RGB")
            except _BROKEN as error:
                raise self._fault(error) from error
            self._decoded = weakref.ref(image)
            _recent.append(image)
        return image

    def digest(self) -> str:
        """SHA-256 of the encoded bytes. Raises InputError when they are not a whole image."""
        return hashlib.sha256(self.encoded()).hexdigest()

    def encoded(self) -> bytes:
        """Return the bytes of the image file. Raises InputError when they are not a whole image."""
        try:
            data = self._read()
            with _strict(), Image.open(BytesIO(data)) as encoded:
                encoded.verify()
        except _BROKEN as error:
            raise self._fault(error) from error
        # verify() does not read JPEG data; one without its end marker is cut off, unless it decodes.
        if encoded.format == "JPEG" and _JPEG_END not in data[-4096:]:
            self.open()
        return data

    def _fault(self, error: Exception) -> InputError:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return InputError(f"{self._where} does not decode: {reason}")


class ImageField:
    """Dataclass field that takes an image or a Picture; reading it gives the image, decoded."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Image.Image | None:
        if instance is None:  # a dataclass asks the class for the field's default
            return None
        held = vars(instance)[self._name]
        return held.open() if isinstance(held, Picture) else held

    def __set__(self, instance: Any, value: Image.Image | Picture | None) -> None:
        vars(instance)[self._name] = value
