"""Average precision, F1 and thresholds on small samples that can be checked by hand."""

import goldens
import numpy as np
import pytest

from ramcore.metrics import average_precision, best_f1_thresholds, f1_scores, mean_average_precision


def test_average_precision_by_hand():
    """Positives at ranks 1 and 3: (1/1 + 2/3) / 2."""
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.1]), [1, 0, 1, 0]) == pytest.approx(5 / 6)


def test_ties_keep_the_given_order():
    """Equal scores are ranked as they come, so the result is repeatable."""
    scores = np.full(4, 0.5)
    assert average_precision(scores, [1, 0, 0, 0]) == 1.0
    assert average_precision(scores, [0, 0, 0, 1]) == 0.25


@pytest.mark.lengthy
def test_agrees_with_scikit_learn_without_ties():
    """The same figure as the usual non-interpolated average precision."""
    sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, targets = rng.permutation(200) / 200, rng.random(200) < 0.3
    assert average_precision(scores, targets) == pytest.approx(sklearn_metrics.average_precision_score(targets, scores))


def test_tags_without_positives_are_left_out_and_named():
    """They count as missing, not as zero."""
    scores = np.array([[0.9, 0.2], [0.1, 0.3]])
    result = mean_average_precision(scores, [[1, 0], [0, 0]])
    assert result.mean == 1.0
    assert result.without_positives == (1,)
    assert np.isnan(result.average_precision[1])


def test_no_positive_at_all_has_no_mean():
    """Nothing to average is NaN, without a warning."""
    assert np.isnan(mean_average_precision(np.zeros((2, 2)), np.zeros((2, 2))).mean)


def test_thresholds_separate_what_can_be_separated():
    """A separable tag gets the middle of the gap and then F1 1; one without positives the default."""
    scores = np.array([[0.9, 0.4], [0.7, 0.5], [0.3, 0.6], [0.1, 0.7]], dtype=np.float32)
    targets = [[1, 0], [1, 0], [0, 0], [0, 0]]
    thresholds = best_f1_thresholds(scores, targets, default=0.6)
    np.testing.assert_allclose(thresholds, [0.5, 0.6], rtol=1e-6)
    assert f1_scores(scores, targets, thresholds).f1[0] == 1.0


def test_thresholds_never_reach_zero_or_one():
    """Saturated scores would put the cut at 1, where the strict test can never fire."""
    scores = np.array([[1.0, 0.0], [1.0, 0.0], [0.999999, 0.0]])
    thresholds = best_f1_thresholds(scores, [[1, 1], [1, 1], [0, 1]])
    assert ((thresholds > 0) & (thresholds < 1)).all()


def test_a_threshold_is_never_worse_than_any_other():
    """The chosen cut has the best F1 of all cuts, ties included."""
    rng = np.random.default_rng(1)
    scores, targets = rng.integers(20, 80, (60, 3)) / 100, rng.random((60, 3)) < 0.4
    best = f1_scores(scores, targets, best_f1_thresholds(scores, targets)).f1
    for cut in np.linspace(0.015, 0.985, 98):
        assert (f1_scores(scores, targets, np.full(3, cut)).f1 <= best + 1e-12).all()


def test_precision_and_recall_by_hand():
    """One hit, one false alarm, one miss; a score equal to its threshold does not fire."""
    scores, targets = np.array([[0.9], [0.8], [0.5], [0.1]]), [[1], [0], [1], [0]]
    result = f1_scores(scores, targets, np.array([0.5]))
    assert (result.precision[0], result.recall[0], result.f1[0]) == (0.5, 0.5, 0.5)


def test_shapes_must_agree():
    """A sample of another size is an error, not a broadcast."""
    with pytest.raises(ValueError, match="differ"):
        mean_average_precision(np.zeros((3, 2)), np.zeros((3, 1)))


def test_average_precision_is_that_of_the_reference():
    """The reference's APs, equal where no scores tie, and within what its unstable sort allows where they do."""
    golden = goldens.load_golden("metrics")
    scores, truth, expected = golden["scores"], golden["gt"], golden["APs"]
    assert mean_average_precision(scores, truth).without_positives == (4,)
    for tag in (0, 1, 2, 3, 5):
        positives_first, positives_last = np.argsort(~truth[:, tag]), np.argsort(truth[:, tag])
        high, low = (average_precision(scores[o, tag], truth[o, tag]) for o in (positives_first, positives_last))
        assert low - 1e-6 <= expected[tag] <= high + 1e-6
        if len(np.unique(scores[:, tag])) == len(scores):
            assert average_precision(scores[:, tag], truth[:, tag]) == pytest.approx(expected[tag], abs=1e-6)


def test_precision_and_recall_are_those_of_the_reference():
    """The reference's precision and recall for every tag from its predictions; undefined ones are 0 there."""
    golden = goldens.load_golden("metrics")
    found = f1_scores(golden["pred"].astype(np.float32), golden["gt"], np.full(6, 0.5, np.float32))
    assert np.nan_to_num(found.precision) == pytest.approx(golden["Ps"], abs=1e-6)
    assert np.nan_to_num(found.recall) == pytest.approx(golden["Rs"], abs=1e-6)
