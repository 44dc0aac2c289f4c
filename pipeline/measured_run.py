"""What a finished run says of the speed of its nodes: for quotes that rest on more than a model of the card."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.store import RunStore

_FEWEST_PIECES = 20
"""Fewer pieces of work tell nothing of a distribution."""
_MOST_TIMES = 2000
_COLUMNS = ["outcome", "node_id", "node_type", "card", "images", "model_s", "ended_at"]
_DONE = frozenset({"committed", "shared"})


@dataclass(frozen=True)
class MeasuredNode:
    """Of one node of a kind: images/s while it computed; pieces of work by time per image, their mean 1, in order."""

    images_per_s: float
    images: int
    relative_times: tuple[float, ...]


def measured_nodes(store: RunStore) -> dict[str, MeasuredNode]:
    """By node type, and by card where that tells the same nodes. Raises InputError where the run has no telemetry."""
    if not store.exists("run.json"):
        raise InputError(f"measured={store.root}: has no run.json: name the folder of a finished run")
    parts = json.loads(store.read("run.json"))["parts"].get("telemetry", [])
    rows: list[dict[str, Any]] = []
    for part in parts:
        with store.open(part) as file:
            rows += pq.read_table(file, columns=_COLUMNS).to_pylist()
    found = measured_of_rows(rows)
    if not found:
        raise InputError(f"measured={store.root}: its telemetry holds no images that a model tagged")
    return found


def measured_of_rows(rows: Iterable[Mapping[str, Any]]) -> dict[str, MeasuredNode]:
    """The same, of the rows of a telemetry table."""
    by_node: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["outcome"] in _DONE and row["images"] and row["model_s"]:
            by_node[row["node_type"] or row["card"], row["card"], row["node_id"]].append(row)
    names: dict[str, list[list[Mapping[str, Any]]]] = defaultdict(list)
    for (node_type, card, _), of_node in by_node.items():
        for name in {node_type, card}:
            names[name].append(of_node)
    return {name: _measured(nodes) for name, nodes in names.items()}


def _measured(nodes: Sequence[Sequence[Mapping[str, Any]]]) -> MeasuredNode:
    images = sum(row["images"] for node in nodes for row in node)
    busy = sum(_busy_s(node) for node in nodes)
    times = [row["model_s"] / row["images"] for node in nodes for row in node]
    if len(times) < _FEWEST_PIECES:
        times = []
    mean = sum(times) / len(times) if times else 1.0
    step = max(1, len(times) // _MOST_TIMES)
    return MeasuredNode(images / busy, images, tuple(sorted(t / mean for t in times)[::step]))


def _busy_s(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds in which at least one of a node's replicas computed: the union of what led up to each row's end."""
    ends = [(row["ended_at"].timestamp(), row["model_s"]) for row in rows]
    total, until = 0.0, float("-inf")
    for begin, end in sorted((at - seconds, at) for at, seconds in ends):
        total += max(0.0, end - max(begin, until))
        until = max(until, end)
    return total
