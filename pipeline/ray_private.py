"""What Ray tells by private functions only. They may fail in any way in another version of Ray, and must not disturb.

Everything here is optional: a run does without it.
"""

import logging
from typing import Any

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 10.0


def draining_nodes() -> set[str]:
    """Ids of the nodes that Ray is about to take away, such as spot nodes after their notice.

    Empty where Ray does not tell: then a node's death is the first that is known of it.
    """
    try:
        from ray._private.state import state

        return set(state.get_draining_nodes())
    except Exception as error:  # noqa: BLE001 - see the module
        _LOG.warning("Ray does not tell which nodes drain: %s", error)
        return set()


def end_execution(dataset: Any) -> None:
    """Have Ray Data give up a dataset that another thread iterates over, which ends that iteration."""
    try:
        executor = dataset._current_executor
        if executor is not None:
            executor.shutdown(force=True)
    except Exception as error:  # noqa: BLE001 - see the module
        _LOG.warning("Ray Data does not let go of its tasks: %s", error)


def spilled_bytes() -> int | None:
    """Bytes that the object stores of all nodes have written to disk since they began; None where Ray does not tell."""
    try:
        from ray._private.internal_api import get_memory_info_reply
        from ray._private.state import state

        reply = get_memory_info_reply(state, timeout_seconds=_TIMEOUT_S)  # type: ignore[no-untyped-call]
        return int(reply.store_stats.spilled_bytes_total)
    except Exception as error:  # noqa: BLE001 - see the module
        _LOG.warning("Ray does not tell how much was spilled: %s", error)
        return None
