"""What each node offers: how many replicas of the model fit on its cards or CPUs, and where decoding stays."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.cards.labels import ACCELERATOR_LABEL, GROUP_LABEL, INSTANCE_LABEL, VRAM_LABEL
from pipeline.cards.node_facts import NodeFacts
from pipeline.cards.node_place import NodePlace, node_place
from pipeline.cards.placement import Placement
from pipeline.cards.profiles import GIB, CardProfile, CardTable, MeasuredProfile
from pipeline.cards.sizing import (
    LARGE_MODEL,
    MOST_REPLICAS,
    CardSize,
    ModelLoad,
    images_per_s_ceiling,
    measured_card,
    size_card,
)
from pipeline.config import Config

_DECODE_SHARE = 0.25
"""Part of a node's CPUs that decoding keeps where replicas run on CPUs."""
_CPU_MEMORY_SHARE = 0.5
"""Part of a node's memory that the weights of CPU replicas may take."""
_CARD_MEMORY_SHARE = 0.8
"""Part of a node's memory that the processes of replicas on cards may take."""
_CPU_MICROBATCH = 4
_PROCESS_BYTES = 1 << 30
"""Memory of a replica process beside its weights: interpreter, torch, activations of a micro-batch."""
_CUDA_PROCESS_BYTES = 2 << 30
"""The same of a replica on a card, whose weights are not kept in the node's memory: CUDA's libraries are."""
_FP16_CAPABILITY = (7, 0)
"""The first cards with tensor cores; older ones that no profile tells of compute in fp32."""


@dataclass(frozen=True)
class Slot:
    """Room for one replica.

    slot: its name, unique in the cluster and stable while the node lives; images_per_s: what the replica is expected
    to do, None where nothing is known of its card; measured: whether that was measured, or is from a model of the card;
    lane: the card of the node that it is expected on, from 0; place: of the node.
    """

    slot: str
    node_id: str
    node_type: str
    card: str
    placement: Placement
    images_per_s: float | None = None
    measured: bool = False
    lane: int = 0
    place: NodePlace = field(default_factory=NodePlace)

    @property
    def is_first(self) -> bool:
        """Of its node."""
        return self.slot == f"{self.node_id}/0"


@dataclass(frozen=True)
class Unusable:
    """A node, or some cards of it, that replicas cannot use, and why."""

    node_id: str
    host: str
    card: str
    why: str


@dataclass(frozen=True)
class _Offer:
    """What one node has for replicas: places with images/s each, and what is left over."""

    placements: Sequence[Placement] = ()
    images_per_s: float | None = None
    measured: bool = False
    unusable: str | None = None


def card_of(node: Mapping[str, Any]) -> str:
    """The card's name as Ray reports it, such as "A100"; "cpu" for a node without one."""
    label = node.get("Labels", {}).get(ACCELERATOR_LABEL)
    if label:
        return str(label)
    names = [name.split(":", 1)[1] for name in node["Resources"] if name.startswith("accelerator_type:")]
    return names[0] if names else ("gpu" if node["Resources"].get("GPU") else "cpu")


Device = Literal["cuda", "cpu", "both"]
"""What replicas of a run may use."""


