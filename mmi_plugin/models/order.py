"""In which order, and on which rank, prompts are answered, so that those with the same image meet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple


class Request(NamedTuple):
    """What the order of a request depends on. `image`: what its images are known by, or None."""

    settings: str
    image: str | None
    length: int


def served(requests: Sequence[Request]) -> set[str]:
    """Return the images that more than one request shows."""
    counts = Counter(request.image for request in requests if request.image is not None)
    return {image for image, count in counts.items() if count > 1}


def batches(requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Yield indices of at most `size` requests of equal settings, the longest first.

    Requests that share images come in blocks of at most `size` images, so that what is kept of
    these serves all their requests, and within a block those of similar length go together.
    """
    shared = served(requests)

    def image(index: int) -> str:
        own = requests[index].image
        return own if own in shared else ""

    def settings(index: int) -> str:
        return requests[index].settings

    order = sorted(range(len(requests)), key=lambda index: (settings(index), image(index), -requests[index].length))
    for _, alike in groupby(order, key=settings):
        groups = [(name, list(members)) for name, members in groupby(alike, key=image)]
        for block in _blocks(groups, size):
            rows = sorted(block, key=lambda index: -requests[index].length)
            yield from _cut(rows, requests, size)


def _blocks(groups: Sequence[tuple[str, list[int]]], size: int) -> Iterator[list[int]]:
    """Yield the members of `size` images at a time, and of all unshared requests at once."""
    yield from (members for name, members in groups if not name)
    kept = [members for name, members in groups if name]
    for start in range(0, len(kept), size):
        yield [index for members in kept[start : start + size] for index in members]


def _cut(rows: Sequence[int], requests: Sequence[Request], size: int) -> Iterator[list[int]]:
    """Yield batches; where images are shared, padding is most of what is computed for a row of half the length."""
    batch: list[int] = []
    for index in rows:
        short = batch and requests[index].image is not None and 2 * requests[index].length < requests[batch[0]].length
        if len(batch) == size or short:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def dealt(images: Sequence[str | None], ranks: int) -> list[int]:
    """Return an order of rows in which dealing them out in turn gives each rank whole images.

    lmms-eval gives row i to rank i mod `ranks`. At most `ranks` - 1 images end up on two of them.
    """
    order = sorted(range(len(images)), key=lambda row: images[row] or "")
    sizes = [len(range(rank, len(images), ranks)) for rank in range(ranks)]
    starts = [sum(sizes[:rank]) for rank in range(ranks)]
    return [order[starts[row % ranks] + row // ranks] for row in range(len(images))]
