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

from mmi_plugin.disk import writing
from mmi_plugin.errors import InputError
from mmi_plugin.plugins import plugins


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

    Only b"\\n" ends a line: what else Unicode calls a line break may stand within a JSON text.
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
_DECODER = json.JSONDecoder()
_LENIENT = json.JSONDecoder(strict=False, parse_int=str)  # tells where an element ends that is not quite JSON
_MARKS = re.compile(r'"(?:[^"\\]|\\.)*"|["\[\]{}]', re.DOTALL)  # a text, or what opens or closes something


def json_list(path: Path, where: str = "") -> Iterator[Any]:
    """Yield the elements of a JSON list, holding one piece of the file at a time.

    Bytes that are not UTF-8 become lone surrogates in the text that they stand in, so that they spoil one row. An
    element that cannot be read, but whose end is known, comes as an InputError: see `as_record`.

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


def as_record(element: Any, where: str) -> dict[str, Any]:
    """Return an element of a JSON list or line. Raises InputError for what is no record or could not be read."""
    if isinstance(element, InputError):
        raise element
    if not isinstance(element, dict):
        raise InputError(f"{where}: is {type(element).__name__}, not a record")
    return element


def _elements(file: TextIOWrapper, where: str) -> Iterator[Any]:
    text, place, row = "", 0, 0
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
            element, end = _element(text, place, f"{where}, row {row + 1}")
            # At the end of a piece, an element may go on in the next one.
            if end in (None, len(text)) and (more := file.read(max(CHUNK, len(text)))):
                text, place = text[place:] + more, 0
                continue
            if end is None:
                raise InputError(f"{element}; where the next row begins is not known")
            before, place, row = "element", end, row + 1
            yield element
    if (text[place + 1 :] + file.read()).strip(" \t\r\n"):
        raise InputError(f"{where}: not JSON: more follows after the list")


def _element(text: str, place: int, where: str) -> tuple[Any, int | None]:
    """Return the element that begins at `place`, or an InputError, and where it ends, if that is known."""
    try:
        return _DECODER.raw_decode(text, place)
    except RecursionError as error:
        return _not_json(error, where), _closed(text, place)
    except ValueError as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else error
        fault = InputError(f"{where}: not JSON: {said}")
        if isinstance(error, json.JSONDecodeError) and not error.msg.startswith("Invalid control character"):
            return fault, None
    try:
        return fault, _LENIENT.raw_decode(text, place)[1]
    except (ValueError, RecursionError):
        return fault, None


def _closed(text: str, place: int) -> int | None:
    """Return where all is closed again that is opened at `place`; None where that is not so in this text."""
    closers: list[str] = []
    for mark in _MARKS.finditer(text, place):
        if mark[0] in "[{":
            closers.append("]" if mark[0] == "[" else "}")
        elif mark[0] in "]}" and closers.pop() == mark[0]:
            if not closers:
                return mark.end()
        elif len(mark[0]) == 1:
            return None
    return None


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


STARTED = ".started"


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file, in a folder that need not be there; a kill or a full disk leaves the old content or the new one.

    Raises:
        InputError: there can be no such folder.
        NotWritten: the disk takes no more.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    started = path.with_name(f"{path.name}{STARTED}")
    if isinstance(content, str):
        content = content.encode(errors="backslashreplace")  # of names of files that are no UTF-8
    with writing(path.parent, path.name):
        try:
            started.write_bytes(content)
            started.replace(path)
        except OSError:
            started.unlink(missing_ok=True)
            raise


def stamp(path: Path) -> tuple[int, int]:
    """Return size and time of last change (ns) of a file, or (-1, -1) where none can be seen."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return found.st_size, found.st_mtime_ns


def json_hash(content: Any) -> str:
    """SHA-256 of JSON content, the same whatever the order of its keys; what is no JSON counts as its text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a regular file, which is read in pieces. Raises OSError."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(2**20):
            found.update(piece)
    return found.hexdigest()


PACKAGES = (
    *("mmi-plugin", "lmms-eval", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers"),
    *("safetensors", "scikit-learn", "scikit-image", "numpy", "pillow"),
)


def versions() -> dict[str, str]:
    """Return the installed versions of Python and of every package that can change a number, plugins included."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found | plugins()
