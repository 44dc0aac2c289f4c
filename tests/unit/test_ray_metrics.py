"""What Ray is told of the values: sums of a counter's steps, and gauges that end."""

from typing import Any

import pytest

from pipeline.metrics import ray_metrics
from pipeline.metrics.ray_metrics import RayMetrics

Told = dict[str, list[tuple[float, dict[str, str]]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What was recorded by metric, as Ray's own classes are called; the real ones are in the integration tests."""
    told: Told = {}

    class Recorder:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            self.name, self.keys = name, tag_keys

        def record(self, value: float, tags: dict[str, Any]) -> None:
            assert set(tags) == set(self.keys)
            told.setdefault(self.name, []).append((value, tags))

        inc = set = record

    monkeypatch.setattr(ray_metrics, "Counter", Recorder)
    monkeypatch.setattr(ray_metrics, "Gauge", Recorder)
    return told


def test_a_counter_is_told_by_how_much_it_grew(told: Told) -> None:
    """Nothing where it did not grow: Ray refuses steps of zero."""
    metrics = RayMetrics("/run")
    for tagged in (0.0, 5.0, 5.0, 7.5):
        metrics.update({"ramfleet_images_total": {("tagged",): tagged}})
    labels = {"result": "tagged", "run": "/run"}
    assert told["ramfleet_images_total"] == [(5.0, labels), (2.5, labels)]


def test_a_gauge_that_has_no_value_any_more_is_zero_once(told: Told) -> None:
    """Ray would tell its last value for ever."""
    metrics = RayMetrics("/run")
    for series in ({("t4",): 0.5}, {("t4",): 0.75}, {}, {}):
        metrics.update({"ramfleet_gpu_utilization_ratio": series})
    assert [value for value, _ in told["ramfleet_gpu_utilization_ratio"]] == [0.5, 0.75, 0.0]
