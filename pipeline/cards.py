"""What each node offers: how many replicas of the model fit on its cards or CPUs, and where decoding stays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.config import Config
from pipeline.replica import Placement

_DECODE_SHARE = 0.25
"""Part of a node's CPUs that decoding keeps where replicas run on CPUs."""
_CPU_MEMORY_SHARE = 0.5
"""Part of a node's memory that the weights of CPU replicas may take."""
_CPU_MICROBATCH, _CARD_MICROBATCH = 4, 32
_PROCESS_BYTES = 1 << 30
"""Memory of a replica process beside its weights: interpreter, torch, activations of a micro-batch."""


@dataclass(frozen=True)
class Slot:
    """Room for one replica.

    slot: its name, unique in the cluster and stable while the node lives; images_per_s: what the replica is expected
    to do, None where nothing is known of its card.
    """

    slot: str
    node_id: str
    node_type: str
    card: str
    placement: Placement
    images_per_s: float | None = None


def card_of(node: Mapping[str, Any]) -> str:
    """The card's name as Ray reports it, such as "A100"; "cpu" for a node without one."""
    label = node.get("Labels", {}).get("ray.io/accelerator-type")
    if label:
        return str(label)
    names = [name.split(":", 1)[1] for name in node["Resources"] if name.startswith("accelerator_type:")]
    return names[0] if names else ("gpu" if node["Resources"].get("GPU") else "cpu")


Device = Literal["cuda", "cpu", "both"]
"""What replicas of a run may use."""


@dataclass(frozen=True)
class SlotPolicy:
    """How room for replicas is found on a node.

    weight_bytes: size of the model's weights in memory; dtype: of the run, never "auto";
    microbatch: images through the model at once, "auto" by the device.
    """

    device: Device
    weight_bytes: int
    dtype: str
    microbatch: Literal["auto"] | int

    def slots(self, nodes: Sequence[Mapping[str, Any]]) -> list[Slot]:
        """Room for replicas on the given nodes (as `ray.nodes()` lists them), in order of node."""
        alive = sorted((node for node in nodes if node["Alive"]), key=lambda node: str(node["NodeID"]))
        return [
            Slot(f"{node['NodeID']}/{index}", node["NodeID"], node_type(node), card_of(node), placement)
            for node in alive
            for index, placement in enumerate(self._placements(node))
        ]

    def _placements(self, node: Mapping[str, Any]) -> list[Placement]:
        gpus = int(node["Resources"].get("GPU", 0))
        if gpus and self.device in ("cuda", "both"):
            microbatch = _CARD_MICROBATCH if self.microbatch == "auto" else self.microbatch
            return [Placement("cuda", 1, num_cpus=0, num_gpus=1.0, dtype=self.dtype, microbatch=microbatch)] * gpus
        return self._cpu_placements(node) if self.device in ("cpu", "both") else []

    def _cpu_placements(self, node: Mapping[str, Any]) -> list[Placement]:
        """As many replicas as CPUs and memory allow, each with an equal number of threads."""
        cpus = int(node["Resources"].get("CPU", 0))
        free = cpus - max(1, round(cpus * _DECODE_SHARE))
        memory = node["Resources"].get("memory", 0.0) * _CPU_MEMORY_SHARE
        replicas = min(free, int(memory // (self.weight_bytes + _PROCESS_BYTES)))
        if replicas < 1:
            return []
        threads = free // replicas
        microbatch = _CPU_MICROBATCH if self.microbatch == "auto" else self.microbatch
        return [Placement("cpu", threads, threads, num_gpus=0, dtype=self.dtype, microbatch=microbatch)] * replicas


def replica_device(nodes: Sequence[Mapping[str, Any]], config: Config) -> Device:
    """What replicas run on in this cluster, by `fleet.use_cpu`. Asked once: nodes that join change nothing."""
    gpus = any(node["Resources"].get("GPU", 0) >= 1 for node in nodes if node["Alive"])
    if config.fleet.use_cpu == "auto":
        return "cuda" if gpus else "cpu"
    if not config.fleet.use_cpu:
        return "cuda"
    return "both" if gpus else "cpu"


def decode_cpus(nodes: Sequence[Mapping[str, Any]], slots: Sequence[Slot]) -> float:
    """CPUs of the cluster that replicas leave to decoding."""
    total = sum(node["Resources"].get("CPU", 0.0) for node in nodes if node["Alive"])
    return float(total - sum(slot.placement.num_cpus for slot in slots))


def node_type(node: Mapping[str, Any]) -> str:
    """The kind of node that costs are told apart by: its node group, instance type, or card."""
    labels = node.get("Labels", {})
    return str(labels.get("ray.io/node-group") or labels.get("ramfleet/instance-type") or card_of(node))
