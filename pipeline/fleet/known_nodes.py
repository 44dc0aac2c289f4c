"""The facts of the cluster's nodes while a run goes on: those that join are read beside everything else."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ray.exceptions import RayError

from pipeline.cards.node_facts import READ_TIMEOUT_S, NodeFacts, Proof, silent_node, start_reading
from pipeline.cards.slot_policy import Unusable
from pipeline.errors import last_line


class KnownNodes:
    """facts: by node id, of all nodes that have been read.

    told: what replicas cannot use, of which the user knows.
    """

    def __init__(self, facts: Mapping[str, NodeFacts], proof: Proof, told: Sequence[Unusable]) -> None:
        self.facts = dict(facts)
        self._proof = proof
        self._reading: set[str] = set()
        self._told = set(told)

    def unread(self, nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Nodes that nobody reads or has read; they count as being read from now on."""
        found = [node for node in nodes if node["NodeID"] not in self.facts and node["NodeID"] not in self._reading]
        self._reading.update(node["NodeID"] for node in found)
        return found

    async def read(self, node: Mapping[str, Any]) -> None:
        """Read a node. One that does not answer, or with an error, is known as silent."""
        node_id = node["NodeID"]
        try:
            facts = await asyncio.wait_for(_answer(start_reading(node_id, self._proof)), READ_TIMEOUT_S)
        except TimeoutError:
            facts = silent_node(node)
        except RayError as error:
            facts = silent_node(node, f"it could not be read: {last_line(error)}")
        self.facts[node_id] = facts
        self._reading.discard(node_id)

    def is_news(self, item: Unusable) -> bool:
        """Whether the user does not know of it; from now on it is known."""
        is_news = item not in self._told
        self._told.add(item)
        return is_news


async def _answer(reference: Any) -> Any:
    """Ray's awaitable as a coroutine, which `asyncio.wait_for` can cancel."""
    return await reference
