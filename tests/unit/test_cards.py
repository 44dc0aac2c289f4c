"""How many replicas a node takes, and why not more."""

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from loads import GIB, RAM_PLUS, facts_of, gpu, load_with_weights, node

from pipeline.cards.node_facts import NodeFacts
from pipeline.cards.node_place import NodePlace
from pipeline.cards.profiles import CardTable, MeasuredProfile, load_profiles
from pipeline.cards.slot_policy import Device, Slot, SlotPolicy, card_of, decode_cpus, replica_device
from pipeline.config import load_config

POLICY = SlotPolicy("cuda", RAM_PLUS, "fp16", "auto", load_profiles())


def plan_slots(nodes: list[dict[str, Any]], device: Device, weight_bytes: int) -> list[Slot]:
    return SlotPolicy(device, load_with_weights(weight_bytes), "fp32", "auto").slots(nodes, facts_of(nodes))


def whys(policy: SlotPolicy, nodes: list[dict[str, Any]], facts: dict[str, NodeFacts]) -> list[str]:
    return [item.why for item in policy.unusable(nodes, facts)]


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
    nodes = [node("a", 8), node("b", 8, gpus=2, card="T4", labels={"ramfleet/vram-gib": "15"})]
    slots = plan_slots(nodes, replica_device(nodes, load_config()), GIB)
    assert [(slot.node_id, slot.card, slot.placement.num_gpus) for slot in slots] == [("b", "T4", 1.0)] * 2
    both = plan_slots(nodes, replica_device(nodes, load_config(None, ["fleet.use_cpu=true"])), GIB)
    assert {slot.node_id for slot in both} == {"a", "b"}


def test_cpu_replicas_can_be_forbidden() -> None:
    """fleet.use_cpu=false on a cluster without GPUs leaves no room."""
    nodes = [node("a", 8)]
    assert plan_slots(nodes, replica_device(nodes, load_config(None, ["fleet.use_cpu=false"])), GIB) == []


def test_cards_that_were_asked_for_count_as_there() -> None:
    """An autoscaling cluster has none of them yet; its CPUs are not taken in their place."""
    assert replica_device([node("a", 8)], load_config(None, ["fleet.request={T4: 2}"])) == "cuda"


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


def test_a_node_that_was_not_read_offers_nothing_yet() -> None:
    """And it is not called unusable either."""
    nodes = [node("a", 8, gpus=1, card="T4")]
    assert POLICY.slots(nodes, {}) == []
    assert POLICY.unusable(nodes, {}) == []


@pytest.mark.parametrize(
    "fact", [{"silent": "it did not answer within 60 s"}, {"unseen": ("does not see RUN /run: not there",)}]
)
def test_a_node_that_does_not_see_the_run_offers_nothing(fact: dict[str, Any]) -> None:
    """With what it did not see, or that it never answered."""
    nodes = [node("a", 8, gpus=1, card="T4")]
    facts = facts_of(nodes, **fact)
    assert POLICY.slots(nodes, facts) == []
    (item,) = POLICY.unusable(nodes, facts)
    assert (item.node_id, item.host, item.card) == ("a", "host-a", "T4")
    assert item.why in (fact.get("silent"), *fact.get("unseen", ()))


def test_five_kinds_of_cards_are_each_cut_to_fit() -> None:
    """Several replicas on each, all of them together within each GPU, faster cards expected to do more."""
    cards = ["GeForce-RTX-2080", "T4", "A10G", "A100", "H200"]
    nodes = [node(card, 8, gpus=2, card=card, memory_gib=64) for card in cards]
    slots = POLICY.slots(nodes, facts_of(nodes))
    speeds = []
    for card in cards:
        mine = [slot for slot in slots if slot.card == card]
        assert sum(slot.placement.num_gpus for slot in mine) <= 2
        assert all(slot.placement.dtype == "fp16" for slot in mine)
        assert sum(slot.placement.memory_share for slot in mine) < 2
        speeds.append(sum(slot.images_per_s for slot in mine))
    assert speeds == sorted(speeds)
    assert speeds[0] * 10 < speeds[-1]


def test_memory_that_was_read_counts_before_names_and_labels() -> None:
    """An A100 that shows 80 GiB is one of 80 GiB."""
    nodes = [node("a", 8, gpus=1, card="A100", labels={"ramfleet/vram-gib": "8"})]
    read = facts_of(nodes, gpus=(gpu("NVIDIA A100-SXM4-80GB", 79.2),))
    assert POLICY.vram_bytes(nodes[0], read["a"]) == int(79.2 * GIB)
    assert POLICY.vram_bytes(nodes[0], NodeFacts("a")) == 8 * GIB
    assert POLICY.vram_bytes(node("a", 8, gpus=1, card="A100"), NodeFacts("a")) == 40 * GIB


