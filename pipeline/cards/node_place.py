"""Where a node is from: machine, market, zone and region, by the labels that Ray or the user gave it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.cards.labels import INSTANCE_LABELS, MARKET_LABEL, REGION_LABEL, ZONE_LABEL


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
        market=labels.get(MARKET_LABEL) or None,
        zone=labels.get(ZONE_LABEL) or None,
        region=labels.get(REGION_LABEL) or None,
    )
