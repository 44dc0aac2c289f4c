"""The Ray cluster that a run works on: joined or started, and what of it the job takes."""

import asyncio
import logging
import os
import signal
import socket
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError
from rich.console import Console

from pipeline.cards.labels import ACCELERATOR_LABEL
from pipeline.cards.node_facts import NodeFacts, Proof, check_proven, read_nodes
from pipeline.cards.profiles import GIB, CardTable, load_profiles
from pipeline.cards.sizing import ModelLoad
from pipeline.cards.slot_policy import Slot, SlotPolicy, Unusable, card_of, decode_cpus, replica_device
from pipeline.config import Config
from pipeline.errors import ClusterError, StalledError, last_line
from pipeline.fleet.fleet import Fleet
from pipeline.fleet.messages import FleetSpec
from pipeline.fleet.node_probe import unreachable
from pipeline.model_choice import resolve_dtype

_POLL_S = 2.0
_CONNECT_TIMEOUT_S = 10.0
_PIXELS_SHARE = 0.3
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
    alive: nodes, as Ray lists them; facts: what was read on each, by node id; unusable: what replicas cannot use;
    proof: what was asked of the nodes, and is of those that join later; seen_at: when each node was first seen, seconds
    since 1970.
    """

    slots: list[Slot]
    policy: SlotPolicy
    alive: list[dict[str, Any]]
    facts: Mapping[str, NodeFacts]
    unusable: list[Unusable]
    proof: Proof = field(default_factory=Proof)
    seen_at: Mapping[str, float] = field(default_factory=dict)

    @property
    def decoders(self) -> int:
        """CPUs left to decoding."""
        return int(decode_cpus(self.alive, self.slots))

    @property
    def nodes(self) -> int:
        """Number of nodes."""
        return len(self.alive)

    @property
    def worker_bytes(self) -> int:
        """Of the object store, for the pixels of each CPU, on the node that has least."""
        nodes = [node["Resources"] for node in self.alive if node["Resources"].get("CPU", 0) >= 1]
        return int(min(node.get("object_store_memory", 0) * _PIXELS_SHARE / node["CPU"] for node in nodes))

    def computing_in(self, dtype: str, config: Config) -> "ClusterShape":
        """The same cluster for a run in this dtype."""
        policy = replace(self.policy, dtype=dtype)
        slots = policy.slots(self.alive, self.facts)[: config.fleet.max_replicas]
        return replace(self, slots=slots, policy=policy, unusable=policy.unusable(self.alive, self.facts))


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


def survey(config: Config, load: ModelLoad, planned_dtype: str | None, proof: Proof, console: Console) -> ClusterShape:
    """What the cluster offers now. planned_dtype: of a run that is gone on with; proof: that every node has to give.

    Where cards are asked for (`requested_cards`), the first of them are waited for. Raises ClusterError if there is
    too little to run at all, if a node does not see the files of the run, or if it cannot compute in the dtype;
    StalledError if no card that was asked for came.
    """
    table = load_profiles(config.fleet.profiles)
    facts: dict[str, NodeFacts] = {}
    seen_at: dict[str, float] = {}
    give_up, said = time.monotonic() + config.fleet.stall_timeout_s, False
    while True:
        nodes = _reachable_nodes()
        seen_at |= {node["NodeID"]: time.time() for node in nodes if node["NodeID"] not in seen_at}
        facts |= read_nodes([node for node in nodes if node["NodeID"] not in facts], proof)
        check_proven(facts)
        policy = _undecided_policy(config, load, table, nodes)
        shape = ClusterShape([], policy, nodes, facts, [], proof, seen_at)
        preferred = policy.preferred(nodes, facts)
        if preferred:
            dtype = resolve_dtype(config.model.dtype, planned_dtype, preferred, config.fleet.mixed_dtype)
            shape = shape.computing_in(dtype, config)
        if shape.slots and shape.decoders >= 1:
            return shape
        if not config.fleet.request:
            raise ClusterError(_too_little(shape, config))
        if not console.is_terminal and not said:
            console.print(f"Waiting for cards: {_asked(config)}")
        said = True
        _wait_for_cards(shape, config, give_up, console)


def _reachable_nodes() -> list[dict[str, Any]]:
    """The nodes that Ray lists as alive and whose daemon answers."""
    nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    gone = asyncio.run(unreachable(nodes))
    return [node for node in nodes if node["NodeID"] not in gone]


def _undecided_policy(config: Config, load: ModelLoad, table: CardTable, nodes: list[dict[str, Any]]) -> SlotPolicy:
    """In fp32 until the run's number type is known, which is decided by what the cards prefer."""
    return SlotPolicy(
        device=replica_device(nodes, config),
        load=load,
        dtype="fp32",
        microbatch=config.model.microbatch,
        table=table,
        replicas_per_gpu=config.fleet.replicas_per_gpu,
        mixed_dtype=config.fleet.mixed_dtype,
        compiled=config.model.compile,
    )