def test_slices_of_a_card_get_one_replica_of_unknown_speed() -> None:
    """Sized by the slice's own memory, whatever the card's name promises."""
    nodes = [node("a", 8, gpus=2, card="A100")]
    slots = POLICY.slots(nodes, facts_of(nodes, gpus=(gpu("NVIDIA A100-SXM4-40GB", 4.75, mig=True),) * 2))
    assert [(slot.placement.num_gpus, slot.images_per_s) for slot in slots] == [(1.0, None)] * 2
    assert slots[0].placement.microbatch <= 16


def test_the_least_card_of_a_node_counts() -> None:
    """Ray cannot be told which of several kinds of cards on one node to use."""
    nodes = [node("a", 8, gpus=2, card="GeForce-RTX-3090")]
    mixed = facts_of(nodes, gpus=(gpu("NVIDIA GeForce RTX 3090", 24), gpu("NVIDIA GeForce RTX 2060", 6, (7, 5))))
    alike = facts_of(nodes, gpus=(gpu("NVIDIA GeForce RTX 2060", 6, (7, 5)),) * 2)
    assert [slot.placement for slot in POLICY.slots(nodes, mixed)] == [s.placement for s in POLICY.slots(nodes, alike)]


def test_cards_too_old_for_pytorch_are_not_used() -> None:
    """A replica would fail at its first kernel; both capabilities are named."""
    nodes = [node("a", 8, gpus=1, card="V100")]
    facts = facts_of(nodes, gpus=(gpu("Tesla V100-SXM2-16GB", 16, (7, 0)),), least_capability=(7, 5))
    assert POLICY.slots(nodes, facts) == []
    assert whys(POLICY, nodes, facts) == ["compute capability 7.0, and its PyTorch needs 7.5 or newer"]


def test_cpus_stand_in_for_cards_of_no_use() -> None:
    """With fleet.use_cpu=true a node whose card is too old works as one without."""
    nodes = [node("a", 8, gpus=1, card="V100")]
    facts = facts_of(nodes, gpus=(gpu("Tesla V100-SXM2-16GB", 16, (7, 0)),), least_capability=(7, 5))
    policy = replace(POLICY, device="both", dtype="fp32")
    assert {slot.placement.device for slot in policy.slots(nodes, facts)} == {"cpu"}
    assert policy.preferred(nodes, facts) == {("cpu", "fp32")}


def test_what_is_too_small_or_unknown_is_named_with_a_remedy() -> None:
    """A card of 1 GiB, one of which nothing is known, a node without memory for a process."""
    nodes = [
        node("a", 8, gpus=1, card="T4", labels={"ramfleet/vram-gib": "1"}),
        node("b", 8, gpus=1, card="X9"),
        node("c", 8, gpus=1, card="T4", memory_gib=2),
        node("d", 8, gpus=4, card="T4", memory_gib=5),
    ]
    small, unknown, no_memory, some = whys(POLICY, nodes, facts_of(nodes))
    assert "the card has 0.8 of 1.0 GiB to give" in small
    assert "give the node a label ramfleet/vram-gib" in unknown
    assert "its memory holds no process of a replica" in no_memory
    assert some == "2 of 4 cards: its memory holds 2 replica(s)"


def test_cpus_too_few_for_a_replica_are_named() -> None:
    """One CPU is for decoding; a model too large for the node's memory."""
    nodes = [node("a", 1), node("b", 8, memory_gib=1)]
    few, memory = whys(replace(POLICY, device="cpu"), nodes, facts_of(nodes))
    assert few == "1 CPU(s): decoding keeps one, none is left for a replica"
    assert memory.startswith("a replica needs ")


def test_overrides_are_honoured() -> None:
    """fleet.replicas_per_gpu by card, model.microbatch everywhere."""
    nodes = [node("a", 8, gpus=1, card="A100", memory_gib=64), node("b", 8, gpus=1, card="L4", memory_gib=64)]
    policy = replace(POLICY, replicas_per_gpu={"A100": 3}, microbatch=5)
    slots = policy.slots(nodes, facts_of(nodes))
    assert [slot.placement.num_gpus for slot in slots if slot.card == "A100"] == [0.3333] * 3
    assert {slot.placement.microbatch for slot in slots} == {5}


def measured(**fields: Any) -> MeasuredProfile:
    base = {"torch": "2", "model": "hash", "tags": 48, "dtype": "fp16", "date": date(2026, 1, 1)}
    figures = {"microbatch": 24, "replicas": 3, "images_per_s": 300.0, "peak_bytes": GIB}
    return MeasuredProfile.model_validate({**base, **figures, **fields})


def test_what_was_measured_wins_over_the_model_of_a_card() -> None:
    """Where name, memory, model and dtype are those of the measurement."""
    nodes = [node("a", 8, gpus=1, card="T4", memory_gib=64)]
    facts = facts_of(nodes, gpus=(gpu("Tesla T4", 14.6, (7, 5)),))
    table = CardTable(POLICY.table.cards, (measured(name="Tesla T4", vram_gib=14.6),))
    slots = replace(POLICY, table=table).slots(nodes, facts)
    assert [(slot.images_per_s, slot.measured, slot.placement.microbatch) for slot in slots] == [(100.0, True, 24)] * 3
    for other in ({"vram_gib": 30.0}, {"model": "other"}, {"dtype": "bf16"}, {"compiled": True}):
        table = CardTable(POLICY.table.cards, (measured(**{"name": "Tesla T4", "vram_gib": 14.6, **other}),))
        assert not replace(POLICY, table=table).slots(nodes, facts)[0].measured


