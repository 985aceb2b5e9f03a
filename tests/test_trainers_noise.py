"""Noise against the known answers of Random123, and against the distributions it is to have."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from mmi_plugin.attacks import noise
from mmi_plugin.attacks.noise import draw, philox

# kat_vectors of Random123: philox4x32 with 10 rounds, the counter's four words, the key's two, and the answer.
KNOWN = """
00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
"""


def test_words_are_the_known_answers() -> None:
    rows = torch.tensor([[int(word, 16) for word in line.split()] for line in KNOWN.split("\n") if line])
    counter, key, answer = rows[:, :4], rows[:, 4:6], rows[:, 6:]
    assert torch.equal(philox(tuple(counter.unbind(1)), tuple(key.unbind(1))), answer)


def test_a_place_of_a_row_has_the_numbers_of_its_counter() -> None:
    seed, place = 0x0123456789ABCDEF, 5
    mask = torch.zeros(1, 9, dtype=torch.bool)
    mask[0, place] = True
    drawn = draw("uniform", mask, torch.tensor([seed]), 7, torch.float64)[0, place]
    counters = tuple(torch.tensor(words) for words in ([0, 1], [place, place], [0, 0], [0, 0]))
    key = (torch.tensor(seed & 0xFFFFFFFF), torch.tensor(seed >> 32))
    assert torch.equal(drawn, (philox(counters, key).flatten() >> 8)[:7].double() / 2**24)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_row_draws_alike_in_any_company_padding_and_block(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, lengths = torch.tensor([7, 2**62 - 1, 7]), torch.tensor([[3], [6], [6]])
    mask = torch.arange(8) < lengths
    together = draw(kind, mask, seeds, 10, torch.float32)
    assert not together[~mask].any() and (together[mask] != 0).all()
    assert torch.equal(together[0, :3], together[2, :3])
    assert not torch.equal(together[1, :6], together[2, :6])
    monkeypatch.setattr(noise, "BLOCKS", {"cpu": 5})  # counters at once, fewer than a row has
    alone = torch.cat([draw(kind, mask[row : row + 1, :6], seeds[row : row + 1], 10, torch.float32) for row in (0, 1)])
    assert torch.equal(alone, together[:2, :6])


@pytest.mark.parametrize(("kind", "law"), [("uniform", stats.uniform()), ("normal", stats.norm())])
def test_numbers_have_their_distribution_and_nothing_in_common(kind: str, law: stats.rv_continuous) -> None:
    """200,000 numbers, neighbours in coordinate, place and seed: Kolmogorov and Smirnov, and correlations."""
    numbers = draw(kind, torch.ones(20, 100, dtype=torch.bool), torch.arange(20), 100, torch.float64)
    assert stats.kstest(numbers.flatten().numpy(), law.cdf).pvalue > 0.01
    for axis in range(3):
        one, other = numbers.narrow(axis, 0, numbers.shape[axis] - 1), numbers.narrow(axis, 1, numbers.shape[axis] - 1)
        assert abs(stats.pearsonr(one.flatten().numpy(), other.flatten().numpy()).statistic) < 0.01
    assert numbers.unique().numel() > (150_000 if kind == "normal" else 190_000)


def test_the_normal_numbers_reach_far_out() -> None:
    """Of a million, 63 beyond 4 standard deviations are expected: 2 (1 - Phi(4)) = 6.3e-5."""
    numbers = draw("normal", torch.ones(10, 100, dtype=torch.bool), torch.arange(10), 1000, torch.float32)
    assert 35 < (numbers.abs() > 4).sum().item() < 95 and numbers.isfinite().all()
