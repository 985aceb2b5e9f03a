"""What the order of prompts depends on in, batches out: what shares an image stands together, the longest first."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from mmi_plugin.conditions import FLOOR, get

Found = TypeVar("Found")


class OrderKey(NamedTuple):
    """What the order of a prompt depends on. image: what its images are known by, or None. length: in characters."""

    settings: str
    image: str | None
    length: int


def order_key(document: Mapping[str, Any], settings: str = "") -> OrderKey:
    """Return what the order of a document depends on; what is asked again, and each attack, in batches of its own."""
    name = document["condition"]
    own = name if name == FLOOR or get(name).attack else ""
    return OrderKey(settings + own, document["image_key"], len(document["prompt"]))


def answer_all(
    keys: Sequence[OrderKey],
    size: int | Callable[[bool], int],
    answer: Callable[[list[int]], Sequence[Found]],
    report: Callable[[int, Found], None] | None = None,
) -> list[Found]:
    """Return what `answer` gives for each key, in their order. It gets the places of keys, `size` at most at once.

    size: or what says so before each batch, told whether its prompts share images. report: called with the place and
    the answer, as they come.
    """
    found: dict[int, Found] = {}
    for batch in batches(keys, size):
        for place, one in zip(batch, answer(batch), strict=True):
            found[place] = one
            if report is not None:
                report(place, one)
    return [found[place] for place in range(len(keys))]


def shared_images(keys: Sequence[OrderKey]) -> set[str]:
    """Return the images that more than one prompt shows."""
    counts = Counter(key.image for key in keys if key.image is not None)
    return {image for image, count in counts.items() if count > 1}


def batches(keys: Sequence[OrderKey], size: int | Callable[[bool], int]) -> Iterator[list[int]]:
    """Yield the places of at most `size` prompts of equal settings, the longest first.

    Prompts that share an image stand together, so that it is kept no longer than they are asked; those that share
    none are padded, and go with others of their length.
    """
    shared = shared_images(keys)

    def image(place: int) -> str:
        own = keys[place].image
        return own if own in shared else ""

    def settings(place: int) -> str:
        return keys[place].settings

    longest = Counter()
    for place, key in enumerate(keys):
        longest[settings(place), image(place)] = max(longest[settings(place), image(place)], key.length)
    order = sorted(
        range(len(keys)),
        key=lambda place: (
            settings(place),
            image(place) != "",
            -longest[settings(place), image(place)],
            image(place),
            -keys[place].length,
        ),
    )
    for (_, sharing), alike in groupby(order, key=lambda place: (settings(place), image(place) != "")):
        rows = deque(alike)
        while rows:
            count = size(sharing) if callable(size) else size
            yield [rows.popleft() for _ in range(min(count, len(rows)))]
