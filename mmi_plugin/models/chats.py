"""Chats in, the same with other parts out: turns of texts and images, as chat templates of transformers take them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from PIL import Image

Chat = list[dict[str, Any]]
Part = dict[str, Any]


def turn_of(role: str, text: str) -> dict[str, Any]:
    """Return a turn of one text."""
    return {"role": role, "content": [{"type": "text", "text": text}]}


def content(turn: Mapping[str, Any]) -> str:
    """Return the text of a turn."""
    return "".join(part["text"] for part in turn["content"] if part["type"] == "text")


def images_of(chat: Chat) -> list[Image.Image]:
    """Return the images of a chat, in order."""
    return [part["image"] for turn in chat for part in turn["content"] if part["type"] == "image"]


def mapped(chat: Chat, change: Callable[[str, Part], list[Part]]) -> Chat:
    """Return a chat whose parts are what `change` makes of each, given the role of its turn."""
    return [
        {**turn, "content": [new for part in turn["content"] for new in change(turn["role"], part)]} for turn in chat
    ]


def texts_alone(chat: Chat) -> Chat:
    """Return a chat whose images are places alone: templates take only their number."""
    return mapped(chat, lambda role, part: [part if part["type"] == "text" else {"type": part["type"]}])


def with_image(chat: Chat, image: Image.Image) -> Chat:
    """Return a chat that shows `image` in place of its one."""
    return mapped(chat, lambda role, part: [{**part, "image": image} if part["type"] == "image" else part])


def with_line(chat: Chat, line: str) -> Chat:
    """Return a chat whose last text has one line more."""
    if not line:
        return chat
    *before, turn = chat
    parts = list(turn["content"])
    last = max(place for place, part in enumerate(parts) if part["type"] == "text")
    parts[last] = {**parts[last], "text": f"{parts[last]['text']}\n{line}"}
    return [*before, {**turn, "content": parts}]
