"""A cluster of several raylets on this machine, with pretended GPUs, whose nodes come and go while a job runs."""

import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from pretend import ORDERS, Orders
from runs import Run, kill

from pipeline.events.log import read_events
from pipeline.stores.opening import open_store

_HERE = Path(__file__).parent
_STORE_BYTES = 150 << 20
CARDS = ("GeForce-RTX-2080", "T4", "L4", "A10G", "A100")
"""As Ray names them. Each takes one replica here, so that its speed is that of the replica."""


@dataclass
class Node:
    """A raylet that was added. killed_at: seconds since 1970."""

    name: str
    card: str | None
    node_id: str
    killed_at: float | None = None


@dataclass
class MixedCluster:
    """A head without a GPU, and nodes with a pretended one each. orders: what the cards do, see pretend.Orders."""

    orders_file: Path
    nodes: list[Node] = field(default_factory=list)
    _raylets: dict[str, Any] = field(default_factory=dict)
    _cluster: Any = None

    @property
    def address(self) -> str:
        """As RAY_ADDRESS takes it."""
        address: str = self._cluster.address
        return address

    def order(self, **orders: Any) -> None:
        """New orders for all cards, and a clean slate for what they write down."""
        folder = self.orders_file.with_suffix(".work")
        for file in folder.glob("*"):
            file.unlink()
        self.change(**orders)

    def change(self, **orders: Any) -> None:
        """New orders in mid-run."""
        Orders(**orders).write(self.orders_file)

    def start(self, num_cpus: int) -> None:
        """Start the head, whose CPUs serve the driver's side of things and decoding."""
        from ray.cluster_utils import Cluster

        self._cluster = Cluster()
        self._add("head", None, num_cpus, 0, {})

    def add(self, card: str, num_cpus: int = 1, num_gpus: int = 1, vram_gib: int = 16) -> Node:
        """Add a node with cards of one type, named as Ray names them. Must be called in the main thread."""
        labels = {
            "ray.io/accelerator-type": card,
            "ray.io/node-group": f"{card.lower()}-nodes",
            "ramfleet/vram-gib": str(vram_gib),
        }
        return self._add(f"{card}-{len(self.nodes)}", card, num_cpus, num_gpus, labels)

    def _add(self, name: str, card: str | None, num_cpus: int, num_gpus: int, labels: dict[str, str]) -> Node:
        resources = {f"accelerator_type:{card}": 1} if card else {}
        raylet = self._cluster.add_node(
            num_cpus=num_cpus,
            num_gpus=num_gpus,
            labels=labels,
            resources=resources,
            object_store_memory=_STORE_BYTES,
            include_dashboard=False,
        )
        node = Node(name, card, raylet.node_id)
        self.nodes.append(node)
        self._raylets[name] = raylet
        return node

    def alive(self, card: str | None = None) -> list[Node]:
        """Nodes with a GPU that were not killed, of one card or of all."""
        return [n for n in self.nodes if n.killed_at is None and n.card is not None and card in (None, n.card)]

    def kill(self, node: Node) -> None:
        """As if its power were cut: SIGKILL of the raylet, then of all that runs below it."""
        raylet = self._raylets.pop(node.name)
        node.killed_at = time.time()
        below = _processes(raylet)
        for process in below:
            kill(process)
        psutil.wait_procs(below, timeout=10)
        self._cluster.remove_node(raylet, allow_graceful=False)

    def processes(self, node: Node, title: str) -> list[psutil.Process]:
        """Processes on a node whose title contains the text, as Ray names its actors."""
        found = []
        for process in _processes(self._raylets[node.name]):
            with suppress(psutil.Error):
                if title in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def drain(self, node: Node, deadline_s: float) -> None:
        """Tell Ray that the node will be taken away, as a cloud's spot notice does (private: Ray offers no other)."""
        from ray._raylet import GcsClient
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + deadline_s) * 1000)
        accepted, why = GcsClient(address=self.address).drain_node(node.node_id, reason, "spot notice", deadline_ms)
        if not accepted:
            raise AssertionError(f"Ray did not accept the draining of {node.name}: {why}")

    def bytes_stored(self) -> dict[str, int]:
        """Bytes that were ever created in each node's object store: put there, or pulled from another node."""
        from ray._private.internal_api import node_stats

        addresses = {n["NodeID"]: (n["NodeManagerAddress"], n["NodeManagerPort"]) for n in self.table() if n["Alive"]}
        return {
            node.name: node_stats(
                *addresses[node.node_id], include_memory_info=False
            ).store_stats.cumulative_created_bytes
            for node in self.nodes
            if node.node_id in addresses
        }

    def table(self) -> list[dict[str, Any]]:
        """As `ray.nodes()` lists them."""
        table: list[dict[str, Any]] = self._cluster.global_state.node_table()
        return table

    def stop(self) -> None:
        """End all that this started."""
        with suppress(Exception):
            self._cluster.shutdown()

    def run(self, replica: str, input: Path, out: Path, bundle: Path, options: list[str]) -> Run:
        """The command as a driver on the head of this cluster. replica: a class of pretend.py."""
        environment = surroundings(self.orders_file) | {"RAY_ADDRESS": self.address}
        one_each = ", ".join(f"{card}: 1" for card in CARDS)
        always = ["model.dtype=fp32", f"fleet.replicas_per_gpu={{{one_each}}}"]
        return Run(input, out, bundle, [*always, *options], environment, program=program(replica))


