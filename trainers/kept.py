"""What was found once and holds as long as nothing changes: folders of files in a cache, each under the hash of all
that it depends on."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from mmi_plugin.disk import writing
from mmi_plugin.errors import plain
from mmi_plugin.files import file_hash, json_hash, write_whole

CACHE = "MMI_CACHE"
MANIFEST = "manifest.json"
FORMAT = 1
STARTED, ABANDONED = ".started-", 7 * 24 * 3600  # what is being written, and seconds until nobody does any more
Facts = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """`facts` that were found, and the hash of each file in `folder` that goes with them."""

    folder: Path
    facts: Facts
    files: Mapping[str, str]


def cache_folder() -> Path:
    """Return the folder of MMI_CACHE, by default one beside that of `datasets`."""
    from datasets import config

    return Path(os.environ.get(CACHE) or Path(config.HF_DATASETS_CACHE).parent / "mmi_plugin")


def check_form(right: bool) -> None:
    """Raise ValueError unless what a manifest says has the form that it should have."""
    if not right:
        raise ValueError(f"{MANIFEST} is of another form")


def kept(depends: Any, find: Callable[[Path], Facts], holds: Callable[[Kept], bool] = lambda one: True) -> Kept:
    """Return what was kept for all that it depends on, JSON content; else what `find` finds, and keep it.

    find: writes its files into a folder and returns its facts, JSON content. holds: whether nothing outside has changed
    since; raises ValueError, LookupError or TypeError for facts or files of another form.

    Raises NotWritten; whatever `find` raises, and then nothing is kept.
    """
    key = json_hash([FORMAT, depends])
    home = cache_folder()
    known = _read(home / key, key, holds)
    if known is not None:
        return known
    with writing(home, f"what was checked, which {CACHE} puts elsewhere,"):
        home.mkdir(parents=True, exist_ok=True)
        for old in home.glob(f"{STARTED}*"):
            if time.time() - old.stat().st_mtime > ABANDONED:
                shutil.rmtree(old, ignore_errors=True)
        started = Path(mkdtemp(prefix=STARTED, dir=home))
    try:
        (started / key).mkdir()
        facts = find(started / key)
        with writing(home, "what was checked"):
            files = {path.name: file_hash(path) for path in sorted((started / key).iterdir())}
            content = {"key": key, "files": files, "facts": facts}
            write_whole(started / key / MANIFEST, json.dumps({**content, "seal": json_hash(content)}))
            return Kept(_publish(started / key, home / key), facts, files)
    finally:
        shutil.rmtree(started, ignore_errors=True)


def _publish(folder: Path, place: Path) -> Path:
    """Move a folder to its place, whatever was there before."""
    with suppress(FileNotFoundError):
        place.rename(folder.with_name("before"))
    folder.rename(place)
    return place


def _read(folder: Path, key: str, holds: Callable[[Kept], bool]) -> Kept | None:
    """Return what is kept in a folder and still holds; None, with a line on stderr where it is not what was written."""
    if not folder.exists():
        return None
    try:
        content = json.loads((folder / MANIFEST).read_bytes())
        seal = content.pop("seal")
        if seal != json_hash(content) or content["key"] != key:
            raise ValueError(f"{MANIFEST} is not what was written")
        for name, written in content["files"].items():
            if Path(name).name != name or file_hash(folder / name) != written:
                raise ValueError(f"{name} is not what was written")
        found = Kept(folder, content["facts"], content["files"])
        return found if holds(found) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = plain(str(error)) if isinstance(error, (OSError, ValueError)) else f"{MANIFEST} is of another form"
        print(f"{folder}: ignored, as {reason}; it is found anew", file=sys.stderr)
        return None
