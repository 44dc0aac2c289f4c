"""Which nodes answer right now. Ray itself takes ten seconds and more to tell that a node is gone."""

import asyncio
import errno
from collections.abc import Mapping, Sequence
from typing import Any

_TIMEOUT_S = 3.0


async def unreachable(nodes: Sequence[Mapping[str, Any]]) -> set[str]:
    """Ids of those nodes (as `ray.nodes()` lists them) whose Ray daemon does not take a TCP connection."""
    connections = await asyncio.gather(*(connect(node) for node in nodes))
    for connection in connections:
        if connection is not None:
            connection[1].close()
    return {node["NodeID"] for node, connection in zip(nodes, connections, strict=True) if connection is None}


async def connect(node: Mapping[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A TCP connection to the node's Ray daemon; None if it takes none. Raises OSError where none can be made here."""
    try:
        connecting = asyncio.open_connection(node["NodeManagerAddress"], node["NodeManagerPort"])
        return await asyncio.wait_for(connecting, _TIMEOUT_S)
    except OSError as error:  # refused, no way there; a TimeoutError is one as well
        if error.errno in (errno.EMFILE, errno.ENFILE):  # this says nothing of the node
            raise
        return None
