"""Tags at other thresholds from stored scores, against all scores."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.redecide import Fired, fired_scores, stored_from, uncertain_rows
from pipeline.tables.selection import floors, select

TAGS = 6
# Few values, so that scores, thresholds and floors are often equal.
levels = st.sampled_from([float(np.float32(value)) for value in np.linspace(0.05, 1, 20)])
scores_of_images = hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(TAGS)), elements=levels)
thresholds_of_tags = hnp.arrays(np.float32, TAGS, elements=levels)


def stored(scores: np.ndarray, planned: np.ndarray, floor: str | float, cap: int) -> Fired:
    selection = select(scores, planned, floors(planned, floor), cap)
    return Fired(selection.counts, selection.tag_ids, selection.scores)


def by_image(fired: Fired) -> list[list[int]]:
    return [fired.tag_ids[fired.rows == row].tolist() for row in range(len(fired.counts))]


def brute_force(scores: np.ndarray, thresholds: np.ndarray, top_k: int) -> list[list[int]]:
    images = []
    for row in scores:
        fired = [tag for tag in range(TAGS) if row[tag] > thresholds[tag]]
        surest = sorted(fired, key=lambda tag: (-row[tag], tag))
        images.append(sorted(surest[:top_k] if top_k else fired))
    return images


@given(
    scores_of_images,
    thresholds_of_tags,
    thresholds_of_tags,
    st.one_of(st.just("auto"), levels),
    st.integers(0, TAGS),
    st.integers(0, TAGS),
)
def test_tags_are_those_of_all_scores(
    scores: np.ndarray, planned: np.ndarray, asked: np.ndarray, floor: str | float, cap: int, top_k: int
) -> None:
    """At any allowed thresholds, an image that is not called uncertain has the tags that all its scores would give."""
    lowest = stored_from(planned, floor)
    thresholds = np.where(np.nextafter(asked, np.float32(2)) < lowest, lowest, asked)
    kept = stored(scores, planned, floor, cap)
    uncertain = uncertain_rows(kept, planned, thresholds, cap)
    found, expected = by_image(fired_scores(kept, thresholds, top_k)), brute_force(scores, thresholds, top_k)
    for row in set(range(len(scores))) - set(uncertain):
        assert found[row] == expected[row]


@given(scores_of_images, thresholds_of_tags, st.integers(1, TAGS))
def test_higher_thresholds_are_never_uncertain(scores: np.ndarray, planned: np.ndarray, cap: int) -> None:
    """A cap cuts no tag, so that raising thresholds needs nothing that was cut."""
    raised = np.nextafter(planned, np.float32(2))
    assert uncertain_rows(stored(scores, planned, "auto", cap), planned, raised, cap) == []


def test_a_cut_score_that_would_be_a_tag_is_uncertain() -> None:
    """The third score was cut, and is over the new threshold."""
    planned = np.full(3, 0.8, np.float32)
    kept = stored(np.array([[0.7, 0.6, 0.55], [0.7, 0.6, 0.1]], np.float32), planned, 0.2, 2)
    assert uncertain_rows(kept, planned, np.full(3, 0.5, np.float32), 2) == [0, 1]
    assert uncertain_rows(kept, planned, np.full(3, 0.6, np.float32), 2) == []


def test_a_score_just_over_the_floor_is_enough() -> None:
    """A threshold equal to the floor needs only scores that were stored."""
    planned = np.array([0.68], np.float32)
    lowest = stored_from(planned, "auto")
    assert lowest[0] == np.float32(0.68) - np.float32(0.05)
    assert stored_from(planned, 0.9)[0] == np.nextafter(np.float32(0.68), np.float32(1))
