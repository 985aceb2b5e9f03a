"""What results say of attacks: numbers of their records, and each of AutoAttack's reasons to doubt them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import scipy.stats

from mmi_plugin.errors import InputError
from mmi_plugin.results import Record
from mmi_plugin.results.attacks import attacks, check_attack, warnings

TOLD = {
    "seconds": 2.0,
    "passes": 10.0,
    "radius": 0.5,
    "loss": [0.1, 0.3],
    "still": False,
    "random": False,
    "apart": False,
}


def records(shares: dict[str, float], size: int = 100, **told: object) -> list[Record]:
    return [
        Record(str(n), name, 0, "A", "A" if n < share * size else "B", "A", attack={**TOLD, **told})
        for name, share in shares.items()
        for n in range(size)
    ]


def test_numbers_are_means_over_items_and_a_broken_row_stays_as_it_was() -> None:
    one = records({"adversarial_embeddings": 0.25}, 4)
    one[0].attack.update(loss=[0.5], seconds=6.0)
    (found,) = attacks(one, ("clean", "adversarial_embeddings"))
    assert found.accuracy.value == 0.25 and found.accuracy.low < 0.25 < found.accuracy.high
    assert (found.seconds, found.passes, found.radius) == (3.0, 10.0, 0.5)
    assert found.loss == pytest.approx(((0.1 * 3 + 0.5) / 4, (0.3 * 3 + 0.5) / 4))


def test_items_that_share_an_image_count_as_one() -> None:
    name = "adversarial_embeddings"
    single, paired = records({name: 0.5}, 20), records({name: 0.5}, 40)
    paired = [replace(record, cluster=str(place // 2)) for place, record in enumerate(paired)]
    (alone,), (found,) = attacks(single, (name,)), attacks(paired, (name,))
    assert found.accuracy.value == alone.accuracy.value == 0.5
    # Both of a pair are right or wrong, so 40 items are 20 pairs, with the variance and quantile of 19 degrees.
    quantile = scipy.stats.t.ppf(0.975, 19)
    share, size = 0.5, 20 * 19 / 20
    reach = quantile * (share * (1 - share) / size + quantile**2 / (4 * size**2)) ** 0.5 / (1 + quantile**2 / size)
    assert (found.accuracy.low, found.accuracy.high) == pytest.approx((0.5 - reach, 0.5 + reach))


@pytest.mark.parametrize(
    ("shares", "told", "said"),
    [
        ({"adversarial_embeddings": 0.0}, {"random": True}, "other outputs for 100 of 100 items"),
        ({"adversarial_embeddings": 0.0}, {"apart": True}, "is not the one answered for 100 of 100 items"),
        ({"adversarial_embeddings": 0.0}, {"still": True}, "the gradient was zero or no number for 100 of 100 items"),
        ({"adversarial_embeddings": 0.04, "square_embeddings": 0.0}, {}, "0.0% under square_embeddings"),
        ({"adversarial_embeddings": 0.04, "noise_embeddings": 0.0}, {}, "0.0% under noise_embeddings"),
        (
            {"adversarial_embeddings@eps=0.3": 0.06, "adversarial_embeddings": 0.9},
            {},
            "adversarial_embeddings@eps=0.3: 6.0% are right at eps 0.3, the largest asked",
        ),
    ],
)
def test_an_attack_is_doubted(shares: dict[str, float], told: dict[str, object], said: str) -> None:
    assert said in "\n".join(warnings(records(shares, **told), tuple(shares)))


def test_an_attack_that_breaks_all_is_not_doubted() -> None:
    shares = {"noise_embeddings": 1.0, "adversarial_embeddings@eps=0.03": 0.9, "adversarial_embeddings@eps=0.3": 0.0}
    assert warnings(records(shares), tuple(shares)) == []
    other = {"adversarial_embeddings": 0.0, "square_embeddings@eps=0.3": 0.0}  # of another size
    assert warnings(records(other), tuple(other)) == []


@pytest.mark.parametrize(
    "told", [{"seconds": -1}, {"seconds": True}, {"loss": ["x"]}, {"loss": [1e300]}, {"still": 1}, {"radius": None}]
)
def test_a_record_of_an_unknown_hand_is_not_believed(told: dict[str, object]) -> None:
    check_attack({"attack": TOLD}, "here")
    check_attack({}, "here")
    with pytest.raises(InputError, match="here"):
        check_attack({"attack": {**TOLD, **told}}, "here")
