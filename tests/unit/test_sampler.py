"""How hard a machine works."""

import time
from queue import SimpleQueue
from typing import Any

from pipeline.events.kinds import EVENTS
from pipeline.fleet.sampler import Sampler, keep_sampling


def test_a_machine_without_a_driver_tells_of_its_cpus_and_network() -> None:
    """A card that no driver knows is left out."""
    sampler = Sampler(["0"], machine=True)
    sampler._cards.clear()  # on a machine that does have a card
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    found = sampler.read()
    assert found.keys() == {"cpu", "received", "sent"}
    assert 0 < found["cpu"] <= 100
    assert min(found["received"], found["sent"]) >= 0


def test_the_event_has_the_fields_that_the_docs_give_it() -> None:
    """Beside the node, which the Fleet adds."""
    sampler = Sampler([], machine=True)
    sampler._cards["0"] = None  # a handle that NVML does not know tells nothing
    assert {"node", *sampler.read()} == EVENTS["sample"].fields.keys()


def test_nothing_to_read_is_nothing() -> None:
    """Only one process of a machine reads what all share."""
    assert Sampler([], machine=False).read() == {}


def test_samples_come_again_and_again() -> None:
    """In a thread of their own."""
    told: SimpleQueue[dict[str, Any]] = SimpleQueue()
    keep_sampling(Sampler([], machine=True), 0.01, told.put)
    assert all("cpu" in told.get(timeout=10) for _ in range(3))
