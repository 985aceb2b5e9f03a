"""The order of requests: images meet in a batch and on a rank."""

from __future__ import annotations

from collections import Counter

import pytest

from mmi_plugin.harness.task import rank_order
from mmi_plugin.models.order import OrderKey, batches, shared_images


def _requests() -> list[OrderKey]:
    """30 images under four texts each, and ten prompts whose image nobody else shows."""
    lengths = (40, 60, 150, 170)
    shared = [OrderKey("{}", f"image{item}", length + item) for item in range(30) for length in lengths]
    return [*shared, *(OrderKey("{}", f"own{index}", 50) for index in range(5)), *[OrderKey("{}", None, 50)] * 5]


@pytest.mark.parametrize("size", [1, 4, 16])
def test_every_request_is_in_one_batch_and_an_image_in_neighbours_alone(size: int) -> None:
    requests = _requests()
    found = list(batches(requests, size))
    assert sorted(index for batch in found for index in batch) == list(range(len(requests)))
    assert max(map(len, found)) == size
    kept, seen = set(), set()  # the images of the last batch are at hand
    for batch in found:
        images = {requests[index].image for index in batch} & shared_images(requests)
        assert not (images & seen) - kept, "computed a second time"
        kept, seen = images, seen | images


def test_batches_are_of_one_setting_and_the_padded_ones_of_like_length() -> None:
    requests = [*_requests(), *(OrderKey('{"a": 1}', "image0", 40) for _ in range(3))]
    requests += [OrderKey("{}", f"alone{index}", 30 + 5 * index) for index in range(40)]
    shared = shared_images(requests)
    padded = []
    for batch in batches(requests, 16):
        assert len({requests[index].settings for index in batch}) == 1
        kinds = {requests[index].image in shared for index in batch}
        assert len(kinds) == 1, "what shares an image is not padded"
        padded += [requests[index].length for index in batch] if kinds == {False} else []
    assert padded == sorted(padded, reverse=True) and len(padded) == 50
    first = next(batch for batch in batches(_requests(), 16) if _requests()[batch[0]].image in shared)
    assert _requests()[first[0]].length == 199, "the longest of all: memory runs out early, if it does"


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_get_whole_images_and_equal_shares(ranks: int) -> None:
    images = [f"image{row % 13}" for row in range(100)] + [None]
    order = rank_order(images, ranks)
    assert sorted(order) == list(range(len(images)))
    parts = [[images[row] for row in order[rank::ranks]] for rank in range(ranks)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    on_ranks = Counter(image for part in parts for image in set(part))
    assert sum(on_ranks.values()) - len(on_ranks) <= ranks - 1, "an image is on two ranks only at a border"
