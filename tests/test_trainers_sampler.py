from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from accelerate.data_loader import BatchSamplerShard, SkipBatchSampler

from mmi_plugin.errors import InputError
from mmi_plugin.trainers.groups import RatioBatchSampler

FAMILIES = ["image_heavy"] * 11 + ["text_heavy"] * 5 + ["vqa"] * 30


def steps(batch_size: int, batches_per_step: int, mix: tuple[int, ...] = (2, 2, 4), epochs: int = 3) -> list[list]:
    sampler = RatioBatchSampler(FAMILIES, mix, batch_size, batches_per_step, seed=7)
    batches = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        batches += list(sampler)
    assert all(len(batch) == batch_size for batch in batches)
    whole = [list(chain(*batches[i : i + batches_per_step])) for i in range(0, len(batches), batches_per_step)]
    assert len(whole) == epochs * sampler.steps == epochs * len(sampler) / batches_per_step
    return whole


def test_every_step_has_the_mix() -> None:
    for step in steps(8, 2):
        assert Counter(FAMILIES[index] for index, _ in step) == {"image_heavy": 4, "text_heavy": 4, "vqa": 8}


def test_the_cut_into_micro_batches_does_not_change_a_step() -> None:
    assert steps(16, 1) == steps(8, 2) == steps(2, 8)


def test_a_micro_batch_of_whole_mixes_has_the_mix_itself() -> None:
    sampler = RatioBatchSampler(FAMILIES, (2, 2, 4), 8, 2, seed=7)
    for batch in sampler:
        assert Counter(FAMILIES[index] for index, _ in batch) == {"image_heavy": 2, "text_heavy": 2, "vqa": 4}


def test_every_item_is_seen_once_before_any_is_seen_again() -> None:
    places = list(chain(*steps(8, 1, epochs=4)))
    for family in set(FAMILIES):
        items = [i for i, name in enumerate(FAMILIES) if name == family]
        drawn = [place for place in places if FAMILIES[place[0]] == family]
        for start in range(0, len(drawn) - len(items) + 1, len(items)):
            turn = drawn[start : start + len(items)]
            assert sorted(index for index, _ in turn) == items
            assert {number for _, number in turn} == {start // len(items)}
    assert len(set(places)) == len(places)


def test_an_epoch_sees_every_item() -> None:
    first = list(chain(*steps(8, 1, epochs=1)))
    assert {index for index, _ in first} == set(range(len(FAMILIES)))


def test_an_epoch_that_ends_with_the_shortest_family_repeats_no_item() -> None:
    sampler = RatioBatchSampler(FAMILIES, (2, 2, 4), 8, 1, seed=7, epoch="shortest")
    assert len(sampler) == sampler.steps == 5 // 2
    epochs = []
    for number in range(5):
        sampler.set_epoch(number)
        epochs.append([place for batch in sampler for place in batch])
        assert len({index for index, _ in epochs[-1]}) == len(epochs[-1]) == 16
    assert len({tuple(epoch) for epoch in epochs}) == 5  # a new order each
    assert {turn for _, turn in epochs[3]} == {3} and sampler.rounds("vqa", 5) == 3


def test_seed_and_round_change_the_order() -> None:
    orders = {
        tuple(i for i, _ in RatioBatchSampler(FAMILIES, (0, 0, 1), 30, 1, seed).step(n))
        for seed in (1, 2)
        for n in (0, 1)
    }
    assert len(orders) == 4


def test_skipping_and_sharding_lose_and_double_nothing() -> None:
    sampler = RatioBatchSampler(FAMILIES, (1, 1, 2), 2, 4, seed=7)
    batches = list(sampler)
    assert list(SkipBatchSampler(sampler, 3)) == batches[3:]
    ranks = [list(BatchSamplerShard(sampler, num_processes=2, process_index=rank)) for rank in (0, 1)]
    assert [batch for pair in zip(*ranks, strict=True) for batch in pair] == batches


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
@pytest.mark.parametrize(("batch_size", "accumulated"), [(8, 1), (2, 2), (1, 3)])
def test_processes_share_each_step_without_overlap_or_loss(world: int, batch_size: int, accumulated: int) -> None:
    """Also when a run resumes inside an epoch: accelerate skips on each process what was done."""
    step = batch_size * accumulated * world
    mix = (2, 2, 4) if step % 8 == 0 else (1, 0, 1) if step % 2 == 0 else (0, 1, 2)
    sampler = RatioBatchSampler(FAMILIES, mix, batch_size, accumulated * world, seed=7)
    sampler.set_epoch(1)
    for done in (0, 1, sampler.steps - 1):  # optimizer steps before the resume
        ranks = [BatchSamplerShard(sampler, num_processes=world, process_index=rank) for rank in range(world)]
        batches = [list(SkipBatchSampler(rank, done * accumulated)) for rank in ranks]
        assert {len(own) for own in batches} == {(sampler.steps - done) * accumulated}
        for number in range(done, sampler.steps):
            start = (number - done) * accumulated
            shared = [place for own in batches for batch in own[start : start + accumulated] for place in batch]
            wanted = sampler.step(sampler.steps + number)
            assert len(shared) == len(set(shared)) == step and sorted(shared) == sorted(wanted)


def test_a_mix_that_does_not_divide_names_the_nearest_that_do() -> None:
    with pytest.raises(
        InputError, match=r"2:2:3 \(7 items\) does not divide the 8 items .* mixes .*2:2:4.* sizes: 7 and 14"
    ):
        RatioBatchSampler(FAMILIES, (2, 2, 3), 8, 1, seed=0)


def test_a_mix_larger_than_the_step_is_rejected() -> None:
    with pytest.raises(InputError, match=r"does not divide the 4 items .* 1:1:2"):
        RatioBatchSampler(FAMILIES, (2, 2, 4), 4, 1, seed=0)


def test_a_family_without_items_is_named() -> None:
    with pytest.raises(InputError, match="text_heavy"):
        RatioBatchSampler(["vqa"] * 4, (0, 1, 1), 2, 1, seed=0)
