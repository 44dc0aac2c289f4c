"""The telemetry of a run: a row for each piece of work, also of such as came to nothing."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from committed_run import ATTEMPT, plan_run, tagged_rows

from pipeline.events.log import EventLog
from pipeline.stores.local_store import LocalStore
from pipeline.tables.schemas import with_attempt
from pipeline.tables.telemetry import Telemetry

PLACE = {"node_id": "n", "node_type": "t4", "card": "T4", "instance_type": "box", "market": "spot", "zone": "z"}


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


def piece(replica: str, images: int, ended_at: float, model_s: float) -> dict[str, Any]:
    how = {"dtype": "fp32", "microbatch": 4, "peak_vram_bytes": None, "wait_s": 0.25, "transfer_s": 0.5}
    times = {"model_s": model_s, "started_at": ended_at - model_s, "ended_at": ended_at}
    return {**PLACE, "replica": replica, "images": images, **how, **times}


def rows_of(store: LocalStore, bundle: Path, *pieces: dict[str, Any]) -> list[dict[str, Any]]:
    """Telemetry of one committed chunk of four images, the last of which is a reject."""
    plan = plan_run(store, bundle, ["a", "b", "c", "d"])
    rows = tagged_rows(plan, plan.read_chunk(store, 0), {"d": "truncated"})
    telemetry = Telemetry(store)
    telemetry.add(0, 0, with_attempt(rows, {**ATTEMPT, "plan_hash": plan.hash, "pieces": list(pieces)}))
    table: pa.Table = telemetry.table()
    return table.to_pylist()


def test_every_piece_has_a_row(store: LocalStore, tiny_bundle: Path) -> None:
    """Two pieces of one replica are two intervals of its model, not one that covers what lay between."""
    rows = rows_of(store, tiny_bundle, piece("r1", 1, 10.0, 1.0), piece("r2", 1, 12.0, 1.5), piece("r1", 1, 20.0, 0.5))
    assert [(r["outcome"], r["replica"], r["images"], r["model_s"], r["ended_at"].timestamp()) for r in rows] == [
        ("committed", "r1", 2, 1.0, 10.0),
        ("shared", "r2", 1, 1.5, 12.0),
        ("shared", "r1", 1, 0.5, 20.0),
    ]
    assert [{name: row[name] for name in PLACE} for row in rows] == [PLACE] * 3


def test_what_is_of_the_whole_chunk_is_in_its_first_row(store: LocalStore, tiny_bundle: Path) -> None:
    """Rejects, bytes, fetching and decoding are not counted again with every further piece."""
    first, other = rows_of(store, tiny_bundle, piece("r1", 1, 10.0, 1.0), piece("r2", 2, 12.0, 1.0))
    assert (first["images"], first["rejects"], first["bytes"], first["fetch_s"]) == (2, 1, 400, 0.5)
    assert (other["images"], other["rejects"], other["bytes"], other["fetch_s"]) == (2, None, None, None)


def test_a_chunk_without_an_image_for_a_model(store: LocalStore, tiny_bundle: Path) -> None:
    """All of it is with the one row, whose times are those of fetching and decoding."""
    (row,) = rows_of(store, tiny_bundle)
    assert (row["outcome"], row["images"], row["replica"]) == ("committed", 4, None)
    assert (row["started_at"].timestamp(), row["ended_at"].timestamp()) == (10, 12)


def test_a_lost_lease_has_the_place_of_its_node(store: LocalStore, tiny_bundle: Path) -> None:
    """From the events; its interval ends with the replica's death, not with the verdict on it."""
    log = EventLog(store, "s", "fleet")
    log.write("node_joined", node="n", **{name: PLACE[name] for name in ("instance_type", "market", "zone")})
    log.write("replica_ready", replica="r", node="n", node_type="t4", card="T4", load_s=1.0)
    log.write("lease_lost", replica="r", work=[7, 0, 3, False, False], begun=True, ran_s=2.5, died_at=100.0)
    log.write("lease_lost", replica="r", work=[8, 0, 3, False, False], begun=False, ran_s=0.0, died_at=100.0)
    log.close()
    (died,) = [row for row in rows_of(store, tiny_bundle) if row["outcome"] == "died"]
    assert {name: died[name] for name in PLACE} == PLACE
    assert (died["chunk"], died["images"], died["model_s"], died["ended_at"].timestamp()) == (7, 3, 2.5, 100.0)
    assert died["started_at"].timestamp() == 97.5


def test_only_the_first_commit_of_a_chunk_counts(store: LocalStore, tiny_bundle: Path) -> None:
    """A second driver's is a row of its own; how long the first one's took is with the chunk."""
    log = EventLog(store, "s", "fleet")
    log.write("commit", chunk=0, generation=0, first=True, commit_s=0.125)
    log.write("commit", chunk=0, generation=0, first=False, commit_s=0.5)
    log.close()
    rows = {row["outcome"]: row for row in rows_of(store, tiny_bundle, piece("r", 3, 12.0, 1.0))}
    assert rows.keys() == {"committed", "beaten"}
    assert rows["committed"]["commit_s"] == 0.125
