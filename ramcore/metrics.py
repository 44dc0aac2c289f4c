"""How good scores are: average precision per tag, and thresholds that balance precision and recall."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
_MIN_THRESHOLD, _MAX_THRESHOLD = 0.01, 0.99


@dataclass(frozen=True)
class MeanAveragePrecision:
    """average_precision: float64 [N], NaN for a tag without positives; those are left out of `mean`.

    mean: their average in [0, 1], NaN when no tag has a positive; without_positives: ids of tags left out.
    """

    mean: float
    average_precision: npt.NDArray[np.float64]
    without_positives: tuple[int, ...]


@dataclass(frozen=True)
class F1:
    """Precision, recall and F1 per tag, float64 [N] each; NaN where nothing was to be divided by."""

    precision: npt.NDArray[np.float64]
    recall: npt.NDArray[np.float64]
    f1: npt.NDArray[np.float64]


def average_precision(scores: Floats, targets: npt.ArrayLike) -> float:
    """Non-interpolated average precision of one tag: the mean of the precisions at each positive.

    scores: float [B], higher is surer; targets: [B], 0 or 1. Images are ranked by falling score; images of
    equal score keep the order in which they are given (a stable sort). NaN when there is no positive.
    """
    truth = np.asarray(targets, dtype=bool)[np.argsort(-np.asarray(scores), kind="stable")]
    ranks = np.flatnonzero(truth) + 1
    if not ranks.size:
        return float("nan")
    return float(np.mean(np.arange(1, ranks.size + 1) / ranks))


def mean_average_precision(scores: Floats, targets: npt.ArrayLike) -> MeanAveragePrecision:
    """Average precision of every tag and its mean. scores: float [B, N]; targets: [B, N], 0 or 1."""
    truth = np.asarray(targets, dtype=bool)
    _check_shapes(scores, truth)
    per_tag = np.array([average_precision(scores[:, tag], truth[:, tag]) for tag in range(truth.shape[1])])
    missing = tuple(int(tag) for tag in np.flatnonzero(np.isnan(per_tag)))
    mean = float(np.nanmean(per_tag)) if len(missing) < per_tag.size else float("nan")
    return MeanAveragePrecision(mean, per_tag, missing)


def f1_scores(scores: Floats, targets: npt.ArrayLike, thresholds: Floats) -> F1:
    """Precision, recall and F1 per tag where a tag fires when its score is strictly over its threshold.

    scores: float [B, N]; targets: [B, N], 0 or 1; thresholds: float [N].
    """
    truth = np.asarray(targets, dtype=bool)
    _check_shapes(scores, truth)
    fired = scores > thresholds
    hits = (fired & truth).sum(axis=0).astype(np.float64)
    with np.errstate(invalid="ignore"):
        precision, recall = hits / fired.sum(axis=0), hits / truth.sum(axis=0)
        f1 = 2 * hits / (fired.sum(axis=0) + truth.sum(axis=0))
    return F1(precision, recall, f1)


def best_f1_thresholds(scores: Floats, targets: npt.ArrayLike, default: float = 0.5) -> npt.NDArray[np.float32]:
    """The threshold per tag with the highest F1 on a calibration sample: float32 [N], within 0.01 … 0.99.

    scores: float [B, N]; targets: [B, N], 0 or 1. A threshold lies halfway between the scores that it
    separates; of several with the same F1 the highest wins. Tags without positives get `default`.
    """
    truth = np.asarray(targets, dtype=bool)
    _check_shapes(scores, truth)
    chosen = [
        _best_threshold(scores[:, tag], truth[:, tag]) if truth[:, tag].any() else default
        for tag in range(truth.shape[1])
    ]
    return np.clip(np.array(chosen, dtype=np.float32), _MIN_THRESHOLD, _MAX_THRESHOLD)


def _best_threshold(scores: Floats, truth: npt.NDArray[np.bool_]) -> float:
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order].astype(np.float64), np.cumsum(truth[order])
    fired = np.arange(1, ranked.size + 1)
    f1 = 2 * hits / (fired + truth.sum())
    # A cut is possible only between different scores (and after the last).
    next_score = np.append(ranked[1:], 0.0)
    f1[ranked == next_score] = -1
    best = int(np.argmax(f1))
    return float((ranked[best] + next_score[best]) / 2)


def _check_shapes(scores: Floats, targets: npt.NDArray[np.bool_]) -> None:
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise ValueError(f"scores {scores.shape} and targets {targets.shape} differ: give [images, tags] for both")
