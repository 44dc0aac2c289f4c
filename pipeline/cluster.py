"""The Ray cluster that a run works on: joined or started, and what of it the job takes."""

import logging
import os
import signal
import socket
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console

from pipeline.cards import Slot, SlotPolicy, decode_cpus, replica_device
from pipeline.config import Config
from pipeline.errors import ClusterError, last_line
from pipeline.fleet import Fleet
from pipeline.fleet_messages import FleetSpec
from pipeline.model_choice import resolve_dtype

_CONNECT_TIMEOUT_S = 10.0
_PIXELS_SHARE = 0.4
"""Part of a node's object store that pixels on their way may take."""
_FLEET_CALLS = 100_000
"""Calls that the Fleet takes at once: every hand-over may wait for many leases, and `release` must still get in."""
_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    # A thread that outlives the run must not start a second cluster by itself.
    "RAY_ENABLE_AUTO_CONNECT": "0",
}


@dataclass(frozen=True)
class ClusterShape:
    """What the cluster offers a run at its start.

    slots: room for replicas, no more than fleet.max_replicas; policy: how it was found, with the dtype of the run;
    decoders: CPUs left to decoding; worker_bytes: of the object store for each of them, on the node that has least.
    """

    slots: list[Slot]
    policy: SlotPolicy
    decoders: int
    worker_bytes: int


@contextmanager
def joined(console: Console) -> Iterator[None]:
    """Within: this process is the driver of the cluster at RAY_ADDRESS, or of one of its own on this machine.

    Raises ClusterError if there is no such cluster.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS") or "local"
    warnings.filterwarnings("ignore", module="ray")
    _check_address(address)
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        own: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
        with console.status("starting Ray on this machine" if own else f"joining the Ray cluster {address}"):
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING, namespace="ramfleet", **own)
    except (OSError, RayError, RuntimeError, ValueError) as error:
        raise ClusterError(f"RAY_ADDRESS={address}: cannot be joined or started: {last_line(error)}") from error
    signal.signal(signal.SIGTERM, on_sigterm)  # Ray has put its own in the place of the command's
    try:
        yield
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself would try for minutes to reach an address where nobody answers."""
    if address.startswith("ray://"):
        raise ClusterError(f"RAY_ADDRESS={address}: Ray Client is not supported; start the command on a cluster node")
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError as error:
        raise ClusterError(f"RAY_ADDRESS={address}: no cluster answers there: {error.strerror or error}") from error


def survey(config: Config, weight_bytes: int, planned_dtype: str | None) -> ClusterShape:
    """What the cluster offers now. planned_dtype: of a run that is gone on with.

    Raises ClusterError if that is too little to run at all, or if it cannot compute in the dtype.
    """
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    device = replica_device(nodes, config)
    policy = SlotPolicy(device, weight_bytes, config.model.dtype, config.model.microbatch)
    slots = policy.slots(nodes)[: config.fleet.max_replicas]
    decoders = int(decode_cpus(nodes, slots))
    if not slots or decoders < 1:
        raise ClusterError(_too_little(nodes, config, weight_bytes))
    dtype = resolve_dtype(config.model.dtype, planned_dtype, {slot.placement.device for slot in slots})
    policy = replace(policy, dtype=dtype)
    slots = policy.slots(nodes)[: config.fleet.max_replicas]
    return ClusterShape(slots, policy, decoders, _worker_bytes(nodes))


def _worker_bytes(nodes: list[dict[str, Any]]) -> int:
    alive = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    return int(min(node.get("object_store_memory", 0) * _PIXELS_SHARE / node["CPU"] for node in alive))


def start_fleet(spec: FleetSpec) -> Any:
    """The Fleet's actor handle. It lives on this driver's node, as a replica's node may die at any time."""
    here = ray.get_runtime_context().get_node_id()
    actor = ray.remote(Fleet)
    return actor.options(
        name=f"fleet-{uuid.uuid4().hex[:8]}",
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=_FLEET_CALLS,
        label_selector={"ray.io/node-id": here},
    ).remote(spec)


def _too_little(nodes: list[dict[str, Any]], config: Config, weight_bytes: int) -> str:
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    cpus, gpus = (sum(resources.get(name, 0) for resources in alive) for name in ("CPU", "GPU"))
    memory = sum(resources.get("memory", 0) for resources in alive) / 2**30
    there = f"the cluster has {cpus:g} CPU(s), {gpus:g} GPU(s) and {memory:.1f} GiB in {len(alive)} node(s)"
    if replica_device(nodes, config) == "cuda":
        return f"{there}: a GPU for replicas and a CPU for decoding are needed; or add --set fleet.use_cpu=true"
    return (
        f"{there}: a node with 2 CPUs, one for decoding and one for a replica of {weight_bytes / 2**30:.2f} GiB, is "
        "the least that works"
    )
