"""Confidence intervals of differences between shares."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.intervals import of_paired, of_unpaired, quantile, wilson

Z = quantile(0.05)
TABLES = st.tuples(*[st.integers(0, 400)] * 4).filter(any)


def one(count: int) -> np.ndarray:
    return np.array([count], np.int64)


def paired(both: int, only_a: int, only_b: int, neither: int, z: float = Z) -> tuple[float, float]:
    low, high = of_paired(one(both), one(only_a), one(only_b), both + only_a + only_b + neither, z)
    return float(low[0]), float(high[0])


def unpaired(hits_a: int, images_a: int, hits_b: int, images_b: int) -> tuple[float, float]:
    low, high = of_unpaired(one(hits_a), images_a, one(hits_b), images_b, Z)
    return float(low[0]), float(high[0])


@pytest.mark.parametrize(("hits", "images", "low", "high"), [(81, 263, 0.2553, 0.3662), (0, 20, 0.0, 0.1611)])
def test_wilson_is_as_published(hits: int, images: int, low: float, high: float) -> None:
    """Examples of Newcombe (1998), Statistics in Medicine 17, 857-872, method 3."""
    found = wilson(one(hits), images, Z)
    assert (found[0][0], found[1][0]) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("hits_a", "images_a", "hits_b", "images_b", "low", "high"),
    [(48, 80, 56, 70, 0.0524, 0.3339), (3, 10, 9, 10, 0.1705, 0.8090), (0, 10, 0, 10, -0.2775, 0.2775)],
)
def test_unpaired_limits_are_as_published(
    hits_a: int, images_a: int, hits_b: int, images_b: int, low: float, high: float
) -> None:
    """Examples of Newcombe (1998), table II, method 10."""
    assert unpaired(hits_a, images_a, hits_b, images_b) == pytest.approx((low, high), abs=5e-5)


def test_paired_limits_are_as_published() -> None:
    """An example of Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10, as B against A."""
    assert paired(36, 12, 2, 0) == pytest.approx((-0.3404, -0.0569), abs=5e-5)


@given(TABLES)
def test_limits_turn_round_with_the_runs(table: tuple[int, int, int, int]) -> None:
    """B against A is the negative of A against B, and both lie around the difference, within -1 ... 1."""
    both, only_a, only_b, neither = table
    low, high = paired(both, only_a, only_b, neither)
    turned = paired(both, only_b, only_a, neither)
    assert (low, high) == pytest.approx((-turned[1], -turned[0]), abs=1e-12)
    change = (only_b - only_a) / sum(table)
    assert -1 <= low <= change + 1e-12
    assert change - 1e-12 <= high <= 1


@given(TABLES)
def test_more_images_and_less_certainty_make_limits_closer(table: tuple[int, int, int, int]) -> None:
    """A hundred times the images, or another error."""
    low, high = paired(*table)
    closer = paired(*(100 * count for count in table))
    wider = paired(*table, z=quantile(0.001))
    assert closer[1] - closer[0] < high - low <= wider[1] - wider[0] + 1e-12


@pytest.mark.parametrize(("p_both", "p_a", "p_b"), [(0.3, 0.1, 0.15), (0.05, 0.01, 0.01), (0.02, 0.005, 0.02)])
def test_pairs_are_covered_as_often_as_is_said(p_both: float, p_a: float, p_b: float) -> None:
    """Of 4,000 drawn tables at least 94 of 100 intervals hold the true difference, and not nearly all."""
    images = 500
    drawn = np.random.default_rng(3).multinomial(images, [p_both, p_a, p_b, 1 - p_both - p_a - p_b], size=4_000)
    low, high = of_paired(drawn[:, 0], drawn[:, 1], drawn[:, 2], images, Z)
    covered = float(((low <= p_b - p_a) & (p_b - p_a <= high)).mean())
    assert 0.94 <= covered <= 0.995


def test_pairs_are_closer_than_two_samples() -> None:
    """What most images have in both runs tells nothing of the difference."""
    low, high = paired(400, 10, 30, 560)
    loose = unpaired(410, 1000, 430, 1000)
    assert high - low < 0.5 * (loose[1] - loose[0])
    assert low > 0 > loose[0]
