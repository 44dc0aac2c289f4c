"""Which nodes answer right now. Ray itself takes ten seconds and more to tell that a node is gone."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

_TIMEOUT_S = 3.0


async def unreachable(nodes: Sequence[Mapping[str, Any]]) -> set[str]:
    """Ids of those nodes (as `ray.nodes()` lists them) whose Ray daemon does not take a TCP connection."""
    answers = await asyncio.gather(*(_answers(node) for node in nodes))
    return {node["NodeID"] for node, answer in zip(nodes, answers, strict=True) if not answer}


async def _answers(node: Mapping[str, Any]) -> bool:
    try:
        connecting = asyncio.open_connection(node["NodeManagerAddress"], node["NodeManagerPort"])
        _, writer = await asyncio.wait_for(connecting, _TIMEOUT_S)
    except OSError:  # refused, no way there; a TimeoutError is one as well
        return False
    writer.close()
    return True
