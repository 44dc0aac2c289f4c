"""Confidence intervals of the difference between two shares, for many tags at once."""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Limits = tuple[Floats, Floats]
"""Lower and upper, float64 [n]."""


def quantile(error: float) -> float:
    """Of the normal distribution, for two-sided intervals that miss with this probability, above 0 and below 1."""
    return NormalDist().inv_cdf(1 - error / 2)


def wilson(hits: Counts, images: int, z: float) -> Limits:
    """Score interval of a share. hits: of so many images, which are 1 at least.

    Wilson, E. B. (1927): Probable inference, the law of succession, and statistical inference. JASA 22, 209–212.
    """
    share = hits / images
    middle = share + z * z / (2 * images)
    half = z * np.sqrt(share * (1 - share) / images + z * z / (4 * images**2))
    scale = 1 + z * z / images
    return np.clip((middle - half) / scale, 0, share), np.clip((middle + half) / scale, share, 1)


def of_unpaired(hits_a: Counts, images_a: int, hits_b: Counts, images_b: int, z: float) -> Limits:
    """Limits of share_b - share_a, of two independent samples: the hybrid score interval.

    Newcombe, R. G. (1998): Interval estimation for the difference between independent proportions: comparison of
    eleven methods. Statistics in Medicine 17, 873–890, method 10.
    """
    nothing = np.zeros(len(hits_a))
    return _combined(hits_a, images_a, hits_b, images_b, nothing, z)


def of_paired(both: Counts, only_a: Counts, only_b: Counts, images: int, z: float) -> Limits:
    """Limits of share_b - share_a where the same images are in both: the hybrid score interval with correlation.

    Newcombe, R. G. (1998): Improved confidence intervals for the difference between binomial proportions based on
    paired data. Statistics in Medicine 17, 2635–2650, method 10.
    """
    in_a, in_b, neither = both + only_a, both + only_b, images - both - only_a - only_b
    agreeing = both.astype(np.float64) * neither - only_a.astype(np.float64) * only_b
    # The correction for continuity: a correlation that is positive counts as less.
    agreeing = np.where(agreeing > 0, np.maximum(agreeing - images / 2, 0), agreeing)
    spread = np.sqrt(in_a.astype(np.float64) * (images - in_a)) * np.sqrt(in_b.astype(np.float64) * (images - in_b))
    correlation = np.divide(agreeing, spread, out=np.zeros_like(agreeing), where=spread > 0)
    return _combined(in_a, images, in_b, images, correlation, z)


def _combined(hits_a: Counts, images_a: int, hits_b: Counts, images_b: int, correlation: Floats, z: float) -> Limits:
    a, b = hits_a / images_a, hits_b / images_b
    (low_a, high_a), (low_b, high_b) = wilson(hits_a, images_a, z), wilson(hits_b, images_b, z)
    down = _length(b - low_b, high_a - a, correlation)
    up = _length(high_b - b, a - low_a, correlation)
    return np.clip(b - a - down, -1, 1), np.clip(b - a + up, -1, 1)


def _length(one: Floats, other: Floats, correlation: Floats) -> Floats:
    """Of the third side of a triangle. Rounding may leave less than nothing where the two are equal."""
    square = one**2 - 2 * correlation * one * other + other**2
    return np.sqrt(np.maximum(square, 0))
