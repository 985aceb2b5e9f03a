"""Files in, their content or an InputError in one line out; and files that are written whole or not at all."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import platform
import re
import stat
from collections.abc import Callable, Iterator
from importlib import metadata
from io import BytesIO, TextIOWrapper
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from mmi_plugin.errors import InputError


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading. Raises OSError for what is no regular file: a pipe would hang, a device never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"not a regular file: {str(path)!r}")
    return path.open("rb")


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Return the bytes of a regular file. Raises OSError, also for one of more than `most` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most is not None and size > most:
            raise OSError(f"has {size:,} bytes, more than {most:,}: {str(path)!r}")
        return file.read(size)  # not more: some of /proc have size 0 and no end


def read_text(path: Path, where: str = "") -> str:
    """Return the text of a UTF-8 file, with or without a mark of its byte order.

    Raises InputError that begins with `where`, by default the path.
    """
    try:
        return read_bytes(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{where or path}: cannot be read: {error}") from error


def is_text(value: str) -> bool:
    """Whether UTF-8 can hold `value`: it has no lone surrogate, as JSON can name and as bytes not of UTF-8 become."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str | bytes, where: str, **hooks: Callable[[Any], Any]) -> Any:
    """Return what a JSON text says; `hooks` are those of `json.loads`. Raises InputError that begins with `where`."""
    try:
        return json.loads(text.decode() if isinstance(text, bytes) else text, **hooks)
    except (ValueError, RecursionError) as error:
        raise _not_json(error, where) from error


def _not_json(error: Exception, where: str) -> InputError:
    return InputError(f"{where}: not JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}")


def json_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (row from 1, line) of the content of a .jsonl file, without blank lines.

    Only b"\n" ends a line: what else Unicode calls a line break may stand within a JSON text.
    """
    yield from _lines(BytesIO(data), len(data))


def file_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (row from 1, line) of a .jsonl file, as `json_lines` does, holding a line at a time. Raises OSError."""
    with open_regular(path) as file:
        yield from _lines(file, os.fstat(file.fileno()).st_size)  # not more: some of /proc have size 0 and no end


def _lines(file: BinaryIO, left: int) -> Iterator[tuple[int, bytes]]:
    number = 0
    while left > 0 and (line := file.readline(left)):
        number, left = number + 1, left - len(line)
        line = line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").removesuffix(b"\n")
        if line.strip():
            yield number, line


CHUNK = 1 << 20  # characters
_BLANK = re.compile(r"[ \t\r\n]*")


def json_list(path: Path, where: str = "") -> Iterator[Any]:
    """Yield the elements of a JSON list, holding one piece of the file at a time.

    Bytes that are not UTF-8 become lone surrogates in the text that they stand in, so that they spoil one row.

    Raises:
        InputError: begins with `where`, by default the path: the file cannot be read or is no list; with
            the row (from 1): an element that is no JSON, after which nothing can be read.
    """
    where = where or str(path)
    try:
        with TextIOWrapper(open_regular(path), "utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from _elements(file, where)
    except OSError as error:
        raise InputError(f"{where}: cannot be read: {error}") from error


def _elements(file: TextIOWrapper, where: str) -> Iterator[Any]:
    decoder, text, place, row = json.JSONDecoder(), "", 0, 0
    before = ""  # what was read last: nothing, "[", "," or "element"
    while True:
        place = _BLANK.match(text, place).end()
        if place == len(text):
            text, place = file.read(CHUNK), 0
            if not text:
                raise InputError(f"{where}: not JSON: ends {f'after row {row}' if before else 'before it begins'}")
        elif not before or before == "element":
            if text[place] == "]" and before:
                break
            if text[place] != ("," if before else "["):
                raise InputError(f"{where}, row {row}: no ',' after it" if before else f"{where}: not a JSON list")
            before, place = text[place], place + 1
        elif text[place] == "]" and before == "[":
            break
        else:
            try:
                element, end = decoder.raw_decode(text, place)
            except json.JSONDecodeError as error:
                element, end, fault = None, len(text), error.msg
            except (ValueError, RecursionError) as error:
                raise _not_json(error, f"{where}, row {row + 1}") from error
            else:
                fault = ""
            # At the end of a piece, an element may go on in the next one.
            if end == len(text) and (more := file.read(max(CHUNK, len(text)))):
                text, place = text[place:] + more, 0
                continue
            if fault:
                raise InputError(f"{where}, row {row + 1}: not JSON: {fault}")
            before, place, row = "element", end, row + 1
            yield element
    if (text[place + 1 :] + file.read()).strip(" \t\r\n"):
        raise InputError(f"{where}: not JSON: more follows after the list")


def read_mapping(path: Path, held: str) -> dict[Any, Any]:
    """Return the content of a YAML file. `held`: what it should hold, for the error.

    Raises InputError that names the file, when it cannot be read or holds anything else.
    """
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds {type(content).__name__}, not {held}")
    return content


def write_whole(path: Path, text: str) -> None:
    """Write a file, in a folder that need not be there; a kill leaves the old content or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    started = path.with_name(f"{path.name}.started")
    started.write_text(text, encoding="utf-8")
    started.replace(path)


def stamp(path: Path) -> tuple[int, int]:
    """Return size and time of last change (ns) of a file, or (-1, -1) where none can be seen."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def file_hash(path: Path) -> str:
    """SHA-256 of a regular file, which is read in pieces. Raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PACKAGES = (
    *("mmi-plugin", "lmms-eval", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers"),
    *("safetensors", "scikit-learn", "numpy", "pillow"),
)


def versions() -> dict[str, str]:
    """Return the installed versions of Python and of every package that can change a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
