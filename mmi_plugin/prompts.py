"""The prompt: one format for every benchmark, model and training row."""

from __future__ import annotations

from typing import Any

from mmi_plugin.items import LETTERS, Item

INSTRUCTION = "Answer with the letter of one option."


def user_text(item: Item) -> str:
    """Return the user's turn: context that a condition added, question, lettered options."""
    parts = [item.context] if item.context else []
    parts.append(f"Question:\n{item.question}")
    if item.options:
        listed = [f"{letter}: {option}" for letter, option in zip(LETTERS, item.options, strict=False)]
        parts += ["Option:", *listed, INSTRUCTION]
    return "\n".join(parts)


def target(item: Item) -> str:
    """Return what the model should answer: the gold letter, or the free-form answer."""
    return item.gold or item.answer


def messages(item: Item, answer: str | None = None) -> list[dict[str, Any]]:
    """Return the chat in the form that `processor.apply_chat_template` takes, image first."""
    content: list[dict[str, Any]] = [{"type": "text", "text": user_text(item)}]
    if item.image is not None:
        content.insert(0, {"type": "image", "image": item.image})
    chat = [{"role": "user", "content": content}]
    if answer is not None:
        chat.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return chat
