"""How far a run is, from its folder alone."""

import json
import os
from pathlib import Path

import pytest
from committed_run import commit_all, plan_run, tagged_rows

from pipeline.chunks import chunk_name, commit_chunk
from pipeline.clean import clean
from pipeline.errors import InputError
from pipeline.events.log import EventLog
from pipeline.events.presence import at_work
from pipeline.finalize import finalize
from pipeline.plan import Plan
from pipeline.status import run_status
from pipeline.stores.local_store import LocalStore

IDS = [f"i{number}" for number in range(10)]
NOW = 2_000_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


@pytest.fixture
def plan(store: LocalStore, tiny_bundle: Path) -> Plan:
    return plan_run(store, tiny_bundle, [*IDS, "i3"])


def commit(store: LocalStore, plan: Plan, chunk: int, at: float, rejects: dict[str, str] | None = None) -> None:
    commit_chunk(store, chunk, tagged_rows(plan, plan.read_chunk(store, chunk), rejects or {}))
    os.utime(store.path(chunk_name(chunk)), (at, at))


def test_a_planned_run(store: LocalStore, plan: Plan) -> None:
    """Nothing is done, and there is no rate yet."""
    found = run_status(store, NOW)
    assert (found.state, found.images, found.images_done, found.duplicates) == ("planned", 10, 0, 1)
    assert (found.rate, found.left_s, found.workers) == (None, None, [])


def test_rates_come_from_the_times_of_commits(store: LocalStore, plan: Plan) -> None:
    """Over all commits, and over those of the last ten minutes of work; the first chunk's own work is not counted."""
    commit(store, plan, 0, NOW - 10_000)
    commit(store, plan, 1, NOW - 104)
    commit(store, plan, 2, NOW - 100, {"i8": "empty", "i9": "empty"})
    found = run_status(store, NOW)
    assert found.rate == pytest.approx(6 / 9_900)
    assert found.recent_rate == pytest.approx(2 / 4)
    assert found.rejects == {"empty": 2}
    assert found.state == "tagged"


def test_who_is_at_work(store: LocalStore, plan: Plan) -> None:
    """A driver that says so, its commits and replicas; one that ended; one that was killed and is silent."""
    commit(store, plan, 0, NOW)
    with at_work(store, "20330518T033300-aaaaaa", "tag", "/bundle"):
        log = EventLog(store, "20330518T033300-aaaaaa", "fleet")
        log.write("replica_ready", replica="r1")
        log.write("commit", chunk=0, first=True, commit_s=0.1, rejects={"empty": 1})
        log.close()
        found = run_status(store)
        assert found.state == "tagging"
        worker = found.workers[0]
        assert (worker.command, worker.pid, worker.at_work, worker.committed) == ("tag", os.getpid(), True, 1)
        assert worker.replicas == {"r1"}
    assert run_status(store).state == "stopped"
    assert run_status(store).workers[0].ended
    line = {"at": NOW - 1000, "session": "s", "event": "driver_started", "command": "tag", "host": "h", "pid": 1}
    store.create("events/s-session-1.jsonl", (json.dumps(line) + "\n").encode())
    silent = next(worker for worker in run_status(store, NOW).workers if worker.session == "s")
    assert (silent.ended, silent.at_work) == (False, False)


def test_rejects_are_counted_without_the_log_too(store: LocalStore, plan: Plan) -> None:
    """What a killed writer's log lacks is read from the chunk."""
    commit(store, plan, 0, NOW, {"i0": "empty"})
    commit(store, plan, 1, NOW, {"i4": "empty", "i5": "truncated"})
    log = EventLog(store, "s", "driver")
    log.write("commit", chunk=0, generation=0, first=True, commit_s=0.1, rejects={"empty": 1})
    log.close()
    assert run_status(store).rejects == {"empty": 2, "truncated": 1}


def test_complete_and_cleaned(store: LocalStore, plan: Plan) -> None:
    """The tables are published; then the chunks are gone, and the counts stay."""
    commit_all(store, plan, {"i0": "empty"})
    assert run_status(store).state == "tagged"
    finalize(store)
    assert run_status(store).state == "complete"
    clean(store)
    found = run_status(store)
    assert (found.state, found.images_done, found.chunks_done, found.rejects) == ("read-only", 10, 3, {"empty": 1})


def test_as_json(store: LocalStore, plan: Plan) -> None:
    """Programs get plain numbers."""
    commit_all(store, plan)
    assert json.loads(json.dumps(run_status(store).as_dict()))["images_done"] == 10


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    """What is missing is named."""
    with pytest.raises(InputError, match=r"plan/plan\.json"):
        run_status(LocalStore(tmp_path))


def test_a_damaged_run_json_is_said(store: LocalStore, plan: Plan) -> None:
    """With what writes it again; nothing is guessed of what was published."""
    store.replace("run.json", b"[]")
    with pytest.raises(InputError, match=r"run\.json is damaged; `ramfleet finalize"):
        run_status(store)
