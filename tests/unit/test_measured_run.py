"""Speeds of nodes from the telemetry of a run."""

from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.measured_run import measured_of_rows


def row(node: str, end: float, model_s: float, images: int, **other: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(1_000_000 + end, UTC)
    known = {"outcome": "committed", "node_id": node, "node_type": "group", "card": "T4"}
    return known | {"images": images, "model_s": model_s, "ended_at": at} | other


def test_time_in_which_nothing_ran_does_not_count() -> None:
    """Two chunks of 10 s each with an hour between: 100 images in 20 s."""
    found = measured_of_rows([row("n", 10, 10, 50), row("n", 3610, 10, 50)])
    assert found["group"].images_per_s == pytest.approx(5)
    assert found["T4"] == found["group"]


def test_replicas_that_work_at_once_add_up() -> None:
    """Two of them in the same 10 s: the node did 10/s."""
    found = measured_of_rows([row("n", 10, 10, 50), row("n", 10, 10, 50)])
    assert found["T4"].images_per_s == pytest.approx(10)


def test_nodes_are_averaged_by_what_they_did() -> None:
    """One of 5/s and one of 15/s for the same time are 10/s each."""
    found = measured_of_rows([row("a", 10, 10, 50), row("b", 10, 10, 150)])
    assert found["T4"].images_per_s == pytest.approx(10)


def test_only_work_that_counts_is_counted() -> None:
    """Attempts that died or were beaten, and chunks without a model, tell nothing."""
    rows = [row("n", 10, 10, 50), row("n", 30, 10, 50, outcome="died"), row("n", 50, 0, 50)]
    assert measured_of_rows(rows)["T4"].images == 50


def test_spread_is_taken_from_many_pieces_only() -> None:
    """Two tell nothing; forty have a mean of one."""
    rows = [row("n", 10.0 * i, 5 + i % 2, 50) for i in range(40)]
    assert measured_of_rows(rows[:2])["T4"].relative_times == ()
    times = measured_of_rows(rows)["T4"].relative_times
    assert sum(times) / len(times) == pytest.approx(1)
    assert times[0] == pytest.approx(5 / 5.5)
