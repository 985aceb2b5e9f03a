"""Folders that one process at a time writes, disks that take no more, and files that are still what they were."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from mmi_plugin.errors import InputError


class NotWritten(OSError):
    """What could not be written and why, in one line."""


FULL, LITTLE = (errno.ENOSPC, errno.EDQUOT), 2**20  # bytes that are as good as none


@contextmanager
def writing(folder: Path, what: str) -> Iterator[None]:
    """Within, `what` is written in `folder`. Raises NotWritten where the disk is full or fails."""
    try:
        yield
    except (NotWritten, InputError):
        raise
    except Exception as error:
        # Writers in C++ and Rust tell in words of their own, or not at all, that the disk is full.
        known = isinstance(error, OSError) and error.errno is not None
        full = error.errno in FULL if known else is_full(folder, str(error))
        if not known and not full:
            raise
        reason = "no space left on the disk" if full else error.strerror
        raise NotWritten(f"{folder}: {what} cannot be written: {reason}") from error


def is_full(folder: Path, said: str = "") -> bool:
    """Whether a disk has no room, or what writes on it `said` so."""
    return "No space left" in said or shutil.disk_usage(_there(folder)).free < LITTLE


def _there(folder: Path) -> Path:
    """Return the first of a folder and those above it that is there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def check_writable(place: Path, where: str, is_file: bool = False) -> None:
    """Raise InputError that begins with `where` unless a folder, or a file, could be written, and leave nothing."""
    try:
        if is_file and place.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with TemporaryFile(dir=_there((place.parent if is_file else place).absolute())):
            pass
    except OSError as error:
        raise InputError(f"{where}: cannot be written ({error.strerror})") from error


LOCK_SECONDS = 8.0  # data loaders hold the lock of a killed process for up to 5 more


@contextmanager
def locked(folder: Path, user: str, name: str = ".lock") -> Iterator[None]:
    """Within, `folder`, which is made, is this process's own; the lock ends with the process, however that ends.

    name: of the file that is locked, one for each use of the folder.

    Raises InputError that names `user` of the folder, when that is another one and stays; NotWritten.
    """
    until, path = time.monotonic() + LOCK_SECONDS, folder / name
    with ExitStack() as held:
        with writing(folder, "the lock"):
            while not _lock(path, held):
                if time.monotonic() > until:
                    raise InputError(f"{folder}: {user} is writing here; give this one another folder")
                time.sleep(0.1)
        yield


def _lock(path: Path, held: ExitStack) -> bool:
    """Whether a file that is still there could be locked; `held` then holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        file = opened.enter_context(path.open("a"))
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
            return False
        held.enter_context(opened.pop_all())
    return True


SAMPLES, BLOCK = 64, 2**18  # bytes a block


def sampled_hash(path: Path) -> str:
    """Return a hash of a file's size and of all of it, or of blocks all over it where it is larger than 16 MiB."""
    size = path.stat().st_size
    most = SAMPLES * BLOCK
    places = [0] if size <= most else [number * (size - BLOCK) // (SAMPLES - 1) for number in range(SAMPLES)]
    state = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for place in places:
            file.seek(place)
            state.update(file.read(most if size <= most else BLOCK))
    return state.hexdigest()[:32]
