"""Nodes that Ray is about to take away, such as spot nodes after their notice."""

import logging

_LOG = logging.getLogger(__name__)


def draining_nodes() -> set[str]:
    """Ids of the nodes that drain. Empty where Ray does not tell: then a node's death is the first that is known of it.

    Ray has no public way to ask for this; whatever becomes of the private one must not disturb a run.
    """
    try:
        from ray._private.state import state

        return set(state.get_draining_nodes())
    except Exception as error:  # noqa: BLE001 - a private function may fail in any way in another version of Ray
        _LOG.warning("Ray does not tell which nodes drain: %s", error)
        return set()
