"""Time on a run's axis: seconds of work, with the pauses between its sessions cut out."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CELLS = 4096
_LONGEST_GAP = 0.05
"""Times without any work that are longer than this share of the whole are cut out."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Segment:
    """A stretch of time with work in it, seconds since 1970."""

    start: float
    end: float


@dataclass(frozen=True)
class TimeAxis:
    """Where moments lie on an axis of seconds from the first work on, without the pauses."""

    segments: tuple[Segment, ...]

    @property
    def length(self) -> float:
        """Seconds of all segments."""
        return sum(segment.end - segment.start for segment in self.segments)

    @property
    def cuts(self) -> list[tuple[float, float]]:
        """(where on the axis, how many seconds) of each pause that was cut out."""
        found, at = [], 0.0
        for before, after in zip(self.segments, self.segments[1:], strict=False):
            at += before.end - before.start
            found.append((at, after.start - before.end))
        return found

    def place(self, moments: Floats) -> Floats:
        """Seconds on the axis of moments since 1970; those in a pause go to its place, others to the nearest end."""
        placed = np.zeros_like(moments)
        for segment in self.segments:
            placed += np.clip(moments - segment.start, 0.0, segment.end - segment.start)
        return placed


def time_axis(intervals: Iterable[tuple[Floats, Floats]], first: float, last: float) -> TimeAxis:
    """The axis of a run. intervals: (starts, ends) of pieces of work, in any order; first, last: all lie between."""
    width = (last - first) / _CELLS
    if width <= 0:
        return TimeAxis((Segment(first, last),))
    change = np.zeros(_CELLS + 1, np.int64)
    for starts, ends in intervals:
        np.add.at(change, _cells(starts, first, width), 1)
        np.add.at(change, _cells(ends, first, width) + 1, -1)
    busy = np.cumsum(change[:_CELLS]) > 0
    return TimeAxis(tuple(_segments(busy, first, width)))


def _cells(moments: Floats, first: float, width: float) -> NDArray[np.int64]:
    return np.clip((moments - first) / width, 0, _CELLS - 1).astype(np.int64)


def _segments(busy: NDArray[np.bool_], first: float, width: float) -> list[Segment]:
    worked = np.flatnonzero(busy)
    breaks = np.flatnonzero(np.diff(worked) > _LONGEST_GAP * _CELLS)
    starts = worked[np.concatenate(([0], breaks + 1))]
    ends = worked[np.concatenate((breaks, [len(worked) - 1]))] + 1
    return [Segment(first + width * start, first + width * end) for start, end in zip(starts, ends, strict=True)]
