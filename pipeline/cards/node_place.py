"""Where a node is from: machine, market, zone and region, by the labels that Ray or the user gave it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INSTANCE_LABELS = ("ramfleet/instance-type", "node.kubernetes.io/instance-type")
"""Ray has no label for the machine's type: one of our own, or Kubernetes's where it is copied to the Ray node."""


@dataclass(frozen=True)
class NodePlace:
    """None where no label says it. market: as written, "spot" or "on-demand"; zone: of the region."""

    instance_type: str | None = None
    market: str | None = None
    zone: str | None = None
    region: str | None = None


def node_place(node: Mapping[str, Any]) -> NodePlace:
    """The place of a node as `ray.nodes()` lists it."""
    labels = node.get("Labels", {})
    return NodePlace(
        instance_type=next((str(labels[name]) for name in INSTANCE_LABELS if labels.get(name)), None),
        market=labels.get("ray.io/market-type") or None,
        zone=labels.get("ray.io/availability-zone") or None,
        region=labels.get("ray.io/availability-region") or None,
    )
