"""The coming and going of nodes in the event log."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from loads import RAM_PLUS, facts_of, gpu, node

from pipeline.cards.profiles import load_profiles
from pipeline.cards.slot_policy import SlotPolicy
from pipeline.costs.price_files import parse_yaml
from pipeline.costs.prices import PriceTable
from pipeline.events.kinds import ALWAYS, EVENTS
from pipeline.events.log import EventLog, read_events
from pipeline.fleet.node_log import NodeLog
from pipeline.stores.local_store import LocalStore

LABELS = {
    "ray.io/accelerator-type": "T4",
    "ray.io/node-group": "spot-t4",
    "ray.io/market-type": "spot",
    "ray.io/availability-zone": "us-east-1a",
    "ray.io/availability-region": "us-east-1",
    "ramfleet/instance-type": "g4dn.xlarge",
}
PRICES = PriceTable((parse_yaml("prices: [{instance_type: g4dn.xlarge, market: spot, per_hour: 0.16}]", "own"),))


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


@pytest.fixture
def begin(store: LocalStore) -> Iterator[Callable[..., NodeLog]]:
    """A process of the Fleet."""
    logs = []

    def begin(seen_at: dict[str, float] | None = None) -> NodeLog:
        logs.append(EventLog(store, "s", "fleet"))
        policy = SlotPolicy("cuda", RAM_PLUS, "fp16", "auto", load_profiles())
        return NodeLog(logs[-1], PRICES, policy, seen_at)

    yield begin
    for log in logs:
        log.close()


def told(store: LocalStore) -> list[dict[str, Any]]:
    return sorted(read_events(store), key=lambda event: float(event["at"]))


def test_a_node_with_all_that_prices_and_the_ledger_need(store: LocalStore, begin: Callable[..., NodeLog]) -> None:
    """Once, with machine, market, place, cards, price and the limit of one card."""
    there = [node("t4", 8, gpus=2, card="T4", labels=LABELS)]
    log, facts = begin({"t4": 1000.5}), facts_of(there, gpus=(gpu("Tesla T4", 15.0, (7, 5)),) * 2)
    for _ in range(2):
        log.look(there, facts, set(), {})
    (event,) = told(store)
    limit = event.pop("limit_images_per_s")
    assert 100 < limit < 140
    wanted = {"node": "t4", "since": 1000.5, "host": "host-t4", "node_type": "spot-t4", "card": "T4", "gpus": 2}
    wanted |= {"card_names": ["Tesla T4"], "vram_gib": 15.0, "instance_type": "g4dn.xlarge", "market": "spot"}
    wanted |= {"zone": "us-east-1a", "region": "us-east-1", "cpus": 8, "object_store_bytes": 0}
    wanted |= {"price": {"per_hour": "0.16", "currency": "USD", "source": "own, line 1"}}
    assert {name: event[name] for name in wanted} == wanted


def test_the_event_has_the_fields_that_the_docs_give_it(store: LocalStore, begin: Callable[..., NodeLog]) -> None:
    """`unpriced` only where there is no price."""
    there = [node("t4", 8, gpus=1, card="T4", labels=LABELS), node("cpus", 8)]
    begin().look(there, facts_of(there), set(), {})
    documented = {*ALWAYS, *EVENTS["node_joined"].fields}
    fields = {event["node"]: event.keys() for event in told(store)}
    assert fields == {"t4": documented - {"unpriced"}, "cpus": documented}


def test_a_node_without_a_price_says_why(store: LocalStore, begin: Callable[..., NodeLog]) -> None:
    """Nothing is guessed."""
    there = [node("cpus", 8)]
    begin().look(there, facts_of(there), set(), {})
    (event,) = told(store)
    assert event["price"] is None
    assert "no price for card cpu" in event["unpriced"]
    assert event["limit_images_per_s"] is None


def test_a_node_that_nobody_has_read_yet_joins_later(store: LocalStore, begin: Callable[..., NodeLog]) -> None:
    """From the moment on that it was first seen."""
    there = [node("t4", 8, gpus=1, card="T4")]
    log = begin()
    log.look(there, {}, set(), {})
    assert told(store) == []
    log.look(there, facts_of(there), set(), {})
    (event,) = told(store)
    assert 0 <= event["at"] - event["since"] < 60


@pytest.mark.parametrize(
    ("draining", "reason", "cause"),
    [(set(), None, "died"), (set(), 2, "died"), ({"n"}, 2, "drained"), (set(), 3, "drained"), (set(), 1, "left")],
)
def test_how_a_node_went(
    store: LocalStore, begin: Callable[..., NodeLog], draining: set[str], reason: int | None, cause: str
) -> None:
    """After a notice, on purpose, or without a word; once, and it may come back."""
    there = [node("n", 8)]
    log, facts = begin(), facts_of(there)
    log.look(there, facts, set(), {})
    log.look(there, facts, draining, {})
    for _ in range(2):
        log.look([], facts, set(), {"n": reason})
    log.look(there, facts, set(), {})
    assert [(event["event"], event.get("cause")) for event in told(store)] == [
        ("node_joined", None),
        ("node_gone", cause),
        ("node_joined", None),
    ]


def test_a_fleet_that_starts_again_goes_on(store: LocalStore, begin: Callable[..., NodeLog]) -> None:
    """What is there is not told twice; what went meanwhile is gone."""
    there = [node("stays", 8), node("went", 8)]
    facts = facts_of(there)
    begin({"stays": 1.0, "went": 1.0}).look(there, facts, set(), {})
    again = begin({"stays": 1.0, "went": 1.0})
    for event in told(store):
        again.recall(event)
    again.look(there[:1], facts, set(), {})
    assert sorted((event["event"], event["node"]) for event in told(store)) == [
        ("node_gone", "went"),
        ("node_joined", "stays"),
        ("node_joined", "went"),
    ]