def _asked(config: Config) -> str:
    return "asked for " + ", ".join(f"{count} × {card}" for card, count in config.fleet.request.items())


def _wait_for_cards(shape: ClusterShape, config: Config, give_up: float, console: Console) -> None:
    """A moment's pause. Raises StalledError once there has been time enough."""
    left, asked = give_up - time.monotonic(), _asked(config)
    if left <= 0:
        raise StalledError(
            f"no card came within fleet.stall_timeout_s={config.fleet.stall_timeout_s:g}: {asked} "
            f"(fleet.request), {_there(shape)}. Run the same command again when the cluster has them"
        )
    with console.status(f"waiting for cards, {left:.0f} s at most: {asked}; {_there(shape)}"):
        time.sleep(min(_POLL_S, left))


@contextmanager
def requested_cards(config: Config) -> Iterator[None]:
    """Within, an autoscaling cluster is asked for the cards of `fleet.request`; afterwards for nothing."""
    if not config.fleet.request:
        yield
        return
    request_cards(config.fleet.request)
    try:
        yield
    finally:
        release_cards()


def request_cards(cards: Mapping[str, int]) -> None:
    """Ask the autoscaler for so many GPUs of each card, by Ray's names; where there is none, nothing happens.

    The first version of the autoscaler passes label selectors over: it is told of the card by a resource, which
    clusters of the second (KubeRay) do not declare.
    """
    from ray.autoscaler.sdk import request_resources
    from ray.autoscaler.v2.utils import is_autoscaler_v2

    wanted = [card for card, count in cards.items() for _ in range(count)]
    by_label = is_autoscaler_v2()
    request_resources(
        bundles=[{"GPU": 1} if by_label else {"GPU": 1, f"accelerator_type:{card}": 0.001} for card in wanted],
        bundle_label_selectors=[{ACCELERATOR_LABEL: card} for card in wanted],
    )


def release_cards() -> None:
    """Take back what `request_cards` asked for, so that idle nodes go. A cluster that is gone needs no telling."""
    from ray.autoscaler.sdk import request_resources

    if ray.is_initialized():
        request_resources(bundles=[])


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


def _too_little(shape: ClusterShape, config: Config) -> str:
    lines = [f"{item.card} on {item.host}: {item.why}" for item in shape.unusable]
    if shape.policy.device == "cuda":
        needed = "a GPU for replicas and a CPU for decoding are needed; or add --set fleet.use_cpu=true"
    else:
        weights = min(shape.policy.load.weight_bytes.values()) / GIB
        needed = (
            f"a node with 2 CPUs, one for decoding and one for a replica of {weights:.2f} GiB, is the least that works"
        )
    return "\n".join([*lines, f"{_there(shape)}: {needed}"])


def _there(shape: ClusterShape) -> str:
    resources = [node["Resources"] for node in shape.alive]
    cpus, gpus = (sum(found.get(name, 0) for found in resources) for name in ("CPU", "GPU"))
    memory = sum(found.get("memory", 0) for found in resources) / GIB
    cards = sorted({card_of(node) for node in shape.alive if node["Resources"].get("GPU")})
    named = f" ({', '.join(cards)})" if cards else ""
    return f"the cluster has {cpus:g} CPU(s), {gpus:g} GPU(s){named} and {memory:.1f} GiB in {shape.nodes} node(s)"
