"""When fetch failures are an outage."""

from typing import Any

import pytest

from pipeline.errors import OutageError
from pipeline.outage import OutageGuard


def outcome(chunk: int, rows: int = 100, retriable: int = 0) -> dict[str, Any]:
    state = "held" if retriable else "committed"
    return {"chunk": chunk, "rows": rows, "retriable": retriable, "outcome": state}


def released(guard: OutageGuard, outcomes: list[dict[str, Any]]) -> list[int]:
    return [ready["chunk"] for item in outcomes for ready in guard.add(item)]


def test_an_outage_stops_the_run_before_any_of_it_is_committed() -> None:
    """Good chunks, then only failures: not one chunk with a failure is released."""
    guard = OutageGuard(0.5)
    done = released(guard, [outcome(chunk) for chunk in range(20)])
    with pytest.raises(OutageError, match=r"run\.max_reject_share=0\.5"):
        done += released(guard, [outcome(20, retriable=7)] + [outcome(c, retriable=100) for c in range(21, 40)])
    assert done == []


def test_a_few_failures_are_released_after_a_thousand_good_rows() -> None:
    """A dead link holds its chunk back only until it is clear that it is no outage."""
    guard = OutageGuard(0.5)
    assert released(guard, [outcome(0, retriable=3), *(outcome(chunk) for chunk in range(1, 10))]) == []
    assert released(guard, [outcome(10)]) == [0]


def test_a_small_run_of_mostly_dead_links_is_no_outage() -> None:
    """Under a thousand rows the share is not judged, and everything is released in the end."""
    guard = OutageGuard(0.5)
    assert released(guard, [outcome(chunk, retriable=90) for chunk in range(9)]) == []
    assert guard.held_rows == 900
    assert [item["chunk"] for item in guard.finish()] == list(range(9))


def test_a_share_of_one_never_stops() -> None:
    """run.max_reject_share=1 says that missing images are really missing."""
    guard = OutageGuard(1.0)
    assert len(released(guard, [outcome(chunk, retriable=100) for chunk in range(50)])) == 40


def test_the_share_is_taken_over_recent_rows_only() -> None:
    """A hundred thousand good rows do not hide an outage that begins now."""
    guard = OutageGuard(0.5)
    released(guard, [outcome(chunk) for chunk in range(1000)])
    with pytest.raises(OutageError):
        released(guard, [outcome(chunk, retriable=100) for chunk in range(1000, 1006)])
