"""Folders that one process at a time writes, disks that take no more, and files that are still what they were."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

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
        full = error.errno in FULL if known else "No space left" in str(error) or _free(folder) < LITTLE
        if not known and not full:
            raise
        reason = "no space left on the disk" if full else error.strerror
        raise NotWritten(f"{folder}: {what} cannot be written: {reason}") from error


def _free(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


LOCK_SECONDS = 8.0  # data loaders hold the lock of a killed process for up to 5 more


@contextmanager
def locked(folder: Path, user: str) -> Iterator[None]:
    """Within, `folder`, which is made, is this process's own; the lock ends with the process, however that ends.

    Raises InputError that names `user` of the folder, when that is another one and stays; NotWritten.
    """
    lock = FileLock(folder / ".lock", timeout=LOCK_SECONDS)
    with writing(folder, "the lock"):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(f"{folder}: {user} is writing here; give this one another folder") from error
    try:
        yield
    finally:
        lock.release()


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
