"""Metrics as a function of events: whatever writes an event has it counted here, so that the two cannot disagree."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.metrics.kinds import Values

_MIB = 2**20
_UNKNOWN = "unknown"
_HOUR_S = 3600.0
_Series = defaultdict[tuple[str, ...], float]
"""By the values of the labels."""


def _series(values: Mapping[tuple[str, ...], float] | None = None) -> _Series:
    return defaultdict(float, values or {})


@dataclass
class _Replica:
    """state: None once it is gone."""

    card: str
    node_type: str
    state: str | None = "starting"

    @property
    def labels(self) -> tuple[str, str]:
        return self.card, self.node_type


@dataclass
class _Node:
    """A node that is there. since: seconds since 1970; per_hour: None where no price is known."""

    node_type: str
    market: str
    since: float
    per_hour: float | None
    currency: str

    def seconds(self, now: float) -> float:
        return max(0.0, now - self.since)


class Tally:
    """Takes in the events of one session in order of time; keeps counts, and what is there now.

    What it keeps grows with the replicas and nodes of a session, not with its chunks.
    """

    def __init__(self) -> None:
        self._counts: dict[str, _Series] = defaultdict(_series)
        self._replicas: dict[str, _Replica] = {}
        self._leases: dict[str, int] = {}
        self._nodes: dict[str, _Node] = {}
        self._machines: dict[str, Mapping[str, Any]] = {}
        self._cards: dict[tuple[str, str], Mapping[str, Any]] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        """The next event, with the fields of docs/events.md. Those that count for nothing are passed over."""
        match event["event"]:
            case "commit":
                self._commit(event)
            case "lease" | "lease_done" | "lease_failed" | "lease_lost" | "lease_orphaned":
                self._lease(event)
            case "fleet_started" | "replica_started" | "replica_ready" | "replica_draining" | "replica_gone":
                self._life(event)
            case "node_joined" | "node_gone":
                self._node(event)
            case "sample":
                self._sample(event)
            case "strike":
                self._add("ramfleet_strikes_total", 1, *self._replica(event).labels)
            case "taken_over":
                self._add("ramfleet_chunks_taken_over_total", len(event["chunks"]))
            case "out_of_memory":
                self._add("ramfleet_memory_exhausted_total", 1, event["card"])
            case "card_fault":
                self._add("ramfleet_card_faults_total", 1, event["card"])
            case "spilled":
                self._add("ramfleet_spilled_bytes_total", event["bytes"])

    def take_all(self, events: Iterable[Mapping[str, Any]]) -> None:
        """What an earlier process of the session wrote, in order of time."""
        for event in events:
            self.take(event)

    def values(self, now: float | None = None) -> Values:
        """All metrics that there is something to say of. now: seconds since 1970."""
        now = time.time() if now is None else now
        counts = {name: _series(of_metric) for name, of_metric in self._counts.items()}
        for node in self._nodes.values():
            _pass_time(counts, node, now)
        return {**counts, **self._replicas_now(), **self._nodes_now(), **self._machines_now(), **self._cards_now()}

    def _add(self, name: str, amount: float, *labels: str) -> None:
        self._counts[name][labels] += amount

    def _replica(self, event: Mapping[str, Any]) -> _Replica:
        return self._replicas.get(event["replica"], _Replica(_UNKNOWN, _UNKNOWN, None))

    # ---- work ----

    def _commit(self, event: Mapping[str, Any]) -> None:
        self._add("ramfleet_chunks_total", 1, "committed" if event["first"] else "beaten")
        self._add("ramfleet_commit_seconds_total", event["commit_s"])
        if not event["first"]:
            return
        rejects = event["rejects"]
        rejected = sum(rejects.values())
        self._add("ramfleet_images_total", event["images"] - rejected, "tagged")
        self._add("ramfleet_images_total", rejected, "rejected")
        for kind, number in rejects.items():
            self._add("ramfleet_rejects_total", number, kind)

    def _lease(self, event: Mapping[str, Any]) -> None:
        match event["event"]:
            case "lease":
                _, first, last = event["work"][:3]
                self._leases[event["lease"]] = last - first
            case "lease_done":
                labels = self._replica(event).labels
                self._add("ramfleet_model_images_total", self._leases.pop(event["lease"], 0), *labels)
                self._add("ramfleet_model_seconds_total", event["model_s"], *labels)
                self._add("ramfleet_leases_total", 1, *labels, "done")
            case "lease_failed":
                self._ended(event, "failed")
            case "lease_lost":
                self._ended(event, "node_lost" if event["node_gone"] else "replica_lost")
            case _:  # its replica may still finish it
                self._add("ramfleet_leases_orphaned_total", 1)

    def _ended(self, event: Mapping[str, Any], outcome: str) -> None:
        self._leases.pop(event["lease"], None)
        self._add("ramfleet_leases_total", 1, *self._replica(event).labels, outcome)

    # ---- replicas ----

    def _life(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "fleet_started":  # those of an earlier process ended with it
            for replica in self._replicas.values():
                replica.state = None
            self._leases.clear()
            return
        if event["event"] == "replica_started":
            replica = _Replica(event["card"], event["node_type"])
            self._replicas[event["replica"]] = replica
            self._add("ramfleet_replicas_started_total", 1, *replica.labels)
            return
        replica = self._replica(event)
        match event["event"]:
            case "replica_ready":
                replica.state = "ready"
                self._add("ramfleet_replica_load_seconds_total", event["load_s"], *replica.labels)
            case "replica_draining":
                replica.state = "draining"
            case "replica_gone":
                replica.state = None
                self._add("ramfleet_replicas_gone_total", 1, *replica.labels)

    def _replicas_now(self) -> dict[str, _Series]:
        now = _series()
        for replica in self._replicas.values():
            for state in ("starting", "ready", "draining"):
                now[*replica.labels, state] += replica.state == state
        return {"ramfleet_replicas": now}

    # ---- nodes ----

    def _node(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "node_joined":
            if event["node"] in self._nodes:  # told again by a process of the Fleet that does not know
                return
            price = event.get("price")
            per_hour, currency = (None, "") if price is None else (float(price["per_hour"]), price["currency"])
            kind = event["node_type"]
            self._nodes[event["node"]] = _Node(kind, event["market"] or _UNKNOWN, event["since"], per_hour, currency)
            self._add("ramfleet_nodes_joined_total", 1, kind)
            return
        node = self._nodes.pop(event["node"], None)
        if node is not None:
            self._add("ramfleet_nodes_gone_total", 1, node.node_type, event["cause"])
            _pass_time(self._counts, node, event["at"])
        self._machines.pop(event["node"], None)
        for key in [key for key in self._cards if key[0] == event["node"]]:
            del self._cards[key]

    def _nodes_now(self) -> dict[str, _Series]:
        names = ("ramfleet_nodes", "ramfleet_nodes_unpriced", "ramfleet_cost_per_hour")
        now: dict[str, _Series] = {name: _series() for name in names}
        for node in self._nodes.values():
            now["ramfleet_nodes"][node.node_type, node.market] += 1
            now["ramfleet_nodes_unpriced"][(node.node_type,)] += node.per_hour is None
            if node.per_hour is not None:
                now["ramfleet_cost_per_hour"][node.node_type, node.currency] += node.per_hour
        return now

    # ---- how hard machines work ----

    def _sample(self, event: Mapping[str, Any]) -> None:
        node = self._nodes.get(event["node"])
        if node is None:
            return
        if "cpu" in event:
            self._machines[event["node"]] = event
            self._add("ramfleet_network_received_bytes_total", event["received"], node.node_type)
            self._add("ramfleet_network_sent_bytes_total", event["sent"], node.node_type)
        for gpu, card in event.get("cards", {}).items():
            self._cards[event["node"], gpu] = card

    def _machines_now(self) -> Values:
        found = [(self._nodes[node].node_type, sample["cpu"] / 100) for node, sample in self._machines.items()]
        return {"ramfleet_cpu_utilization_ratio": _means(found)}

    def _cards_now(self) -> Values:
        def of(field: str, scale: float) -> list[tuple[str, float]]:
            cards = self._cards.items()
            return [(self._nodes[node].node_type, card[field] * scale) for (node, _), card in cards if field in card]

        return {
            "ramfleet_gpu_utilization_ratio": _means(of("gpu", 0.01)),
            "ramfleet_gpu_memory_used_bytes": _sums(of("vram_mib", _MIB)),
            "ramfleet_gpu_power_watts": _sums(of("power_w", 1)),
        }


def _pass_time(counts: dict[str, _Series], node: _Node, until: float) -> None:
    seconds = node.seconds(until)
    counts.setdefault("ramfleet_node_seconds_total", _series())[(node.node_type,)] += seconds
    if node.per_hour is not None:
        cost = seconds * node.per_hour / _HOUR_S
        counts.setdefault("ramfleet_cost_total", _series())[node.node_type, node.currency] += cost


def _sums(found: Iterable[tuple[str, float]]) -> _Series:
    sums = _series()
    for node_type, value in found:
        sums[(node_type,)] += value
    return sums


def _means(found: list[tuple[str, float]]) -> Mapping[tuple[str, ...], float]:
    numbers = Counter(node_type for node_type, _ in found)
    return {labels: total / numbers[labels[0]] for labels, total in _sums(found).items()}
