"""The telemetry of a run: a row for each attempt at a chunk, also of such as came to nothing."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from committed_run import ATTEMPT, plan_run, tagged_rows

from pipeline.events import EventLog
from pipeline.local_store import LocalStore
from pipeline.tables import with_attempt
from pipeline.telemetry import Telemetry


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


def piece(replica: str, images: int, ended_at: float) -> dict[str, Any]:
    how = {"card": "T4", "dtype": "fp32", "microbatch": 4, "wait_s": 0.25, "transfer_s": 0.5, "model_s": 1.0}
    return {"replica": replica, "images": images, **how, "started_at": ended_at - 2, "ended_at": ended_at}


def rows_of(store: LocalStore, bundle: Path, *pieces: dict[str, Any]) -> list[dict[str, Any]]:
    """Telemetry of one committed chunk of four images, the last of which is a reject."""
    plan = plan_run(store, bundle, ["a", "b", "c", "d"])
    rows = tagged_rows(plan, plan.read_chunk(store, 0), {"d": "truncated"})
    telemetry = Telemetry(store)
    telemetry.add(0, 0, with_attempt(rows, {**ATTEMPT, "plan_hash": plan.hash, "pieces": list(pieces)}))
    table: pa.Table = telemetry.table()
    return table.to_pylist()


def test_replicas_that_share_a_chunk(store: LocalStore, tiny_bundle: Path) -> None:
    """Pieces of one replica are one row; every image counts once, and the rejects with the first."""
    first, other = rows_of(store, tiny_bundle, piece("r1", 1, 10), piece("r2", 1, 12), piece("r1", 1, 20))
    assert (first["outcome"], first["replica"], first["images"], first["rejects"]) == ("committed", "r1", 3, 1)
    assert (first["bytes"], first["fetch_s"], first["model_s"], first["wait_s"]) == (400, 0.5, 2.0, 0.5)
    assert (first["started_at"].timestamp(), first["ended_at"].timestamp()) == (8, 20)
    assert (other["outcome"], other["replica"], other["images"], other["model_s"]) == ("shared", "r2", 1, 1.0)
    assert (other["bytes"], other["fetch_s"], other["rejects"]) == (None, None, None)


def test_a_chunk_without_an_image_for_a_model(store: LocalStore, tiny_bundle: Path) -> None:
    """All of it is with the one row, whose times are those of fetching and decoding."""
    (row,) = rows_of(store, tiny_bundle)
    assert (row["outcome"], row["images"], row["replica"]) == ("committed", 4, None)
    assert (row["started_at"].timestamp(), row["ended_at"].timestamp()) == (10, 12)


def test_attempts_that_came_to_nothing(store: LocalStore, tiny_bundle: Path) -> None:
    """A lost lease that had begun, on its card; a commit that was second; how long the first one's took."""
    log = EventLog(store, "s", "fleet")
    log.write("replica_ready", replica="r", node="n", node_type="t4", card="T4")
    log.write("lease_lost", replica="r", work=[0, 1, 4, False, False], granted_s=2.5, begun=True)
    log.write("lease_lost", replica="r", work=[0, 0, 1, False, False], granted_s=2.5, begun=False)
    log.write("commit", chunk=0, generation=0, first=True, commit_s=0.125)
    log.write("commit", chunk=0, generation=0, first=False, commit_s=0.5)
    log.close()
    rows = {row["outcome"]: row for row in rows_of(store, tiny_bundle, piece("r", 3, 12))}
    assert rows.keys() == {"committed", "died", "beaten"}
    died = rows["died"]
    assert (died["replica"], died["card"], died["node_type"], died["images"]) == ("r", "T4", "t4", 3)
    assert (died["ended_at"] - died["started_at"]).total_seconds() == 2.5
    assert rows["committed"]["commit_s"] == 0.125
