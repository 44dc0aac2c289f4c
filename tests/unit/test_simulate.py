"""Runs on rented nodes, simulated: images are conserved, chance comes from the seed, things cost what they should."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_fleet import SimulatedFleet

from pipeline.costs.price_files import load_prices
from pipeline.costs.prices import NodePrice
from pipeline.quoting.fleet_file import Assumptions, NodeOffer
from pipeline.quoting.mix import evaluate
from pipeline.quoting.rentals import Rental, Speed, kind_of, plan_of
from pipeline.quoting.simulate import SPLITS, EndlessError, Job, NodeKind, coarse_rows, simulate

CERTAIN = Assumptions(
    load_seconds=0,
    run_seconds=0,
    node_spread=0,
    lease_spread=0,
    startup_spread=0,
    straggler_share=0,
    notice_seconds=0,
)
"""Nothing is left to chance."""
KINDS = st.builds(
    NodeKind,
    name=st.sampled_from("abc"),
    images_per_s=st.floats(1, 500),
    cards=st.integers(1, 3),
    microbatch=st.integers(1, 32),
    startup_s=st.floats(0, 300),
    load_s=st.floats(0, 100),
    startup_is_billed=st.booleans(),
    preemptions_per_hour=st.sampled_from([0.0, 0.5, 20.0]),
    workers=st.integers(1, 8),
    supply_per_s=st.one_of(st.none(), st.floats(20, 500)),
    link_bytes_per_s=st.one_of(st.none(), st.floats(1e6, 1e9)),
    relative_times=st.sampled_from([(), (0.5, 1.0, 1.5)]),
)


@settings(deadline=None, max_examples=30)
@given(
    kinds=st.lists(KINDS, min_size=1, max_size=3),
    counts=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    images=st.integers(1, 20_000),
    seed=st.integers(0, 1000),
)
def test_every_image_is_done_and_every_paid_second_is_somewhere(kinds, counts, images, seed) -> None:
    """Whatever the fleet, images are conserved, and its splits add up to what is paid for, none of them negative."""
    job = Job(images, 64, 1e5, 4e5)
    run = simulate(kinds, counts[: len(kinds)], job, Assumptions(run_seconds=5), seed)
    assert run.images == images == sum(kind.images for kind in run.kinds)
    for kind in run.kinds:
        assert sum(kind.seconds.values()) == pytest.approx(kind.paid_s, abs=1e-3)
        assert all(kind.seconds[split] >= -1e-3 for split in SPLITS)


def test_the_seed_decides_everything() -> None:
    """The same seed, the same run; another seed, another one."""
    kinds = [NodeKind("a", 50, startup_s=60, load_s=10, preemptions_per_hour=2), NodeKind("b", 120, startup_s=90)]
    first, again, other = (simulate(kinds, [5, 3], Job(300_000), Assumptions(), seed) for seed in (1, 1, 2))
    assert first == again
    assert first.seconds != other.seconds


@pytest.mark.parametrize("speeds", [[1.0, 2.0, 4.0, 9.0, 16.0], [50.0, 97.0, 123.0, 159.0, 166.0, 653.0, 1553.0]])
def test_it_agrees_with_the_simulation_of_the_leasing_policy(speeds: list[float]) -> None:
    """Nodes that are all there at once take as long as replicas that are leased by the policy, and share as they do."""
    policy = SimulatedFleet(speeds, chunks=640, chunk_rows=64, nodes=len(speeds)).run()
    kinds = [NodeKind(f"{speed}", speed, microbatch=4) for speed in speeds]
    run = simulate(kinds, [1] * len(kinds), Job(640 * 64, 64), CERTAIN)
    assert run.seconds == pytest.approx(policy.makespan, rel=0.03)
    for index, kind in enumerate(run.kinds):
        assert kind.images == pytest.approx(policy.images[index], rel=0.06, abs=128)


@pytest.mark.lengthy
def test_coarse_chunks_agree_with_real_ones() -> None:
    """A run with a tenth of the chunks ends within two per cent of the same time."""
    kinds = [NodeKind(f"k{i}", 30.0 + 20 * i, microbatch=8, startup_s=120, load_s=20) for i in range(5)]
    counts, job = [4] * 5, Job(2_000_000, 64, 1.5e5, 4.4e5)
    rows = coarse_rows(kinds, counts, job, 3000)
    assert rows > 5 * job.chunk_rows
    fine, coarse = (simulate(kinds, counts, Job(job.images, n, 1.5e5, 4.4e5), Assumptions()) for n in (64, rows))
    assert coarse.leases < fine.leases / 4
    assert coarse.seconds == pytest.approx(fine.seconds, rel=0.02)


def test_what_a_run_takes_is_what_nodes_do() -> None:
    """60 s to start, 40 to load, 1,000 images at 10/s, 30 s behind: 230 s, of which all are paid."""
    assume = CERTAIN.model_copy(update={"run_seconds": 30.0})
    run = simulate([NodeKind("a", 10, startup_s=60, load_s=40)], [1], Job(1000, 100), assume)
    (kind,) = run.kinds
    assert run.seconds == pytest.approx(230)
    assert kind.paid_s == pytest.approx(230)
    assert kind.seconds == pytest.approx({"start": 60, "load": 40, "busy": 100, "preempted": 0, "idle": 30})


def test_minutes_of_starting_may_be_free() -> None:
    """The same, paid from the moment that processes run."""
    run = simulate([NodeKind("a", 10, startup_s=60, load_s=40, startup_is_billed=False)], [1], Job(1000, 100), CERTAIN)
    assert run.kinds[0].paid_s == pytest.approx(140)
    assert run.kinds[0].seconds["start"] == 0


@pytest.mark.lengthy
def test_stragglers_cost_what_they_should() -> None:
    """A tenth of the pieces taking six times as long is half as much again."""
    slow = CERTAIN.model_copy(update={"straggler_share": 0.1, "straggler_factor": 6.0})
    plain, late = (simulate([NodeKind("a", 100)], [4], Job(400_000, 50), a).kinds[0] for a in (CERTAIN, slow))
    assert late.seconds["busy"] / plain.seconds["busy"] == pytest.approx(1.5, rel=0.05)


def test_measured_times_are_drawn_from() -> None:
    """Pieces that take half as long or twice as long make a quarter more on average."""
    kind = NodeKind("a", 100, relative_times=(0.5, 2.0))
    (found,) = simulate([kind], [4], Job(400_000, 50), CERTAIN).kinds
    assert found.seconds["busy"] == pytest.approx(4000 * 1.25, rel=0.05)


def test_decoding_limits() -> None:
    """Cards of 100/s on a node that decodes 20/s tag 20/s."""
    run = simulate([NodeKind("a", 100, supply_per_s=20)], [3], Job(60_000, 64), CERTAIN)
    assert run.seconds == pytest.approx(1000, rel=0.05)


def test_a_node_with_many_cpus_decodes_for_the_others() -> None:
    """One card that decodes nothing worth speaking of, and a slow card beside many CPUs: together as fast as both."""
    kinds = [NodeKind("card", 100, supply_per_s=1), NodeKind("cpus", 1, workers=16, supply_per_s=400)]
    run = simulate(kinds, [1, 1], Job(100_000, 64), CERTAIN)
    assert run.seconds == pytest.approx(1000, rel=0.1)


def test_the_link_limits() -> None:
    """Images of 1 MB over 10 MB/s are ten a second, whatever the card."""
    run = simulate([NodeKind("a", 100, link_bytes_per_s=1e7)], [1], Job(10_000, 50, 1e6, 4e5), CERTAIN)
    assert run.seconds == pytest.approx(1000, rel=0.05)


@pytest.mark.lengthy
def test_preemptions_cost_what_they_should() -> None:
    """As often as they should, and each as much as it takes to start, to load and to do again what was in hand."""
    assume = CERTAIN.model_copy(update={"load_seconds": 30.0})
    kind = NodeKind("a", 50, startup_s=120, load_s=30, preemptions_per_hour=10)
    calm = NodeKind("a", 50, startup_s=120, load_s=30)
    rows, nodes, images = 256, 20, 5_000_000
    hit, free = (simulate([one], [nodes], Job(images, rows), assume, 5) for one in (kind, calm))
    (found,) = hit.kinds
    up_hours = (found.paid_s - found.seconds["start"]) / 3600
    assert found.preemptions / up_hours == pytest.approx(10, rel=0.15)
    in_hand_s = hit.redone / found.images * found.seconds["busy"] + found.seconds["preempted"]
    away = found.preemptions * 150 + in_hand_s
    assert found.paid_s - free.kinds[0].paid_s == pytest.approx(away, rel=0.1)


@pytest.mark.parametrize(
    "limits",
    [
        {},
        {"cpus": 0.2},
        {"link_mbit_s": 300},
        {"preemptions_per_hour": 1.0},
        {"startup_is_billed": False, "startup_minutes": 30},
    ],
)
def test_the_plan_says_what_the_simulation_finds(limits: dict[str, float]) -> None:
    """Time and cost as planned and as simulated, under each limit."""
    offers = [
        NodeOffer(card="GeForce-RTX-3060", vram_gib=12, most_nodes=8, **limits),
        NodeOffer(card="GeForce-RTX-3090", most_nodes=4, **limits),
    ]
    prices = load_prices(None)
    rentals = []
    for offer, speed in zip(offers, (40.0, 90.0), strict=True):
        price = prices.find(offer.card, None, "on_demand", None, 1, offer.vram_gib)
        assert isinstance(price, NodePrice)
        rentals.append(Rental(offer, price, Speed(speed, "given", microbatch=8)))
    job, assume = Job(1_000_000, 256, 150_000, 442_368), Assumptions()
    planned = evaluate([plan_of(rental, job, assume, 12) for rental in rentals], [8, 4], job.images)
    runs = [simulate([kind_of(rental, assume) for rental in rentals], [8, 4], job, assume, seed) for seed in range(2)]
    seconds = sum(run.seconds for run in runs) / 2
    dollars = sum(
        kind.paid_s / 3600 * rental.dollars_per_hour
        for run in runs
        for kind, rental in zip(run.kinds, rentals, strict=True)
    )
    assert seconds == pytest.approx(planned.seconds, rel=0.1)
    assert dollars / 2 == pytest.approx(planned.dollars, rel=0.1)


@pytest.mark.lengthy
def test_nodes_that_die_before_they_are_up_end_in_an_error() -> None:
    """Not in a simulation without end."""
    kind = NodeKind("a", 1, load_s=600, preemptions_per_hour=300)
    with pytest.raises(EndlessError, match="nodes die before"):
        simulate([kind], [1], Job(10, 10), CERTAIN)


@pytest.mark.parametrize(("counts", "images"), [([0], 5), ([1], 0)])
def test_nothing_to_do_or_nobody_to_do_it_is_refused(counts: list[int], images: int) -> None:
    """By name and value."""
    with pytest.raises(ValueError, match="there has to be one of each"):
        simulate([NodeKind("a", 1)], counts, Job(images), CERTAIN)