@dataclass(frozen=True)
class SlotPolicy:
    """How room for replicas is found on a node; decided once for a run, and pure.

    load: what the model asks of a device; dtype: of the run, never "auto"; microbatch: images through the model at
    once, "auto" by the card; table: what is known of cards; replicas_per_gpu: by card, instead of what the table says;
    mixed_dtype: every card computes in what suits it, not in `dtype`; compiled: replicas compile the model.
    """

    device: Device
    load: ModelLoad
    dtype: str
    microbatch: Literal["auto"] | int
    table: CardTable = field(default_factory=CardTable)
    replicas_per_gpu: Mapping[str, int] = field(default_factory=dict)
    mixed_dtype: bool = False
    compiled: bool = False

    def slots(self, nodes: Sequence[Mapping[str, Any]], facts: Mapping[str, NodeFacts]) -> list[Slot]:
        """Room for replicas on the given nodes (as `ray.nodes()` lists them), in order of node.

        facts: of the nodes that were read, by node id; the others offer nothing yet.
        """
        return [
            Slot(
                slot=f"{node['NodeID']}/{index}",
                node_id=node["NodeID"],
                node_type=node_type(node),
                card=card_of(node),
                placement=placement,
                images_per_s=offer.images_per_s,
                measured=offer.measured,
                lane=int(index * placement.num_gpus + 1e-3),
                place=node_place(node),
            )
            for node, offer in self._offers(nodes, facts)
            for index, placement in enumerate(offer.placements)
        ]

    def unusable(self, nodes: Sequence[Mapping[str, Any]], facts: Mapping[str, NodeFacts]) -> list[Unusable]:
        """What replicas should be able to use and cannot, of the nodes that were read, in order of node."""
        return [
            Unusable(node["NodeID"], facts[node["NodeID"]].host, card_of(node), offer.unusable)
            for node, offer in self._offers(nodes, facts)
            if offer.unusable is not None
        ]

    def preferred(self, nodes: Sequence[Mapping[str, Any]], facts: Mapping[str, NodeFacts]) -> set[tuple[str, str]]:
        """Device and number type that suit each place best, of "cuda" and "cpu"."""
        return {
            (device, self._best_dtype(device, node, fact))
            for node in _alive(nodes)
            if (fact := facts.get(node["NodeID"])) is not None and (device := self._device(node, fact)) is not None
        }

    def vram_bytes(self, node: Mapping[str, Any], facts: NodeFacts) -> int | None:
        """Memory of the node's least card, as far as it is known."""
        return self._vram(node, facts) if _gpus(node) else None

    def limit_images_per_s(self, node: Mapping[str, Any], facts: NodeFacts) -> float | None:
        """What one card of the node could do at best with operations fused; None for CPUs and unknown cards."""
        if self._device(node, facts) != "cuda" or (profile := self._profile(node, facts)) is None:
            return None
        dtype = self._best_dtype("cuda", node, facts) if self.mixed_dtype else self.dtype
        return images_per_s_ceiling(profile, self.load, dtype, fused=True)

    def _offers(
        self, nodes: Sequence[Mapping[str, Any]], facts: Mapping[str, NodeFacts]
    ) -> Iterator[tuple[Mapping[str, Any], _Offer]]:
        for node in _alive(nodes):
            if node["NodeID"] in facts:
                yield node, self._offer(node, facts[node["NodeID"]])

    def _offer(self, node: Mapping[str, Any], facts: NodeFacts) -> _Offer:
        if facts.silent is not None or facts.unseen:
            return _Offer(unusable=facts.silent or "; ".join(facts.unseen))
        device = self._device(node, facts)
        if device is None:
            return _Offer()
        dtype = self._best_dtype(device, node, facts) if self.mixed_dtype else self.dtype
        return self._on_cards(node, facts, dtype) if device == "cuda" else self._on_cpus(node, facts, dtype)

    def _device(self, node: Mapping[str, Any], facts: NodeFacts) -> Literal["cuda", "cpu"] | None:
        """What replicas use of the node; one with cards that are of use keeps its CPUs for decoding."""
        hopeless = self.device == "both" and self._hopeless(node, facts) is not None
        if _gpus(node) and self.device != "cpu" and not hopeless:
            return "cuda"
        return "cpu" if self.device != "cuda" else None

    def _best_dtype(self, device: str, node: Mapping[str, Any], facts: NodeFacts) -> str:
        """fp16 on cards, whose error is a tenth of bf16's; on CPUs bf16 for large models where instructions do it."""
        if device == "cpu":
            return "bf16" if facts.cpu_bf16 and self.load.parameters >= LARGE_MODEL else "fp32"
        profile = self._profile(node, facts)
        if profile is not None:
            return "fp16" if profile.fp16 is not None else "fp32"
        return "fp16" if all(gpu.capability >= _FP16_CAPABILITY for gpu in facts.gpus) else "fp32"

    # ---- cards ----

    def _on_cards(self, node: Mapping[str, Any], facts: NodeFacts, dtype: str) -> _Offer:
        vram, problem = self._vram(node, facts), self._hopeless(node, facts)
        if vram is None or problem is not None:
            return _Offer(unusable=problem)
        gpus, processes = _gpus(node), _card_processes(node)
        used = min(gpus, processes)
        if not used:
            return _Offer(unusable=f"its memory holds no process of a replica ({_CUDA_PROCESS_BYTES / GIB:g} GiB)")
        size, measured = self._size(node, facts, vram, dtype, min(MOST_REPLICAS, processes // used))
        if isinstance(size, str):
            return _Offer(unusable=size)
        place = Placement("cuda", 1, 0, size.num_gpus, dtype, size.microbatch, size.memory_share, self.compiled)
        each = None if size.images_per_s is None else size.images_per_s / size.replicas
        left = f"{gpus - used} of {gpus} cards: its memory holds {processes} replica(s)" if used < gpus else None
        return _Offer([place] * (used * size.replicas), each, measured, left)

    def _hopeless(self, node: Mapping[str, Any], facts: NodeFacts) -> str | None:
        """Why the node's cards can be of no use, whatever the model, if so."""
        if self._vram(node, facts) is None:
            return f"its memory cannot be read (no NVIDIA driver answers): give the node a label {VRAM_LABEL}"
        return _too_old(facts)

    def _size(
        self, node: Mapping[str, Any], facts: NodeFacts, vram: int, dtype: str, most_replicas: int
    ) -> tuple[CardSize | str, bool]:
        """How each card of the node is cut up, and whether that was measured."""
        card, profile = card_of(node), self._profile(node, facts)
        replicas = self.replicas_per_gpu.get(card)
        names = {card, *(gpu.name for gpu in facts.gpus), *(profile.names if profile else ())}
        found = None if any(gpu.mig for gpu in facts.gpus) else self._measured(names, dtype, vram)
        if (
            found is not None
            and replicas in (None, found.replicas)
            and self.microbatch in ("auto", found.microbatch)
            and found.replicas <= most_replicas
        ):
            size = measured_card(vram, self.load, dtype, found.replicas, found.microbatch, found.images_per_s)
            return size, True
        return size_card(vram, self.load, dtype, profile, self.microbatch, replicas, most_replicas), False

    def _measured(self, names: set[str], dtype: str, vram: int | None) -> MeasuredProfile | None:
        return self.table.find_measured(names, self.load.bundle_hash, dtype, vram, self.compiled)

    def _profile(self, node: Mapping[str, Any], facts: NodeFacts) -> CardProfile | None:
        """The profile of a node's cards; None for one that is not known and for slices of one.

        Where a node has several kinds of cards, Ray cannot be told which of them to use: the least one counts.
        """
        if any(gpu.mig for gpu in facts.gpus):
            return None
        if not facts.gpus:
            return self.table.find(card_of(node), None, _labelled_vram(node))
        found = [self.table.find(card_of(node), gpu.name, gpu.vram_bytes) for gpu in facts.gpus]
        known = [profile for profile in found if profile is not None]
        return min(known, key=lambda profile: profile.fp32) if len(known) == len(found) else None

    def _vram(self, node: Mapping[str, Any], facts: NodeFacts) -> int | None:
        """Memory of the node's least card: as read, else from its label, else the least that such cards have."""
        if facts.gpus:
            return min(gpu.vram_bytes for gpu in facts.gpus)
        labelled = _labelled_vram(node)
        if labelled is not None:
            return labelled
        profile = self._profile(node, facts)
        return None if profile is None else int(profile.vram_gib * GIB)

    # ---- CPUs ----

    def _on_cpus(self, node: Mapping[str, Any], facts: NodeFacts, dtype: str) -> _Offer:
        """As many replicas as CPUs and memory allow, each with an equal number of threads."""
        cpus = int(node["Resources"].get("CPU", 0))
        free = cpus - max(1, round(cpus * _DECODE_SHARE))
        each = self.load.weight_bytes[dtype] + _PROCESS_BYTES
        memory = node["Resources"].get("memory", 0.0) * _CPU_MEMORY_SHARE
        replicas = min(free, int(memory // each))
        if free < 1:
            return _Offer(unusable=f"{cpus} CPU(s): decoding keeps one, none is left for a replica")
        if replicas < 1:
            why = f"a replica needs {each / GIB:.1f} GiB, and {memory / GIB:.1f} GiB of its memory are for replicas"
            return _Offer(unusable=why)
        threads = free // replicas
        measured = self._measured({facts.cpu}, dtype, None)
        microbatch = self.microbatch
        if microbatch == "auto":
            microbatch = measured.microbatch if measured else _CPU_MICROBATCH
        # By thread: replicas here may have more or fewer of them than those that were measured.
        speed = measured.images_per_s / (measured.replicas * measured.threads) * threads if measured else None
        place = Placement("cpu", threads, threads, 0, dtype, microbatch, compiled=self.compiled)
        return _Offer([place] * replicas, speed, measured is not None)


def replica_device(nodes: Sequence[Mapping[str, Any]], config: Config) -> Device:
    """What replicas run on in this cluster, by `fleet.use_cpu`. Asked once: nodes that join change nothing."""
    gpus = bool(config.fleet.request) or any(_gpus(node) for node in _alive(nodes))
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
    return str(labels.get(GROUP_LABEL) or labels.get(INSTANCE_LABEL) or card_of(node))


def _alive(nodes: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted((node for node in nodes if node["Alive"]), key=lambda node: str(node["NodeID"]))


def _gpus(node: Mapping[str, Any]) -> int:
    return int(node["Resources"].get("GPU", 0))


def _labelled_vram(node: Mapping[str, Any]) -> int | None:
    """VRAM_LABEL in bytes; None where there is none, or one that is no number."""
    try:
        return int(float(node.get("Labels", {})[VRAM_LABEL]) * GIB)
    except (KeyError, ValueError):
        return None


def _too_old(facts: NodeFacts) -> str | None:
    """Why the node's PyTorch has no code for one of its cards, if so."""
    oldest, needed = min((gpu.capability for gpu in facts.gpus), default=None), facts.least_capability
    if oldest is None or needed is None or oldest >= needed:
        return None
    has, wants = (".".join(map(str, capability)) for capability in (oldest, needed))
    return f"compute capability {has}, and its PyTorch needs {wants} or newer"


def _card_processes(node: Mapping[str, Any]) -> int:
    """Replicas on cards whose processes fit into the node's memory."""
    return int(node["Resources"].get("memory", 0.0) * _CARD_MEMORY_SHARE // _CUDA_PROCESS_BYTES)
