"""How many replicas a node takes."""

from typing import Any

import pytest

from pipeline.cards import Device, Slot, SlotPolicy, card_of, decode_cpus, replica_device
from pipeline.config import load_config

GIB = 2**30


def plan_slots(nodes: list[dict[str, Any]], device: Device, weight_bytes: int) -> list[Slot]:
    return SlotPolicy(device, weight_bytes, "fp32", "auto").slots(nodes)


def node(
    name: str, cpus: float, gpus: float = 0, memory_gib: float = 16, alive: bool = True, card: str = ""
) -> dict[str, Any]:
    resources = {"CPU": cpus, "memory": memory_gib * GIB}
    if gpus:
        resources |= {"GPU": gpus, f"accelerator_type:{card}": 1.0}
    return {"NodeID": name, "Alive": alive, "Resources": resources, "Labels": {}}


@pytest.mark.parametrize(("cpus", "replicas", "left"), [(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 3, 1), (16, 12, 4)])
def test_decoding_keeps_its_share_of_cpus(cpus: int, replicas: int, left: int) -> None:
    """CPU replicas take three quarters of a node's CPUs, and always leave one."""
    nodes = [node("a", cpus, memory_gib=64)]
    slots = plan_slots(nodes, "cpu", GIB // 4)
    assert len(slots) == replicas
    assert decode_cpus(nodes, slots) == left


def test_memory_bounds_replicas_and_threads_make_up_for_it() -> None:
    """Of 15 free CPUs two replicas of 3 GiB fit, with seven threads each."""
    slots = plan_slots([node("a", 20, memory_gib=16)], "cpu", 3 * GIB)
    assert [slot.placement.threads for slot in slots] == [7, 7]


def test_cards_are_used_and_cpus_are_not_where_there_are_both() -> None:
    """With a GPU in the cluster, replicas run on GPUs only, unless fleet.use_cpu says otherwise."""
    nodes = [node("a", 8), node("b", 8, gpus=2, card="T4")]
    slots = plan_slots(nodes, replica_device(nodes, load_config()), GIB)
    assert [(slot.node_id, slot.card, slot.placement.num_gpus) for slot in slots] == [("b", "T4", 1.0)] * 2
    both = plan_slots(nodes, replica_device(nodes, load_config(None, ["fleet.use_cpu=true"])), GIB)
    assert {slot.node_id for slot in both} == {"a", "b"}


def test_cpu_replicas_can_be_forbidden() -> None:
    """fleet.use_cpu=false on a cluster without GPUs leaves no room."""
    nodes = [node("a", 8)]
    assert plan_slots(nodes, replica_device(nodes, load_config(None, ["fleet.use_cpu=false"])), GIB) == []


def test_dead_nodes_offer_nothing() -> None:
    """A node that Ray lists as dead has no slots and no CPUs."""
    nodes = [node("a", 4, alive=False), node("b", 2)]
    slots = plan_slots(nodes, "cpu", GIB)
    assert {slot.node_id for slot in slots} == {"b"}
    assert decode_cpus(nodes, slots) == 1


def test_slot_names_do_not_depend_on_the_order_of_nodes() -> None:
    """A node keeps its slots when Ray lists the nodes in another order."""
    nodes = [node("b", 4), node("a", 4)]
    assert plan_slots(nodes, "cpu", GIB) == plan_slots(nodes[::-1], "cpu", GIB)


def test_the_label_names_the_card_before_the_resource_does() -> None:
    """Ray's accelerator label wins; a node with neither is a cpu."""
    labelled = node("a", 1, gpus=1, card="T4") | {"Labels": {"ray.io/accelerator-type": "A10G"}}
    assert (card_of(labelled), card_of(node("b", 1, gpus=1, card="T4")), card_of(node("c", 1))) == ("A10G", "T4", "cpu")
