"""The coming and going of nodes, in the event log: all that prices and the ledger need to know of them."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.cards.node_facts import NodeFacts
from pipeline.cards.node_place import node_place
from pipeline.cards.profiles import GIB
from pipeline.cards.slot_policy import SlotPolicy, card_of, node_type
from pipeline.costs.prices import NodePrice, PriceTable
from pipeline.events.log import EventLog

_LEFT = {1, 4}
_PREEMPTED = 3
"""Of the reasons that Ray gives for a node's end: on purpose, idle; taken away after a notice."""


class NodeLog:
    """Writes `node_joined` and `node_gone`, once for each stay of a node.

    seen_at: when nodes were first seen before this began, seconds since 1970, by node id.
    """

    def __init__(
        self, log: EventLog, prices: PriceTable, policy: SlotPolicy, seen_at: Mapping[str, float] | None = None
    ) -> None:
        self._log, self._prices, self._policy = log, prices, policy
        self._seen_at = dict(seen_at or {})
        self._there: set[str] = set()
        self._draining: set[str] = set()

    def recall(self, event: Mapping[str, Any]) -> None:
        """The next event of an earlier process of this session, in order of time: go on where it ended."""
        if event["event"] == "node_joined":
            self._there.add(event["node"])
        elif event["event"] == "node_gone":
            self._there.discard(event["node"])
            self._seen_at.pop(event["node"], None)

    def look(
        self,
        nodes: Sequence[Mapping[str, Any]],
        facts: Mapping[str, NodeFacts],
        draining: set[str],
        reasons: Mapping[str, Any],
    ) -> None:
        """Compare with the nodes that are there now, as `ray.nodes()` lists them; those without facts join later.

        draining: nodes that are about to go; reasons: Ray's number for why a node went, by node id.
        """
        now = time.time()
        there = {node["NodeID"]: node for node in nodes}
        for node_id, node in there.items():
            since = self._seen_at.setdefault(node_id, now)
            if node_id not in self._there and node_id in facts:
                self._there.add(node_id)
                self._log.write("node_joined", **self._describe(node, facts[node_id], since))
        for node_id in self._there - there.keys():
            self._log.write("node_gone", node=node_id, cause=self._cause(node_id, reasons.get(node_id)))
        for node_id in self._seen_at.keys() - there.keys():
            del self._seen_at[node_id]
        self._there &= there.keys()
        self._draining = (self._draining | draining) & there.keys()

    def _describe(self, node: Mapping[str, Any], facts: NodeFacts, since: float) -> dict[str, Any]:
        place, resources = node_place(node), node["Resources"]
        vram = self._policy.vram_bytes(node, facts)
        vram_gib = None if vram is None else round(vram / GIB, 2)
        gpus = int(resources.get("GPU", 0))
        price = self._prices.find(
            card_of(node), place.instance_type, place.market, place.zone or place.region, gpus, vram_gib
        )
        limit = self._policy.limit_images_per_s(node, facts)
        return {
            "node": node["NodeID"],
            "since": round(since, 3),
            "host": facts.host,
            "node_type": node_type(node),
            "card": card_of(node),
            "card_names": sorted({gpu.name for gpu in facts.gpus}),
            "gpus": gpus,
            "vram_gib": vram_gib,
            "instance_type": place.instance_type,
            "market": place.market,
            "zone": place.zone,
            "region": place.region,
            "cpus": resources.get("CPU", 0.0),
            "object_store_bytes": int(resources.get("object_store_memory", 0)),
            "limit_images_per_s": None if limit is None else round(limit, 3),
            **_priced(price),
        }

    def _cause(self, node_id: str, reason: int | None) -> str:
        """ "drained" after a notice, "left" on purpose, "died" without a word."""
        if node_id in self._draining or reason == _PREEMPTED:
            return "drained"
        return "left" if reason in _LEFT else "died"


def _priced(price: NodePrice | str) -> dict[str, Any]:
    """Amounts as text, so that they stay exact."""
    if isinstance(price, str):
        return {"price": None, "unpriced": price}
    return {"price": {"per_hour": str(price.per_hour), "currency": price.currency, "source": price.source}}
