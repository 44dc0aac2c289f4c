"""What a quote is asked for, and what it answers; durations and amounts as people read them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.quoting.mix import Mix
from pipeline.quoting.rentals import Market, Rental
from pipeline.quoting.simulate import Job

_AGES_S = 3600e6


@dataclass(frozen=True)
class Wish:
    """What is asked for.

    deadline_s: of the whole run; confidence: share of the simulated runs that are to meet it; runs: how many of them.
    """

    images: int
    deadline_s: float | None = None
    budget: float | None = None
    confidence: float = 0.9
    runs: int = 20
    seed: int = 0


@dataclass(frozen=True)
class Range:
    """The middle one of drawn values, and those between which four of five lie."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Point:
    """A mix of the curve of cost against time, with what is drawn of both."""

    mix: Mix
    seconds: Range
    dollars: Range


@dataclass(frozen=True)
class Line:
    """One kind of node of the chosen mix, means over the simulated runs.

    images_per_dollar: all told; full_images_per_dollar: of a node that never starts or waits; both infinite for what is
    free; shares: of its paid time by split; dollars: as simulated.
    """

    rental: Rental
    nodes: int
    images: float
    dollars: float
    preemptions: float
    full_images_per_dollar: float
    shares: Mapping[str, float]

    @property
    def images_per_dollar(self) -> float:
        """What its nodes did for what they cost."""
        return self.images / self.dollars if self.dollars else math.inf


@dataclass(frozen=True)
class Quote:
    """The answer.

    met, afforded: share of the simulated runs that kept deadline and budget, None without one; redone: images done
    again, the mean; rows: of a chunk as simulated, real_rows: as a run would cut it; lines: all kinds of the market,
    rented or not; curve: in order of time; explanation: in sentences.
    """

    wish: Wish
    market: Market
    job: Job
    mix: Mix
    seconds: Range
    dollars: Range
    met: float | None
    afforded: float | None
    redone: float
    rows: int
    real_rows: int
    lines: tuple[Line, ...]
    curve: tuple[Point, ...]
    explanation: tuple[str, ...] = ()


def hours(seconds: float) -> str:
    """A duration for people."""
    if seconds < 600:
        return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < _AGES_S else f"{seconds / 3600:.1e} h"


def money(amount: float, currency: str) -> str:
    """An amount for people."""
    sign = "$" if currency == "USD" else f"{currency} "
    return f"{sign}{amount:,.2f}" if amount >= 0.1 or not amount else f"{sign}{amount:.2g}"


def thousands_per_dollar(images_per_dollar: float) -> str:
    """Images per dollar for people, in thousands."""
    return f"{images_per_dollar / 1000:,.0f}K" if math.isfinite(images_per_dollar) else "free"
