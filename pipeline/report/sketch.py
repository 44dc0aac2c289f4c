"""Quantiles of a stream of positive numbers in bounded memory."""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

ACCURACY = 0.01
"""Quantiles are within this share of the true value."""

_GAMMA = (1 + ACCURACY) / (1 - ACCURACY)
_LOG_GAMMA = math.log(_GAMMA)
_LEAST = 1e-9


class Sketch:
    """A histogram with bins of equal ratio; memory grows with the spread of the values, not with their number.

    The rule of DDSketch (Masson, Rim and Lee, 2019): bin i counts the values in (γ^(i-1), γ^i], γ = (1+α)/(1-α), and
    stands for 2γ^i/(γ+1), which is within the share α of each of them. Values under 1e-9 count as 1e-9.
    """

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self.count = 0

    def add(self, values: ArrayLike) -> None:
        """Take in numbers, none of them NaN."""
        array = np.maximum(np.asarray(values, dtype=np.float64).ravel(), _LEAST)
        bins, counts = np.unique(np.ceil(np.log(array) / _LOG_GAMMA).astype(np.int64), return_counts=True)
        self._bins.update(dict(zip(bins.tolist(), counts.tolist(), strict=True)))
        self.count += array.size

    def merge(self, other: "Sketch") -> None:
        """Take in what another has seen."""
        self._bins.update(other._bins)
        self.count += other.count

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """The values that these shares of all numbers are no larger than. Raises ValueError if there are none."""
        if not self.count:
            raise ValueError("no values, no quantiles")
        bins = np.array(sorted(self._bins))
        below = np.cumsum([self._bins[number] for number in bins.tolist()])
        ranks = np.maximum(np.ceil(np.asarray(shares) * self.count), 1)
        return [_middle(int(bins[place])) for place in np.searchsorted(below, ranks)]

    def histogram(self, edges: ArrayLike) -> NDArray[np.int64]:
        """How many values lie between neighbouring edges, as far as bins can tell; int64 [edges - 1]."""
        bins = sorted(self._bins)
        middles = np.array([_middle(number) for number in bins])
        counts, _ = np.histogram(middles, edges, weights=np.array([self._bins[number] for number in bins], np.int64))
        return counts.astype(np.int64)


def _middle(number: int) -> float:
    return float(2 * _GAMMA**number / (_GAMMA + 1))
