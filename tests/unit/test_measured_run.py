"""Speeds of cards from a run."""

import pytest
from test_run_costs import Run

from pipeline.errors import InputError
from pipeline.quoting.measured_run import MeasuredCard, cards_of, measured_cards
from pipeline.stores.local_store import LocalStore


def measured(run: Run) -> dict[str, MeasuredCard]:
    return cards_of(run.ledger(), run.rows, run.events)


def with_pieces(times: list[int]) -> Run:
    """A node that does pieces of four images, one of them a reject, in so many milliseconds each, with pauses."""
    run = Run()
    run.join("n", 0)
    replica = run.start("n", 0)
    at = 1000
    for ms in times:
        at = 5000 + run.work("n", replica, at, ms, "committed")
    return run


def test_a_card_does_what_it_does_while_it_is_busy() -> None:
    """Pauses do not count, nor do rejects: three tagged images in 100 ms are 30/s, by node type and by card."""
    found = measured(with_pieces([100, 100, 100]))
    assert found["T4"].images_per_s == pytest.approx(30)
    assert found["t4-nodes"] == found["T4"]


def test_loads_are_taken_from_the_events() -> None:
    """As the replica says."""
    assert measured(with_pieces([100]))["T4"].load_s == 0.7


def test_work_that_was_lost_tells_nothing() -> None:
    """A failed lease is no measure of speed."""
    run = with_pieces([100])
    run.work("n", "r1", 90_000, 5000, "failed")
    assert measured(run)["T4"].images_per_s == pytest.approx(30)


def test_spread_is_taken_from_many_pieces_only() -> None:
    """Two tell nothing; forty have a mean of one."""
    assert measured(with_pieces([100, 120]))["T4"].relative_times == ()
    times = measured(with_pieces([100, 120] * 20))["T4"].relative_times
    assert sum(times) / len(times) == pytest.approx(1)
    assert times[0] == pytest.approx(100 / 110)


def test_a_run_that_is_not_finished_says_so(tmp_path) -> None:
    """With what to do."""
    with pytest.raises(InputError, match="ramfleet finalize"):
        measured_cards(LocalStore(tmp_path))
