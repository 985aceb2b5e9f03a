"""LLaVA-Instruct-665K, conversations about pictures: its JSON in, items out, one record at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mmi_plugin.errors import InputError
from mmi_plugin.files import as_record, json_list
from mmi_plugin.item import Item, check
from mmi_plugin.sources.local import ROOT, local_copy
from mmi_plugin.sources.records import picture_of, without_mark

NAME = "llava_instruct"
FILE = "llava_v1_5_mix665k.json"
SPEAKERS = ("human", "gpt")


def readers(path: str | None = None) -> Iterator[Callable[[], Item]]:
    """Yield per record what reads its item; that raises an InputError for a bad record.

    path: the JSON file, or a folder with it and with the image folders coco, gqa, ocr_vqa, textvqa
        and vg beside it; by default $MMI_DATA_ROOT/llava_instruct. The hub has no images of it.

    Raises:
        InputError: no such file, or one that is not a JSON list.
    """
    place = local_copy(NAME, path)
    if place is None:
        raise InputError(f"{NAME}: needs a local copy, {FILE} and its image folders, in ${ROOT}/{NAME}")
    file = place / FILE if place.is_dir() else place
    for number, record in enumerate(json_list(file), start=1):
        yield partial(_item, record, f"{file}, row {number}", f"{NAME}-{number:06d}", file.parent)


def _item(record: Any, where: str, name: str, folder: Path) -> Item:
    turns = as_record(record, where).get("conversations")
    if not isinstance(turns, list) or not turns or len(turns) % 2:
        raise InputError(f"{where}: field 'conversations' is not a list of questions and answers in turn")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or turn.get("from") != SPEAKERS[number % 2]:
            raise InputError(f"{where}: field 'conversations', turn {number + 1} is not by {SPEAKERS[number % 2]}")
        if not isinstance(turn.get("value"), str):
            raise InputError(f"{where}: field 'conversations', turn {number + 1} has no text")
    texts = [without_mark(turn["value"]) for turn in turns]
    picture = picture_of(record, where, folder)
    history = tuple(zip(texts[:-2:2], texts[1:-2:2], strict=True))
    return check(Item(name, "vqa", texts[-2], texts[-1], image=picture, history=history), where)
