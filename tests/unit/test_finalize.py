"""From committed chunks to the published tables, without Ray."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.chunks import chunk_name, commit_chunk, pending_chunks
from pipeline.errors import IncompleteError, InputError, PlanError
from pipeline.finalize import finalize
from pipeline.model_record import record_model
from pipeline.plan import Plan, make_plan
from pipeline.stores.local_store import LocalStore
from pipeline.tables.schemas import IMAGE_FIELDS, to_parquet, with_attempt
from pipeline.tables.selection import floors, select
from pipeline.tagging import tag_table, tagged_part
from ramcore.vocabulary import Vocabulary

ROWS = 50
CHUNK_ROWS = 16
HASH = "0123456789abcdef" * 4
ATTEMPT = {"fetch_s": 0.5, "decode_s": 0.5, "started_at": 10.0, "ended_at": 12.0, "pieces": []}
VOCABULARY = Vocabulary(("dog", "cat"), ("狗", "猫"), np.array([0.5, 0.5], np.float32))


@pytest.fixture
def store(tmp_path: Path, tiny_bundle: Path) -> LocalStore:
    store = LocalStore(tmp_path / "run")
    record_model(store, tiny_bundle, HASH)
    return store


@pytest.fixture
def plan(store: LocalStore) -> Plan:
    ids = [f"i{number}" for number in range(ROWS)]
    rows = pa.RecordBatch.from_pydict({"image_id": [*ids, "i3"], "uri": [*ids, "i3"]})
    return make_plan(iter([rows]), store, CHUNK_ROWS, None, {"bundle": HASH})


@pytest.fixture
def commit(store: LocalStore, plan: Plan) -> Callable[..., None]:
    def commit(chunk: int, rejects: tuple[int, ...] = (), generation: int = 0) -> None:
        assert commit_chunk(store, chunk, chunk_table(plan, store, chunk, rejects), generation)

    return commit


def chunk_table(plan: Plan, store: LocalStore, chunk: int, rejects: tuple[int, ...]) -> pa.Table:
    rows = plan.read_chunk(store, chunk).drop_columns(["planned_error"])
    kinds = ["truncated" if row in rejects else None for row in range(len(rows))]
    for field in IMAGE_FIELDS:
        values = kinds if field.name == "error_kind" else [1] * len(rows) if field.name == "attempts" else None
        rows = rows.append_column(field, pa.array(values or [None] * len(rows), field.type))
    tagged = kinds.count(None)
    scores = np.tile(np.array([0.9, 0.1], np.float32), (tagged, 1))
    part = tagged_part(select(scores, VOCABULARY.thresholds, floors(VOCABULARY.thresholds, "auto"), 0))
    return with_attempt(tag_table(rows, [part], VOCABULARY), {**ATTEMPT, "plan_hash": plan.hash})


def commit_all(plan: Plan, commit: Callable[..., None]) -> None:
    for chunk in range(plan.chunks):
        commit(chunk, rejects=(1,))


def test_tables_hold_every_row_once(store: LocalStore, plan: Plan, commit: Callable[..., None]) -> None:
    """Tagged and rejected rows are parted, duplicates are listed, and the counts add up."""
    commit_all(plan, commit)
    counts = finalize(store).counts
    assert counts.as_dict() == {"input": 51, "tagged": 46, "rejected": 4, "duplicates": 1, "carried": 0, "missing": 0}
    tags, rejects = (pd.read_parquet(store.path(name)) for name in ("tags", "rejects"))
    assert sorted([*tags["image_id"], *rejects["image_id"]]) == sorted(f"i{number}" for number in range(ROWS))
    assert pd.read_parquet(store.path("duplicates"))["image_id"].tolist() == ["i3"]
    assert tags["tags"].str[0].eq("dog").all()


def test_finalize_twice_gives_the_same_parts(store: LocalStore, plan: Plan, commit: Callable[..., None]) -> None:
    """Parts are named by their content, which depends on the chunks alone."""
    commit_all(plan, commit)
    assert finalize(store).parts == finalize(store).parts
    assert len(list(store.list("tags/"))) == 1


def test_an_unfinished_run_says_so(store: LocalStore, plan: Plan, commit: Callable[..., None]) -> None:
    """Missing rows are counted, and run.json has the status incomplete; later parts replace the earlier."""
    commit(0)
    assert finalize(store).counts.missing == ROWS - CHUNK_ROWS
    assert json.loads(store.read("run.json"))["status"] == "incomplete"
    assert pending_chunks(store, plan) == [1, 2, 3]
    for chunk in (1, 2, 3):
        commit(chunk)
    assert finalize(store).counts.missing == 0
    assert json.loads(store.read("run.json"))["status"] == "complete"
    assert len(pd.read_parquet(store.path("tags"))) == ROWS


def test_the_highest_generation_wins(store: LocalStore, plan: Plan, commit: Callable[..., None]) -> None:
    """A chunk that was done again replaces the older one without overwriting it."""
    commit_all(plan, commit)
    commit(0, rejects=(), generation=1)
    assert finalize(store).counts.rejected == 3
    assert store.exists(chunk_name(0, 0))


def test_a_chunk_with_other_rows_than_planned_is_an_error(
    store: LocalStore, plan: Plan, commit: Callable[..., None]
) -> None:
    """Invented or lost rows end the finalize with the chunk's name, and nothing is published."""
    for chunk in (1, 2, 3):
        commit(chunk)
    table = chunk_table(plan, store, 0, ())
    store.create(chunk_name(0), to_parquet(table.slice(1)))
    with pytest.raises(IncompleteError, match=r"chunks/0000000\.g0\.parquet holds 15 rows, the plan has 16"):
        finalize(store)
    assert not store.exists("run.json")


