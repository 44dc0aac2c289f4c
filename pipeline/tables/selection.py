"""Which scores of an image are stored, and which tags they make."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

AUTO_MARGIN = 0.05
"""How far under a tag's own threshold its scores are still stored when `output.score_floor` is auto."""


@dataclass(frozen=True)
class Selection:
    """The stored scores of n images, one after the other.

    counts: int64 [n], scores of each image; tag_ids: int32 [sum(counts)], ascending within an image;
    scores: float32, beside tag_ids; fired: bool, beside tag_ids: score strictly over the tag's threshold;
    finite: bool [n], False where a score of the image is NaN or infinite (its count is then 0).
    """

    counts: NDArray[np.int64]
    tag_ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    fired: NDArray[np.bool_]
    finite: NDArray[np.bool_]


def floors(thresholds: NDArray[np.float32], score_floor: Literal["auto"] | float) -> NDArray[np.float32]:
    """The floor of every tag, float32 [tags]: under its threshold by AUTO_MARGIN, or one absolute number."""
    if score_floor == "auto":
        return (thresholds - np.float32(AUTO_MARGIN)).clip(min=np.float32(0))
    return np.full_like(thresholds, score_floor)


def select(
    scores: NDArray[np.float32], thresholds: NDArray[np.float32], floor: NDArray[np.float32], top_k: int
) -> Selection:
    """Keep each image's scores that reach the floor, at most `top_k` of them (0 = all), the highest.

    Scores of tags over their threshold stay whatever floor and top_k say, so that tags are never cut.
    scores: float32 [n, tags]; thresholds, floor: float32 [tags].
    """
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(scores).all(axis=1))
    fired = (scores > thresholds) & finite[:, None]
    kept = fired | ((scores >= floor) & finite[:, None])
    if top_k:
        _cap(kept, fired, scores, top_k)
    image, tag = np.nonzero(kept)
    return Selection(
        counts=kept.sum(axis=1, dtype=np.int64),
        tag_ids=tag.astype(np.int32),
        scores=scores[image, tag],
        fired=fired[image, tag],
        finite=finite,
    )


def _cap(kept: NDArray[np.bool_], fired: NDArray[np.bool_], scores: NDArray[np.float32], top_k: int) -> None:
    """Clear all but the `top_k` highest kept scores of each image in place; of equal scores the lower tag id stays."""
    for row in np.flatnonzero(kept.sum(axis=1) > top_k):
        candidates = np.flatnonzero(kept[row])
        order = np.lexsort((candidates, -scores[row, candidates], ~fired[row, candidates]))
        surplus = candidates[order[max(top_k, int(fired[row].sum())) :]]
        kept[row, surplus] = False


def nothing_selected(images: int) -> Selection:
    """No score of any of so many images."""
    return Selection(
        counts=np.zeros(images, np.int64),
        tag_ids=np.zeros(0, np.int32),
        scores=np.zeros(0, np.float32),
        fired=np.zeros(0, np.bool_),
        finite=np.ones(images, np.bool_),
    )


def merge(parts: list[Selection]) -> Selection:
    """The selections of consecutive batches as one."""
    parts = [nothing_selected(0), *parts]
    return Selection(
        *(
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("counts", "tag_ids", "scores", "fired", "finite")
        )
    )
