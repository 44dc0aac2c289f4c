"""Lines of a log that are not as docs/events.md says: nothing reads them, and no account is wrong for them."""

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import Cards, write_run

from pipeline.costs.run_costs import read_ledger
from pipeline.events.kinds import EVENTS
from pipeline.events.log import events_in_order, parse_event
from pipeline.events.shapes import is_event
from pipeline.stores.local_store import LocalStore

SOUND = {"at": 1_790_000_000.0, "session": "0a", "event": "driver_alive"}


@pytest.mark.parametrize(
    "fields",
    [
        {"at": None},
        {"at": "yesterday"},
        {"at": float("nan")},
        {"at": float("inf")},
        {"at": 1e300},
        {"at": True},
        {"session": None},
        {"session": ["0a"]},
        {"event": {"a": 1}},
        {"event": "node_joined"},
        {"event": "node_joined", "node": "n", "gpus": None},
        {"event": "node_joined", "node": "n", "price": {"per_hour": "NaN", "currency": "USD", "source": "x"}},
        {"event": "node_joined", "node": "n", "price": {"per_hour": "-3", "currency": "USD", "source": "x"}},
        {"event": "node_joined", "node": "n", "price": {"per_hour": "1"}},
        {"event": "node_joined", "node": "n", "limit_images_per_s": float("nan")},
        {"event": "node_gone"},
        {"event": "lease", "replica": "r", "lease": "l"},
        {"event": "lease_done", "replica": "r", "lease": "l"},
        {"event": "lease_done", "replica": "r", "lease": "l", "model_s": -1.0, "ended_at": 1.0},
        {"event": "replica_ready", "replica": "r", "gpus": [0]},
        {"event": "sample", "node": "n", "cards": [1]},
        {"event": "commit", "chunk": 0, "first": True, "rejects": {"truncated": "many"}},
    ],
    ids=lambda fields: json.dumps(fields)[:60],
)
def test_what_is_no_event_is_passed_over(fields: dict[str, Any]) -> None:
    """Wrong values, and values that are missing without which an event says nothing."""
    assert is_event(SOUND)
    assert parse_event(json.dumps({**SOUND, **fields})) is None


@pytest.mark.parametrize("line", ["", "[" * 100_000, '{"at": 17900', "9" * 5000, "\x00", "null", "[1]"])
def test_what_is_no_json_is_passed_over(line: str) -> None:
    """However it is broken."""
    assert parse_event(line) is None


def test_events_and_fields_of_a_newer_version_are_let_through() -> None:
    """Whatever their fields hold."""
    newer = {**SOUND, "event": "quantum_flux", "node": {"x": 1}, "replica": ["a"]}
    assert "quantum_flux" not in EVENTS
    assert parse_event(json.dumps(newer)) == newer


def test_names_that_are_no_text_can_be_written() -> None:
    """A folder whose name is not UTF-8 has halves of characters in JSON; whole ones stay."""
    event = parse_event(json.dumps({**SOUND, "host": "a\udcff 🐕"}))
    assert event is not None
    assert event["host"] == "a? 🐕"


def test_an_account_is_the_same_with_damaged_lines(tmp_path: Path) -> None:
    """They are between its events as a full disk or a bug may leave them."""
    store = LocalStore(tmp_path)
    write_run(store, images=100, attempts=10, fleet=[Cards("t4", "T4", 1, 20.0)])
    expected = read_ledger(store)
    log = next(tmp_path.glob("events/*.jsonl"))
    lines = log.read_text().splitlines()
    unknown = json.dumps({**SOUND, "at": SOUND["at"], "event": "quantum_flux", "replica": ["a"]})
    bad = json.dumps({**SOUND, "event": "lease", "replica": "r-t4-00"})
    log.write_text("\n".join([*lines[:-1], '{"at": null, "session": 3}', bad, unknown, lines[-1], '{"at": 17']) + "\n")
    assert len(list(events_in_order(store))) == len(lines) + 1
    assert read_ledger(store) == expected
