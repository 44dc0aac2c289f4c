"""What a finished run says of the speed of its cards: for quotes that rest on more than a model of the card."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.costs.ledger import Ledger
from pipeline.costs.run_costs import ledger_of
from pipeline.errors import InputError
from pipeline.events.log import events_in_order
from pipeline.finished_run import FinishedRun
from pipeline.stores.run_store import RunStore

_FEWEST_PIECES = 20
"""Fewer pieces of work tell nothing of a distribution."""
_MOST_TIMES = 2000
_DONE = frozenset({"committed", "shared"})


@dataclass(frozen=True)
class MeasuredCard:
    """Of one card of a kind: images/s while it was busy; pieces of work by time per image, their mean 1, in order;
    load_s: from the start of a replica to its first answer, the mean, None where no event tells."""

    images_per_s: float
    relative_times: tuple[float, ...] = ()
    load_s: float | None = None


def measured_cards(store: RunStore) -> dict[str, MeasuredCard]:
    """By node type and by card. Raises InputError where the run is not finished, or no model tagged anything."""
    telemetry = FinishedRun(store).telemetry()
    ledger = ledger_of(events_in_order(store), telemetry)
    rows = telemetry.select(["outcome", "node_type", "card", "images", "model_s"]).to_pylist()
    found = cards_of(ledger, rows, events_in_order(store))
    if not found:
        raise InputError(f"measured={store.root}: no card of this run tagged an image: name another run")
    return found


def cards_of(
    ledger: Ledger, telemetry: Iterable[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]
) -> dict[str, MeasuredCard]:
    """The same, of a ledger, rows of its telemetry table and its events."""
    tagged: dict[str, int] = defaultdict(int)
    busy_s: dict[str, Fraction] = defaultdict(Fraction)
    names: dict[str, set[str]] = {}
    for row in ledger.rows_by_type:
        names[row.key] = {row.key, row.card or row.key}
        for name in names[row.key]:
            tagged[name] += row.tagged
            busy_s[name] += row.busy_card_seconds
    times, loads = _times(telemetry, names), _loads(events, names)
    return {
        name: MeasuredCard(float(tagged[name] / busy_s[name]), _relative(times[name]), _mean(loads[name]))
        for name in tagged
        if tagged[name] and busy_s[name]
    }


def _times(telemetry: Iterable[Mapping[str, Any]], names: Mapping[str, set[str]]) -> dict[str, list[float]]:
    """Seconds per image of each piece that counted."""
    times: dict[str, list[float]] = defaultdict(list)
    for row in telemetry:
        if row["outcome"] in _DONE and row["images"] and row["model_s"]:
            for name in names.get(row["node_type"] or row["card"], ()):
                times[name].append(row["model_s"] / row["images"])
    return times


def _loads(events: Iterable[Mapping[str, Any]], names: Mapping[str, set[str]]) -> dict[str, list[float]]:
    """Seconds that replicas took to load."""
    loads: dict[str, list[float]] = defaultdict(list)
    types: dict[str, str] = {}
    for event in events:
        if event["event"] == "node_joined":
            types[event["node"]] = event.get("node_type", "")
        elif event["event"] == "replica_ready" and event.get("load_s") is not None:
            for name in names.get(types.get(event.get("node", ""), ""), ()):
                loads[name].append(event["load_s"])
    return loads


def _relative(times: list[float]) -> tuple[float, ...]:
    if len(times) < _FEWEST_PIECES:
        return ()
    mean = sum(times) / len(times)
    return tuple(sorted(seconds / mean for seconds in times)[:: max(1, len(times) // _MOST_TIMES)])


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
