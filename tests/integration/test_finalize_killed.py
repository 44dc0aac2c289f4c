"""Finalize is killed at any of its writes, is run again, is run twice at once: the same parts, and nothing else."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from committed_run import commit_all, plan_run, tagged_rows

from pipeline.chunks import commit_chunk
from pipeline.finalize import finalize
from pipeline.stores.opening import open_store
from pipeline.stores.run_store import RunStore
from pipeline.tables import parts
from pipeline.verify import verify

pytestmark = pytest.mark.integration

IDS = [f"i{number:03d}" for number in range(120)]
REJECTS = dict.fromkeys(IDS[::10], "not_found")
FOLDERS = ("tags/", "rejects/", "duplicates/", "telemetry/")

KILLED = """
import os, signal, sys
from pipeline.tables import parts
from pipeline.stores import bucket_lock
from pipeline.stores import bucket_store
from pipeline.stores import local_store
from pipeline.finalize import finalize
from pipeline.report.document import Options
from pipeline.stores.opening import open_store

bucket_lock.STALE_S = 5
parts._PART_BYTES, parts.GROUP_ROWS = 1, 30  # several parts, also of a small run
left = int(sys.argv[2])

def counted(method):
    def call(self, name, *arguments):
        global left
        if not name.startswith("locks/"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return method(self, name, *arguments)
    return call

for kind in (local_store.LocalStore, bucket_store.BucketStore):
    for name in ("create", "upload", "replace", "delete"):
        setattr(kind, name, counted(getattr(kind, name)))
finalize(open_store(sys.argv[1]), Options(pictures=0))
"""
"""Finalize that is killed before its n-th write to the store, locks not counted."""


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, tiny_bundle: Path) -> RunStore:
    where = tmp_path / "run" if request.param == "local" else request.getfixturevalue("s3_run")
    store = open_store(where)
    plan = plan_run(store, tiny_bundle, [*IDS, "i003"], chunk_rows=10)
    for chunk in range(plan.chunks - 1):
        commit_chunk(store, chunk, tagged_rows(plan, plan.read_chunk(store, chunk), REJECTS))
    finalize(store)  # of an unfinished run: its parts are to be replaced
    last = plan.chunks - 1
    commit_chunk(store, last, tagged_rows(plan, plan.read_chunk(store, last), REJECTS))
    return store


def run(store: RunStore, writes: int) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", KILLED, store.root, str(writes)], stderr=subprocess.PIPE, text=True)


def objects(store: RunStore) -> dict[str, bytes]:
    return {name: store.read(name) for folder in FOLDERS for name in store.list(folder)}


@pytest.fixture
def expected(store: RunStore, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The parts of an undisturbed finalize of an equal run."""
    monkeypatch.setattr(parts, "_PART_BYTES", 1)
    monkeypatch.setattr(parts, "GROUP_ROWS", 30)
    other = open_store(tmp_path / "undisturbed")
    plan = plan_run(other, tiny_bundle, [*IDS, "i003"], chunk_rows=10)
    commit_all(other, plan, REJECTS)
    finalize(other)
    return objects(other)


def test_killed_at_any_point(store: RunStore, expected: dict[str, bytes]) -> None:
    """While parts are written, around the vocabulary, the report and run.json, and while old parts are removed."""
    assert len([name for name in expected if name.startswith("tags/")]) == 3
    writes = len(expected) + 3  # the vocabulary, report.html and run.json
    for point in (1, len(expected) - 1, writes - 3, writes - 2, writes - 1, writes, writes + 1):
        with run(store, point) as process:
            assert process.wait(timeout=90) == -signal.SIGKILL, process.stderr and process.stderr.read()
        document = json.loads(store.read("run.json"))
        listed = {name for names in document["parts"].values() for name in names}
        assert listed <= set(objects(store)), f"killed before write {point}"
        assert document["status"] == ("complete" if point >= writes else "incomplete")
        assert store.exists("report.html") == (point >= writes - 1)
    with run(store, 1000) as process:
        assert process.wait(timeout=90) == 0
    assert objects(store) == expected
    assert verify(store).faults == []


def test_two_at_once(store: RunStore, expected: dict[str, bytes]) -> None:
    """Both succeed, and what they leave is what one would have."""
    with run(store, 1000) as one, run(store, 1000) as two:
        assert [one.wait(timeout=90), two.wait(timeout=90)] == [0, 0]
    assert objects(store) == expected
    assert verify(store).faults == []
