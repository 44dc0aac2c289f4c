"""Metrics to Prometheus by way of Ray, which serves those of all processes of a node at the node's /metrics."""

import ray
from ray.util.metrics import Counter, Gauge

from pipeline.metrics.kinds import METRICS, RUN, Values

WITHOUT_AGENT = (
    "Metrics for Prometheus: none, as this cluster's Ray cannot serve them (pip install 'ramfleet[metrics]')"
)


class RayMetrics:
    """Of one run. Only its driver may have one: Ray takes any of the values that several processes give one gauge.

    Without Ray's agent, which ray[default] brings, values go nowhere at the same cost.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._told: dict[str, dict[tuple[str, ...], float]] = {}

    def update(self, values: Values) -> None:
        """Tell the present values. A gauge's series that is not among them any more is zero."""
        for name, series in values.items():
            told = self._told.setdefault(name, {})
            for labels, value in series.items():
                self._tell(name, labels, value, told.get(labels, 0.0))
                told[labels] = value
            for labels in told.keys() - series.keys():
                if METRICS[name].kind == "gauge":
                    self._tell(name, labels, 0.0, told.pop(labels))

    def _tell(self, name: str, labels: tuple[str, ...], value: float, before: float) -> None:
        metric = METRICS[name]
        keys = (*metric.labels, RUN)
        tags = dict(zip(keys, (*labels, self._run), strict=True))
        if metric.kind == "gauge":
            gauge = self._gauges.get(name) or self._gauges.setdefault(name, Gauge(name, metric.meaning, keys))
            gauge.set(value, tags)
        elif value > before:
            counter = self._counters.get(name) or self._counters.setdefault(name, Counter(name, metric.meaning, keys))
            counter.inc(value - before, tags)


def prometheus_address() -> str | None:
    """Where the driver's node serves its metrics; None where its Ray does not."""
    here = ray.get_runtime_context().get_node_id()
    node = next(node for node in ray.nodes() if node["NodeID"] == here)  # type: ignore[no-untyped-call]
    port = node.get("MetricsExportPort", -1)
    return f"http://{node['NodeManagerAddress']}:{port}/metrics" if port > 0 else None
