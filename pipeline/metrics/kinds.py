"""Every metric of a run: its name, labels, unit and meaning, and the events that it is made of."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

RUN = "run"
"""Label of every metric: the run folder."""
RAY_PREFIX = "ray_"
"""What Ray puts before the names of all metrics that it exports."""

Values = Mapping[str, Mapping[tuple[str, ...], float]]
"""By name of a metric, and by the values of its labels in their order."""


@dataclass(frozen=True)
class Metric:
    """One metric, named after the rules of Prometheus: base units, counters end in `_total`.

    unit: as UCUM writes it, {thing} for numbers of things; labels: without `run`; events: that feed it, none where it
    follows the driver's own progress.
    """

    name: str
    kind: Literal["counter", "gauge"]
    unit: str
    labels: tuple[str, ...]
    meaning: str
    events: tuple[str, ...] = ()


_CARD = ("card", "node_type")
_REPLICA_LIFE = ("fleet_started", "replica_started", "replica_ready", "replica_draining", "replica_gone")
_NODES = ("node_joined", "node_gone")

_TABLE = (
    Metric("ramfleet_images_total", "counter", "{image}", ("result",),
           "images that this driver's chunks committed; result is tagged or rejected", ("commit",)),
    Metric("ramfleet_rejects_total", "counter", "{image}", ("error_kind",),
           "rejected images among them, by reason (reference/errors.md)", ("commit",)),
    Metric("ramfleet_chunks_total", "counter", "{chunk}", ("outcome",),
           "chunks that were brought to a commit; outcome is committed, or beaten where another had been first",
           ("commit",)),
    Metric("ramfleet_commit_seconds_total", "counter", "s", (), "time that commits took, one after the other",
           ("commit",)),
    Metric("ramfleet_images_planned", "gauge", "{image}", (), "images of the whole run, of a retry those to be tried"),
    Metric("ramfleet_images_left", "gauge", "{image}", (), "of these, images that are not finished"),
    Metric("ramfleet_chunks_left", "gauge", "{chunk}", (), "chunks that are not finished"),
    Metric("ramfleet_model_images_total", "counter", "{image}", _CARD,
           "images that went through the model, whether or not they were committed", ("lease", "lease_done")),
    Metric("ramfleet_model_seconds_total", "counter", "s", _CARD, "time that the model worked on them, by replica",
           ("lease_done",)),
    Metric("ramfleet_leases_total", "counter", "{lease}", (*_CARD, "outcome"),
           "leases that ended; outcome is done, failed (the model raised an error), replica_lost or node_lost",
           ("lease_done", "lease_failed", "lease_lost")),
    Metric("ramfleet_leases_orphaned_total", "counter", "{lease}", (), "leases whose holder died before the replica",
           ("lease_orphaned",)),
    Metric("ramfleet_strikes_total", "counter", "{strike}", _CARD,
           "strikes against work that a replica died of or raised an error on", ("strike",)),
    Metric("ramfleet_chunks_taken_over_total", "counter", "{chunk}", (), "chunks taken over from processes that died",
           ("taken_over",)),
    Metric("ramfleet_replicas", "gauge", "{replica}", (*_CARD, "state"),
           "replicas that there are; state is starting, ready or draining", _REPLICA_LIFE),
    Metric("ramfleet_replicas_started_total", "counter", "{replica}", _CARD, "replicas that were started",
           ("replica_started",)),
    Metric("ramfleet_replicas_gone_total", "counter", "{replica}", _CARD, "replicas that are gone, for any reason",
           ("replica_gone",)),
    Metric("ramfleet_replica_load_seconds_total", "counter", "s", _CARD, "time that replicas took from start to ready",
           ("replica_ready",)),
    Metric("ramfleet_memory_exhausted_total", "counter", "{event}", ("card",),
           "times that memory ran out on a card and its micro-batch was made smaller", ("out_of_memory",)),
    Metric("ramfleet_card_faults_total", "counter", "{card}", ("card",),
           "cards that are not used any more as their scores were wrong", ("card_fault",)),
    Metric("ramfleet_nodes", "gauge", "{node}", ("node_type", "market"), "nodes that are there", _NODES),
    Metric("ramfleet_nodes_joined_total", "counter", "{node}", ("node_type",), "nodes that came", ("node_joined",)),
    Metric("ramfleet_nodes_gone_total", "counter", "{node}", ("node_type", "cause"),
           "nodes that went; cause is drained, left or died", ("node_gone",)),
    Metric("ramfleet_node_seconds_total", "counter", "s", ("node_type",), "time that nodes have been there", _NODES),
    Metric("ramfleet_cost_total", "counter", "{currency}", ("node_type", "currency"),
           "what that time cost, at the prices of when the nodes came", _NODES),
    Metric("ramfleet_cost_per_hour", "gauge", "{currency}/h", ("node_type", "currency"),
           "what an hour of the nodes that are there costs", _NODES),
    Metric("ramfleet_nodes_unpriced", "gauge", "{node}", ("node_type",),
           "nodes that are there without a known price: cost leaves them out", _NODES),
    Metric("ramfleet_cpu_utilization_ratio", "gauge", "1", ("node_type",),
           "share of the CPUs that is busy, the mean of the nodes with a replica", ("sample", *_NODES)),
    Metric("ramfleet_gpu_utilization_ratio", "gauge", "1", ("node_type",),
           "share of the time that some kernel runs, the mean of the cards", ("sample", *_NODES)),
    Metric("ramfleet_gpu_memory_used_bytes", "gauge", "By", ("node_type",), "memory in use on all cards, by anybody",
           ("sample", *_NODES)),
    Metric("ramfleet_gpu_power_watts", "gauge", "W", ("node_type",), "power that all cards draw", ("sample", *_NODES)),
    Metric("ramfleet_network_received_bytes_total", "counter", "By", ("node_type",),
           "bytes that nodes with a replica received, loopback left out", ("sample",)),
    Metric("ramfleet_network_sent_bytes_total", "counter", "By", ("node_type",), "bytes that they sent", ("sample",)),
    Metric("ramfleet_spilled_bytes_total", "counter", "By", (),
           "pixels that went to disk as Ray's object store was full; known at the end of the work", ("spilled",)),
)  # fmt: skip

METRICS: dict[str, Metric] = {metric.name: metric for metric in _TABLE}
"""Every metric by its name."""


def as_markdown() -> str:
    """All metrics as the table of docs/metrics.md."""
    lines = ["| metric | kind | unit | labels | what | from |", "|---|---|---|---|---|---|"]
    for metric in _TABLE:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        events = ", ".join(f"`{event}`" for event in metric.events) or "progress of the driver"
        unit = f"`{metric.unit}`"
        lines.append(f"| `{metric.name}` | {metric.kind} | {unit} | {labels} | {metric.meaning} | {events} |")
    return "\n".join(lines) + "\n"