def test_cpus_are_expected_to_do_what_was_measured_by_thread() -> None:
    """Two replicas of two threads did 40 images/s: one of three threads is expected to do 30."""
    nodes = [node("a", 4, memory_gib=8)]
    table = CardTable(
        (), (measured(name="EPYC", dtype="fp32", replicas=2, threads=2, images_per_s=40.0, microbatch=2),)
    )
    policy = SlotPolicy("cpu", load_with_weights(2 * GIB), "fp32", "auto", table)
    (slot,) = policy.slots(nodes, facts_of(nodes, cpu="EPYC"))
    assert (slot.placement.threads, slot.images_per_s, slot.placement.microbatch) == (3, 30.0, 2)
    (other,) = policy.slots(nodes, facts_of(nodes, cpu="Xeon"))
    assert other.images_per_s is None


def test_number_types_that_suit_each_place() -> None:
    """fp16 on cards, bf16 on CPUs that have instructions for it if the model is large, fp32 elsewhere."""
    cards = [node("a", 8, gpus=1, card="T4"), node("b", 8, gpus=1, card="X9")]
    facts = facts_of(cards[:1]) | facts_of(cards[1:], gpus=(gpu("X9", 8, (6, 1)),))
    assert POLICY.preferred(cards, facts) == {("cuda", "fp16"), ("cuda", "fp32")}
    cpus = [node("c", 8)]
    on_cpu = replace(POLICY, device="cpu")
    assert on_cpu.preferred(cpus, facts_of(cpus, cpu_bf16=True)) == {("cpu", "bf16")}
    assert on_cpu.preferred(cpus, facts_of(cpus)) == {("cpu", "fp32")}
    small = replace(on_cpu, load=load_with_weights(GIB // 100))
    assert small.preferred(cpus, facts_of(cpus, cpu_bf16=True)) == {("cpu", "fp32")}


def test_mixed_runs_take_what_suits_each_place() -> None:
    """Cards fp16, CPUs beside them bf16; without fleet.mixed_dtype all take the run's."""
    nodes = [node("a", 8, memory_gib=64), node("b", 8, gpus=1, card="T4", memory_gib=64)]
    facts = facts_of(nodes, cpu_bf16=True)
    policy = replace(POLICY, device="both", dtype="fp32")
    assert {slot.placement.dtype for slot in policy.slots(nodes, facts)} == {"fp32"}
    mixed = replace(policy, mixed_dtype=True).slots(nodes, facts)
    assert {(slot.node_id, slot.placement.dtype) for slot in mixed} == {("a", "bf16"), ("b", "fp16")}


@pytest.mark.parametrize("replicas", [1, 2, 3, 4])
def test_slots_know_their_card_and_their_place(replicas: int) -> None:
    """So many on each card, one card after the other; only the first speaks for its node; labels say where it is."""
    labels = {"ramfleet/vram-gib": "80", "ray.io/market-type": "spot", "node.kubernetes.io/instance-type": "box"}
    nodes = [node("a", 8, gpus=8, card="A100", memory_gib=512, labels=labels)]
    slots = replace(POLICY, replicas_per_gpu={"A100": replicas}).slots(nodes, facts_of(nodes))
    assert [slot.lane for slot in slots] == [card for card in range(8) for _ in range(replicas)]
    assert [slot.is_first for slot in slots] == [True] + [False] * (8 * replicas - 1)
    assert {slot.place for slot in slots} == {NodePlace(instance_type="box", market="spot")}


def test_the_limit_of_a_card() -> None:
    """The roofline with operations fused, of a card by itself; none for CPUs and for cards that nobody knows."""
    nodes = [node("a", 8, gpus=4, card="T4"), node("b", 8, gpus=1, card="Abacus"), node("c", 8)]
    facts = facts_of(nodes)
    limits = [POLICY.limit_images_per_s(each, facts[each["NodeID"]]) for each in nodes]
    assert limits == [pytest.approx(123, rel=0.01), None, None]


def test_a_compiled_model_is_asked_of_every_replica() -> None:
    """On cards and on CPUs."""
    nodes = [node("a", 8), node("b", 8, gpus=2, card="T4", labels={"ramfleet/vram-gib": "15"})]
    policy = replace(POLICY, device="both", dtype="fp32", load=load_with_weights(GIB), compiled=True)
    slots = policy.slots(nodes, facts_of(nodes))
    assert {slot.placement.device for slot in slots} == {"cpu", "cuda"}
    assert {slot.placement.compiled for slot in slots} == {True}
