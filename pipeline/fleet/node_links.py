"""An open connection to each node's Ray daemon: its end tells at once that a node is gone.

Nodes that fall silent without closing anything are found by `pipeline.fleet.node_probe`, with every look.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from pipeline.fleet.background import Background
from pipeline.fleet.node_probe import connect, unreachable

_PAUSE_S = 1.0
"""Before a connection that was closed by a living daemon is made again."""


class NodeLinks:
    """Wakes the background's loop when a node takes connections no more."""

    def __init__(self, background: Background) -> None:
        self._background = background
        self._links: dict[str, asyncio.Task[None]] = {}

    def keep(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """From now on hold a connection to each of these nodes, as `ray.nodes()` lists them, and to no other."""
        by_id = {node["NodeID"]: node for node in nodes}
        for node_id in self._links.keys() - by_id.keys():
            self._links.pop(node_id).cancel()
        for node_id, node in by_id.items():
            if node_id not in self._links or self._links[node_id].done():
                self._links[node_id] = self._background.spawn(self._hold(node))

    async def _hold(self, node: Mapping[str, Any]) -> None:
        """Daemons close a connection over which nothing is said, after minutes: it is made again then."""
        await _until_closed(node)
        while not await unreachable([node]):
            await asyncio.sleep(_PAUSE_S)
            await _until_closed(node)
        self._background.wake()


async def _until_closed(node: Mapping[str, Any]) -> None:
    with suppress(OSError):  # reset, or no file could be opened: `unreachable` says what that means
        connection = await connect(node)
        if connection is not None:
            try:
                await connection[0].read()
            finally:
                connection[1].close()
