"""`python -m pipeline.fleet.drain`: tell Ray that this node is about to go, and wait until it may.

For what comes before a pod or machine ends (preStop of Kubernetes, a cloud's notice): the Fleet grants nothing more to
a node that drains, and what it has under way is committed or handed on before it dies.
"""

import argparse
import os
import signal
import sys
import time

_POLL_S = 0.5


def drain_this_node(address: str, own_address: str, seconds: float) -> str | None:
    """Drain the node of the cluster at `address` (host:port of its GCS) that has this IP address.

    Returns when it is gone or the seconds are over; what went wrong, None if nothing did. Ray has no public function
    for this; its command `ray drain-node` calls the same.
    """
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(address=address)
    ends_at = time.time() + seconds
    nodes = _alive(client, own_address)
    if not nodes:
        return f"no node of {address} has the address {own_address}: nothing is drained"
    reasons = autoscaler_pb2.DrainNodeReason  # type: ignore[attr-defined]
    reason = reasons.Value("DRAIN_NODE_REASON_PREEMPTION")
    for node_id in nodes:
        accepted, why = client.drain_node(node_id, reason, "the machine is taken away", int(ends_at * 1000))
        if not accepted:
            return f"Ray does not drain node {node_id[:8]}: {why}"
    while time.time() < ends_at and _alive(client, own_address):
        time.sleep(_POLL_S)
    return None


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 where nothing could be drained."""
    from ray.util import get_node_ip_address

    parser = argparse.ArgumentParser(description="Drain this Ray node.")
    parser.add_argument("--seconds", type=float, required=True, help="until it is taken away")
    known = os.environ.get("RAY_ADDRESS", "")
    parser.add_argument("--address", default=known, help="host:port of the cluster  [default: RAY_ADDRESS]")
    given = parser.parse_args(arguments)
    if not given.address:
        parser.error("--address: give host:port of the cluster, or set RAY_ADDRESS")
    # Ray waits long for a head that is gone, deep in C++: the alarm, which nobody catches, ends the process.
    signal.setitimer(signal.ITIMER_REAL, given.seconds + _POLL_S)
    try:
        problem = drain_this_node(given.address, get_node_ip_address(), given.seconds)  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - private functions may fail in any way, and the node ends all the same
        problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        print(f"drain: {problem}", file=sys.stderr)  # noqa: T201 - the command's own voice
    return int(problem is not None)


def _alive(client: object, own_address: str) -> list[str]:
    """Ids, in hex, of the nodes with this address, the head beside."""
    from ray.core.generated.gcs_pb2 import GcsNodeInfo  # type: ignore[attr-defined]

    nodes = client.get_all_node_info()  # type: ignore[attr-defined]
    alive = GcsNodeInfo.GcsNodeState.Value("ALIVE")
    return [
        node_id.hex()
        for node_id, info in nodes.items()
        if info.state == alive and not info.is_head_node and info.node_manager_address == own_address
    ]


if __name__ == "__main__":
    sys.exit(main())
