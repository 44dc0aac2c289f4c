"""The event log of a run as it grows."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from committed_run import plan_run
from typer.testing import CliRunner

from jobs.main import app
from pipeline.events.follow import EventTail, follow_events
from pipeline.events.log import EventLog
from pipeline.events.presence import AT_WORK_S
from pipeline.stores.local_store import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


@pytest.fixture
def log(store: LocalStore) -> Iterator[Callable[[str], EventLog]]:
    """A writer's log of the session "s"."""
    logs: list[EventLog] = []

    def log(writer: str) -> EventLog:
        logs.append(EventLog(store, "s", writer))
        return logs[-1]

    yield log
    for opened in logs:
        opened.close()


def line(event: str, at: float) -> str:
    return json.dumps({"at": at, "session": "s", "event": event}) + "\n"


def names(events: list[dict[str, object]]) -> list[object]:
    return [event["event"] for event in events]


def test_only_what_is_new_comes_and_in_order_of_time(store: LocalStore) -> None:
    """Of several writers, some of which begin later."""
    first, tail = store.append_log("events/s-fleet-1"), EventTail(store)
    first.write(line("fleet_started", 1.0))
    assert names(tail.new()) == ["fleet_started"]
    second = store.append_log("events/s-driver-1")
    second.write(line("driver_alive", 2.5))
    first.write(line("lease_orphaned", 2.0))
    first.write(line("first_tag", 3.0))
    assert names(tail.new()) == ["lease_orphaned", "driver_alive", "first_tag"]
    assert tail.new() == []
    first.close()
    second.close()


def test_a_line_comes_when_it_is_whole(store: LocalStore) -> None:
    """Half a line waits; what is no event is passed over, and nothing is lost behind it."""
    log, tail = store.append_log("events/s-fleet-1"), EventTail(store)
    whole = line("fleet_started", 1.0)
    log.write("no json\n[1]\n" + whole[:20])
    assert tail.new() == []
    log.write(whole[20:])
    assert names(tail.new()) == ["fleet_started"]
    log.close()


def following(store: LocalStore, now: float, *steps: Callable[[], object]) -> list[object]:
    """Names of what a follower gets; steps: what happens while it waits, one after the other."""
    left = list(steps)

    def pause(_: float) -> None:
        left.pop(0)()

    found = names(list(follow_events(store, pause, lambda: now)))
    assert not left
    return found


def test_a_run_is_followed_until_its_driver_ends(store: LocalStore, log: Callable[[str], EventLog]) -> None:
    """What is written after that, by processes that end later, comes as well."""
    driver, fleet = log("session"), log("fleet")
    started = driver.write("driver_started")
    found = following(
        store,
        started["at"],
        lambda: fleet.write("lease_orphaned"),
        lambda: driver.write("driver_ended"),
        lambda: fleet.write("replica_gone", replica="r"),
        lambda: None,
    )
    assert found == ["driver_started", "lease_orphaned", "driver_ended", "replica_gone"]


def test_a_driver_that_died_is_not_waited_for(store: LocalStore, log: Callable[[str], EventLog]) -> None:
    """It has said nothing for longer than drivers at work do."""
    started = log("session").write("driver_started")
    assert following(store, started["at"] + AT_WORK_S + 1, lambda: None) == ["driver_started"]


@pytest.mark.lengthy
def test_the_command_prints_one_event_a_line(
    store: LocalStore, log: Callable[[str], EventLog], tiny_bundle: Path
) -> None:
    """As they are in the log; a folder without a run is refused by name."""
    refused = CliRunner().invoke(app, ["status", store.root, "--events"])
    assert "holds no run" in str(refused.exception)
    plan_run(store, tiny_bundle, ["a", "b"])
    events = [log("fleet").write("strike", cause="ü"), log("session").write("driver_ended")]
    result = CliRunner().invoke(app, ["status", store.root, "--events", "--follow"], catch_exceptions=False)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert sorted(found, key=str) == sorted(events, key=str)
