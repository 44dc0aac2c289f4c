"""Loads of models, facts of nodes and slots, as tests of the fleet need them."""

from typing import Any

from pipeline.cards.node_facts import Gpu, NodeFacts
from pipeline.cards.placement import Placement
from pipeline.cards.sizing import ModelLoad, load_of
from pipeline.cards.slot_policy import Slot
from ramcore.config import ram_plus_preset
from ramcore.describe import VALUE_BYTES

GIB = 2**30


RAM_PLUS = load_of(ram_plus_preset(), "hash")
"""The released RAM++."""


def load_with_weights(weights: int) -> ModelLoad:
    """A model of so many bytes of weights, whatever the dtype, and little else."""
    same = dict.fromkeys(VALUE_BYTES, weights)
    small = dict.fromkeys(VALUE_BYTES, 1 << 20)
    return ModelLoad("hash", 48, weights // 4, 10**9, same, small, small, small)


def node(
    name: str,
    cpus: float,
    gpus: float = 0,
    memory_gib: float = 16,
    alive: bool = True,
    card: str = "",
    labels: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A node as `ray.nodes()` lists it."""
    resources = {"CPU": cpus, "memory": memory_gib * GIB}
    if gpus:
        resources |= {"GPU": gpus, f"accelerator_type:{card}": 1.0}
    return {"NodeID": name, "Alive": alive, "Resources": resources, "Labels": labels or {}}


def facts_of(nodes: list[dict[str, Any]], **facts: Any) -> dict[str, NodeFacts]:
    """All nodes were read, and have the same facts."""
    return {node["NodeID"]: NodeFacts(host=f"host-{node['NodeID']}", **facts) for node in nodes}


def gpu(name: str, vram_gib: float, capability: tuple[int, int] = (8, 0), mig: bool = False) -> Gpu:
    return Gpu(name, int(vram_gib * GIB), capability, mig)


def slot(name: str, card: str = "T4") -> Slot:
    """One replica, alone on a card of this name; name: node/number."""
    node = name.partition("/")[0]
    return Slot(name, node, card, card, Placement("cuda", 1, 0, 1.0, "fp16", 32))
