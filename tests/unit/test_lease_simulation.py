"""The leasing policy on simulated fleets: how long all takes, and who does how much of it."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated_fleet import SimulatedFleet

MIXED = [1.0, 2.0, 4.0, 9.0, 16.0]
RENTED = [50, 97, 123, 159, 166, 653, 1553, 1595]
"""Images/s of cards that people rent."""


def bound(fleet: SimulatedFleet) -> float:
    """Total work over total speed, and one chunk of the fastest."""
    return fleet.ideal + fleet.chunk_rows / max(fleet.speeds)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_five_speeds_end_together(noise: float) -> None:
    """640 chunks at 1 : 2 : 4 : 9 : 16 take as long as they must, and each has done its share."""
    fleet = SimulatedFleet(MIXED, chunks=640, chunk_rows=16, noise=noise).run()
    assert fleet.makespan <= 1.02 * bound(fleet)
    for index, speed in enumerate(MIXED):
        assert fleet.images[index] / (640 * 16) == pytest.approx(speed / sum(MIXED), rel=0.05)


@pytest.mark.lengthy
def test_five_hundred_cards() -> None:
    """A hundred nodes of eight kinds: near the ideal though it takes but 19 s, and no card far from its share."""
    draw = random.Random(0)
    speeds = [draw.choice(RENTED) for _ in range(500)]
    fleet = SimulatedFleet(speeds, chunks=20_000, chunk_rows=256, microbatch=32, noise=0.1, nodes=100).run()
    assert fleet.makespan <= 1.1 * bound(fleet)
    shares = [fleet.images[i] / (20_000 * 256) / (speed / sum(speeds)) for i, speed in enumerate(speeds)]
    assert min(shares) > 0.8
    assert max(shares) < 1.2


def test_pixels_stay_on_their_node() -> None:
    """Where all nodes are alike, however long everything waits in a backlog."""
    fleet = SimulatedFleet([100.0] * 8, chunks=2000, chunk_rows=256, microbatch=32, noise=0.1, nodes=8).run()
    assert fleet.local_images > 0.95 * sum(fleet.images.values())


def test_a_node_without_replicas_is_served_too() -> None:
    """One of two nodes only decodes: its requests wait a little longer than the other's, not for ever."""
    fleet = SimulatedFleet([100.0], chunks=400, chunk_rows=64, microbatch=32, in_flight=8, nodes=2).run()
    assert fleet.local_images < 0.6 * sum(fleet.images.values())
    assert fleet.makespan <= 1.02 * bound(fleet)


@settings(deadline=None, max_examples=60)
@given(
    speeds=st.lists(st.floats(0.1, 2000), min_size=1, max_size=12),
    chunks=st.integers(1, 60),
    chunk_rows=st.integers(1, 300),
    microbatch=st.integers(1, 64),
    noise=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
)
def test_every_image_is_done_once(**fleet: object) -> None:
    """Whatever the fleet, nothing is left over and nothing is done twice."""
    done = SimulatedFleet(**fleet).run()  # type: ignore[arg-type]
    assert sum(done.images.values()) == done.chunks * done.chunk_rows
