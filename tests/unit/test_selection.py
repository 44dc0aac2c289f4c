"""Which scores are stored."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.tables.selection import floors, merge, select

THRESHOLDS = np.array([0.5, 0.8, 0.65, 1.0], np.float32)


def test_a_score_equal_to_its_threshold_does_not_fire() -> None:
    """The test is strictly greater, in float32."""
    scores = np.array([[0.5, np.nextafter(np.float32(0.8), np.float32(1)), 0.65, 1.0]], np.float32)
    assert select(scores, THRESHOLDS, floors(THRESHOLDS, "auto"), 0).fired.tolist() == [False, True, False, False]


def test_auto_floor_is_under_each_tags_own_threshold() -> None:
    """Scores within 0.05 under the threshold are stored, lower ones are not."""
    scores = np.array([[0.46, 0.74, 0.61, 0.96]], np.float32)
    assert select(scores, THRESHOLDS, floors(THRESHOLDS, "auto"), 0).tag_ids.tolist() == [0, 2, 3]


def test_tags_over_the_threshold_survive_floor_and_cap() -> None:
    """Neither a high floor nor a small cap takes a tag away."""
    scores = np.array([[0.9, 0.9, 0.9, 0.1]], np.float32)
    selection = select(scores, THRESHOLDS, floors(THRESHOLDS, 0.95), 1)
    assert selection.tag_ids[selection.fired].tolist() == [0, 1, 2]


def test_the_cap_keeps_the_highest_scores() -> None:
    """Of more scores than top_k the highest stay, in order of tag."""
    scores = np.array([[0.1, 0.4, 0.3, 0.2]], np.float32)
    selection = select(scores, THRESHOLDS, floors(THRESHOLDS, 0.0), 2)
    assert selection.tag_ids.tolist() == [1, 2]
    assert selection.counts.tolist() == [2]


def test_scores_that_are_not_finite_select_nothing() -> None:
    """An image with a NaN is marked, and its neighbour is not touched."""
    scores = np.array([[np.nan, 0.9, 0.9, 0.9], [0.9, 0.1, 0.1, 0.1]], np.float32)
    selection = select(scores, THRESHOLDS, floors(THRESHOLDS, "auto"), 0)
    assert selection.finite.tolist() == [False, True]
    assert selection.counts.tolist() == [0, 1]


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(6)), elements=st.floats(0, 1, width=32)),
    hnp.arrays(np.float32, 6, elements=st.floats(0.125, 1, width=32)),
    st.integers(0, 6),
)
def test_stored_scores_hold_every_tag_and_respect_the_cap(
    scores: np.ndarray, thresholds: np.ndarray, top_k: int
) -> None:
    """For any scores: fired = all over the threshold; the rest is at most top_k and never under the floor."""
    floor = floors(thresholds, "auto")
    selection = merge([select(scores[:1], thresholds, floor, top_k), select(scores[1:], thresholds, floor, top_k)])
    ends = np.cumsum(selection.counts)
    for image, end in enumerate(ends):
        part = slice(end - selection.counts[image], end)
        ids, fired = selection.tag_ids[part], selection.fired[part]
        assert ids[fired].tolist() == np.flatnonzero(scores[image] > thresholds).tolist()
        assert (np.diff(ids) > 0).all()
        assert (scores[image, ids] == selection.scores[part]).all()
        assert (fired | (selection.scores[part] >= floor[ids])).all()
        if top_k:
            assert len(ids) <= max(top_k, fired.sum())
