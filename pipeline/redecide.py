"""Which stored scores are tags at other thresholds, and what can be known from stored scores at all."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.tables.selection import floors


@dataclass(frozen=True)
class Fired:
    """Scores of n images, one after the other: int64 [n] counts, then int32 tag_ids and float32 scores."""

    counts: NDArray[np.int64]
    tag_ids: NDArray[np.int32]
    scores: NDArray[np.float32]

    @property
    def rows(self) -> NDArray[np.int64]:
        """The image of each score."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


def stored_from(planned: NDArray[np.float32], score_floor: Literal["auto"] | float) -> NDArray[np.float32]:
    """From which score on each tag was stored, float32 [tags]; scores over the planned threshold always were."""
    return np.minimum(floors(planned, score_floor), np.nextafter(planned, np.float32(2)))


def fired_scores(stored: Fired, thresholds: NDArray[np.float32], top_k: int) -> Fired:
    """The scores strictly over their tag's threshold, at most the `top_k` highest of an image (0 = all).

    Of equal scores the lower tag id stays, as when they are stored.
    """
    over = stored.scores > thresholds[stored.tag_ids]
    rows, tag_ids, scores = stored.rows[over], stored.tag_ids[over], stored.scores[over]
    counts = np.bincount(rows, minlength=len(stored.counts)).astype(np.int64)
    if top_k and len(rows):
        order = np.lexsort((tag_ids, -scores, rows))
        starts = np.cumsum(counts) - counts
        rank = np.arange(len(rows)) - starts[rows[order]]
        kept = np.sort(order[rank < top_k])
        tag_ids, scores, counts = tag_ids[kept], scores[kept], np.minimum(counts, top_k)
    return Fired(counts, tag_ids, scores)


def uncertain_rows(stored: Fired, planned: NDArray[np.float32], thresholds: NDArray[np.float32], cap: int) -> list[int]:
    """Images that may lack scores which are tags at the new thresholds, because at most `cap` were stored (0 = all).

    What was cut from an image had not fired at the planned thresholds, and was no higher than any score that was
    kept without firing.
    """
    lowered = np.flatnonzero(thresholds < planned)
    if not cap or not lowered.size:
        return []
    ends = np.cumsum(stored.counts)
    uncertain = []
    for row in np.flatnonzero(stored.counts >= cap):
        part = slice(ends[row] - stored.counts[row], ends[row])
        tag_ids, scores = stored.tag_ids[part], stored.scores[part]
        silent = scores[scores <= planned[tag_ids]]
        absent = np.setdiff1d(lowered, tag_ids, assume_unique=True)
        highest = np.minimum(planned[absent], silent.min() if silent.size else np.float32(1))
        if (highest > thresholds[absent]).any():
            uncertain.append(int(row))
    return uncertain