def program(replica: str) -> list[str]:
    """The real command with a replica class of pretend.py."""
    return [sys.executable, str(_HERE / "pretend.py"), replica]


def surroundings(orders: Path) -> dict[str, str]:
    """Environment of a driver, and of the raylets that start replicas for it, in which pretend.py can be imported."""
    path = os.pathsep.join([str(_HERE), str(_HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    return {ORDERS: str(orders), "PYTHONPATH": path}


def write_manifest(file: Path, pictures: Sequence[Path], rows: int) -> Path:
    """Every row is an image of its own, by its id; the same few files come again and again."""
    lines = [f"i{row:06d},{pictures[row % len(pictures)]}" for row in range(rows)]
    file.write_text("\n".join(["image_id,uri", *lines]) + "\n")
    return file


@contextmanager
def mixed_cluster(folder: Path, cards: list[str], head_cpus: int = 2, node_cpus: int = 1) -> Iterator[MixedCluster]:
    """A cluster that lives within. folder: for the orders; cards: one node each."""
    cluster = MixedCluster(folder / "orders.json")
    cluster.order()
    before = dict(os.environ)
    os.environ.update(surroundings(cluster.orders_file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cluster.start(head_cpus)
            for card in cards:
                cluster.add(card, node_cpus)
        yield cluster
    finally:
        cluster.stop()
        os.environ.clear()
        os.environ.update(before)


def _processes(raylet: Any) -> list[psutil.Process]:
    """The raylet first, so that it cannot tell of its workers' deaths."""
    found = []
    for processes in raylet.all_processes.values():
        for started in processes:
            with suppress(psutil.NoSuchProcess):
                process = psutil.Process(started.process.pid)
                found += [process, *process.children(recursive=True)]
    return found


# ---- what a run's events say ----


def events_of(out: Path, *kinds: str) -> list[dict[str, Any]]:
    """Events of these kinds in order of time."""
    found = [event for event in read_events(open_store(out)) if not kinds or event["event"] in kinds]
    return sorted(found, key=lambda event: float(event["at"]))


def telemetry(out: Path) -> pd.DataFrame:
    """The telemetry of a finished run: what each replica did of the committed chunks."""
    table = pd.concat(pd.read_parquet(file) for file in sorted((out / "telemetry").glob("part-*.parquet")))
    return table[table["outcome"].isin(["committed", "shared"])]


def longest_silence(out: Path, nodes: list[Node]) -> float:
    """The longest time without a commit during which some replica was alive all the while, in seconds.

    The clock starts with the first lease, when pixels are there. A replica lives from its event `replica_ready` until
    `replica_gone`, or until its node was killed.
    """
    killed = {node.node_id: node.killed_at for node in nodes if node.killed_at is not None}
    changes: list[tuple[float, str, str]] = []
    for event in events_of(out, "replica_ready", "replica_gone", "commit", "fleet_started"):
        changes.append((event["at"], event["event"], event.get("replica", "")))
        if event["event"] == "replica_ready" and event["node"] in killed:
            changes.append((killed[event["node"]], "replica_gone", event["replica"]))
    commits = [at for at, what, _ in changes if what == "commit"]
    first_lease = events_of(out, "lease")[0]["at"]
    return _longest_silence(sorted(c for c in changes if c[0] <= max(commits)), first_lease)


def _longest_silence(changes: list[tuple[float, str, str]], since: float) -> float:
    alive: set[str] = set()
    longest = 0.0
    for at, what, replica in changes:
        if alive:
            longest = max(longest, at - since)
        if what == "replica_ready":
            since = since if alive else max(since, at)
            alive.add(replica)
        elif what == "commit":
            since = at
        else:
            alive = set() if what == "fleet_started" else alive - {replica}
    return longest
