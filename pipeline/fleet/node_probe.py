"""Which nodes answer right now. Ray itself takes ten seconds and more to tell that a node is gone."""

import asyncio
import errno
from collections.abc import Mapping, Sequence
from typing import Any

_TIMEOUT_S = 3.0


async def unreachable(nodes: Sequence[Mapping[str, Any]]) -> set[str]:
    """Ids of those nodes (as `ray.nodes()` lists them) whose Ray daemon does not take a TCP connection."""
    answers = await asyncio.gather(*(_answers(node) for node in nodes))
    return {node["NodeID"] for node, answer in zip(nodes, answers, strict=True) if not answer}


async def _answers(node: Mapping[str, Any]) -> bool:
    """True also where no connection can be tried for want of open files: that says nothing of the node."""
    try:
        connection = await connect(node)
    except OSError:
        return True
    if connection is None:
        return False
    connection[1].close()
    return True


async def connect(node: Mapping[str, Any]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
    """A TCP connection to the node's Ray daemon; None if it takes none. Raises OSError if no file can be opened."""
    try:
        connecting = asyncio.open_connection(node["NodeManagerAddress"], node["NodeManagerPort"])
        return await asyncio.wait_for(connecting, _TIMEOUT_S)
    except OSError as error:  # refused, no way there; a TimeoutError is one as well
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None
