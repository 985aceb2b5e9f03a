"""The prompt: one format for every benchmark, model and training row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mmi_plugin.items import LETTERS, Item

INSTRUCTION = "Answer with the letter of one option."


def user_text(item: Item) -> str:
    """Return the user's turn: question, lettered options, and before or after them what a condition added."""
    parts = [item.context] if item.context else []
    parts.append(f"Question:\n{item.question}")
    if item.options:
        listed = [f"{letter}: {option}" for letter, option in zip(LETTERS, item.options, strict=False)]
        parts += ["Option:", *listed]
    if item.context_after:
        parts.append(item.context_after)
    if item.options:
        parts.append(INSTRUCTION)
    return "\n".join(parts)


def target(item: Item) -> str:
    """Return what the model should answer: the gold letter, or the free-form answer."""
    return item.gold or item.answer


def messages(item: Item, answer: str | None = None) -> list[dict[str, Any]]:
    """Return the chat in the form that `processor.apply_chat_template` takes, images first, earlier turns before."""
    chat = []
    for question, reply in item.history:
        chat += [_turn("user", user_text(replace(item, question=question))), _turn("assistant", reply)]
    chat.append(_turn("user", user_text(item)))
    chat[0]["content"][:0] = [{"type": "image", "image": image} for image in item.images]
    if answer is not None:
        chat.append(_turn("assistant", answer))
    return chat


def _turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}