def test_a_chunk_of_another_run_is_an_error(store: LocalStore, plan: Plan, commit: Callable[..., None]) -> None:
    """Chunks that were left behind by another plan are never published as this run's."""
    commit_all(plan, commit)
    table = with_attempt(chunk_table(plan, store, 0, ()), {**ATTEMPT, "plan_hash": "another"})
    store.replace(chunk_name(0), to_parquet(table))
    with pytest.raises(IncompleteError, match="is a chunk of another run"):
        finalize(store)


@pytest.mark.parametrize("content", [b"", b"PAR1 not really", b"\0" * 100])
def test_a_damaged_chunk_is_named(store: LocalStore, plan: Plan, commit: Callable[..., None], content: bytes) -> None:
    """The file and the remedy are in one line."""
    commit_all(plan, commit)
    store.replace(chunk_name(2), content)
    with pytest.raises(IncompleteError, match=r"chunks/0000002\.g0\.parquet is damaged .*delete it"):
        finalize(store)


def test_a_damaged_event_log_does_not_stop_a_run(store: LocalStore, plan: Plan, commit: Callable[..., None]) -> None:
    """Events are for accounts: lines that are not whole are passed over."""
    commit_all(plan, commit)
    whole = json.dumps(
        {"at": 1.0, "session": "s", "event": "commit", "chunk": 1, "generation": 0, "first": True, "commit_s": 0.25}
    )
    store.create("events/s-x.jsonl", f'{{"half\n[]\n{{}}\n{whole}\n{{"at": 2'.encode())
    finalize(store)
    telemetry = pd.read_parquet(store.path("telemetry")).set_index("chunk")
    assert telemetry.loc[1, "commit_s"] == 0.25


def test_a_run_folder_without_its_model_record(store: LocalStore, plan: Plan, commit: Callable[..., None]) -> None:
    """A missing part of the plan folder is named."""
    commit_all(plan, commit)
    store.delete(f"plan/vocabulary-{HASH[:16]}.parquet")
    with pytest.raises(PlanError, match="vocabulary-0123456789abcdef"):
        finalize(store)


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    """Finalize of anything else names what is missing."""
    with pytest.raises(InputError, match=r"plan/plan\.json"):
        finalize(LocalStore(tmp_path))
