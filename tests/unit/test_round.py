"""A round of the driver, when processes die: every chunk has one outcome, wherever that comes from."""

import io
import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pipeline import driver
from pipeline.config import Config
from pipeline.errors import RunError
from pipeline.fleet.messages import FleetStatus
from pipeline.metrics.meter import Meter

METER = Meter("/run", Config(), Console(file=io.StringIO()))


class Progress:
    total = left = 0

    def say(self, text: str) -> None:
        raise AssertionError(f"nothing is to be said: {text}")

    def show(self, under_way: int, note: str) -> None: ...


class Flow:
    """Ray Data, which tells of some chunks and then waits for others until it is given up."""

    def __init__(self, *told: int) -> None:
        self.told = told
        self.is_given_up = threading.Event()

    def outcomes(self) -> Iterator[dict[str, Any]]:
        yield from map(outcome, self.told)
        self.is_given_up.wait(30)

    def give_up(self) -> None:
        self.is_given_up.set()


def outcome(chunk: int, of: str = "Ray Data") -> dict[str, Any]:
    return {"chunk": chunk, "of": of}


@pytest.fixture
def spares(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """The workers that the driver has started, with whether they were ended."""
    started: list[SimpleNamespace] = []

    def start(job: object, fleet: object, in_flight: int, spare: bool) -> SimpleNamespace:
        assert spare
        worker = SimpleNamespace(is_closed=False)
        worker.close = lambda: setattr(worker, "is_closed", True)
        started.append(worker)
        return worker

    monkeypatch.setattr(driver, "ChunkWorker", start)
    monkeypatch.setattr(driver, "_POLL_S", 0.01)
    monkeypatch.setattr(driver, "_ENDING_S", 0.01)
    return started


def round_of(
    monkeypatch: pytest.MonkeyPatch, flow: Flow, chunks: set[int], *told: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[frozenset[int]]]:
    """All outcomes of a round, and the chunks that the Fleet was told to give out again. told: its answers, in turn."""
    answers, stranded = list(told), list[frozenset[int]]()

    def ask(fleet: object, method: str, argument: Any) -> FleetStatus | None:
        if method == "strand":
            stranded.append(argument)
            return None
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return FleetStatus(1, 0, 0, 0, None, None, **answer)

    monkeypatch.setattr(driver, "ask", ask)
    found = driver.Round(None, None, Progress(), METER, chunks).outcomes(flow)  # type: ignore[arg-type]
    return list(found), stranded


@pytest.mark.usefixtures("spares")
def test_a_chunk_that_was_taken_over_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second outcome, from Ray Data or from the Fleet, is passed over; the round ends without Ray Data."""
    flow = Flow(0, 1)
    of_fleet = (outcome(1, "Fleet"), outcome(2, "Fleet"), outcome(2, "Fleet"))
    found, _ = round_of(monkeypatch, flow, {0, 1, 2}, {"outcomes": of_fleet})
    assert sorted(one["chunk"] for one in found) == [0, 1, 2]
    assert flow.is_given_up.is_set()


@pytest.mark.usefixtures("spares")
def test_every_commit_is_counted_whoever_tells_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two outcomes of a chunk the second may be the one that committed; the Fleet's values are told as well."""
    taken: list[dict[str, Any]] = []
    monkeypatch.setattr(METER, "take", taken.append)
    updates: list[tuple[Any, ...]] = []
    monkeypatch.setattr(METER, "update", lambda *values: updates.append(values))

    def committing(chunk: int, first: bool) -> dict[str, Any]:
        return outcome(chunk) | {"commit": json.dumps({"event": "commit", "first": first})}

    counted = {"ramfleet_strikes_total": {("T4", "t4"): 1.0}}
    of_fleet = (committing(0, False), committing(0, True), outcome(1) | {"commit": None})
    round_of(monkeypatch, Flow(), {0, 1}, {"outcomes": of_fleet, "metrics": counted})
    assert [event["first"] for event in taken] == [False, True]
    assert updates == [(counted, 0, 0, 2)]


def test_the_driver_steps_in_once_after_a_death(monkeypatch: pytest.MonkeyPatch, spares: list[SimpleNamespace]) -> None:
    """One worker of its own, however often the Fleet tells of the dead, until the round is over."""
    dead = {"dead_holders": 2}
    round_of(monkeypatch, Flow(), {0}, {}, dead, dead, dead | {"outcomes": (outcome(0),)})
    assert [worker.is_closed for worker in spares] == [True]


def test_nobody_steps_in_while_all_live(monkeypatch: pytest.MonkeyPatch, spares: list[SimpleNamespace]) -> None:
    """Ray Data alone has the round."""
    found, stranded = round_of(monkeypatch, Flow(0, 1), {0, 1}, {})
    assert (len(found), stranded, spares) == (2, [], [])


@pytest.mark.usefixtures("spares")
def test_chunks_that_nobody_has_are_given_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two for each process that waits, the lowest first; not those that are done or in somebody's hands."""
    waits = {"idle_holders": 1, "chunks_in_hand": frozenset({0, 1}), "outcomes": (outcome(2),)}
    rest = {"outcomes": tuple(map(outcome, range(6)))}
    _, stranded = round_of(monkeypatch, Flow(), set(range(6)), waits, rest)
    assert stranded == [{3, 4}]


def test_an_error_ends_the_round_and_the_spare(monkeypatch: pytest.MonkeyPatch, spares: list[SimpleNamespace]) -> None:
    """What broke is named; nothing of the round goes on behind it."""

    class Broken(Flow):
        def outcomes(self) -> Iterator[dict[str, Any]]:
            while not spares:
                time.sleep(0.01)
            raise ValueError("no more")
            yield

    with pytest.raises(RunError, match="the flow of chunks broke: no more"):
        round_of(monkeypatch, Broken(), {0, 1}, {"dead_holders": 1})
    assert [worker.is_closed for worker in spares] == [True]
