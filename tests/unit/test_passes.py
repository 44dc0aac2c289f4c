"""What a retry does to chunks: nothing is lost, overwritten or undone."""

from pathlib import Path

import pandas as pd
import pytest
from committed_run import commit_all, plan_run, tagged_rows

from pipeline.chunks import chunk_name, commit_chunk, generations
from pipeline.clean import clean
from pipeline.error_kinds import ERROR_KINDS
from pipeline.errors import ConfigError, ReadOnlyError, StoppedError
from pipeline.finalize import finalize
from pipeline.passes import FirstPass, RetryPass
from pipeline.plan import Plan
from pipeline.retry import find_rejects, planned_run, retriable_kinds
from pipeline.stores.local_store import LocalStore

IDS = [f"i{number}" for number in range(10)]
REJECTS = {"i1": "not_found", "i2": "truncated", "i9": "connection"}
ALL = retriable_kinds(None)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


@pytest.fixture
def plan(store: LocalStore, tiny_bundle: Path) -> Plan:
    plan = plan_run(store, tiny_bundle, IDS)
    commit_all(store, plan, REJECTS)
    return plan


def do(work: RetryPass, store: LocalStore, plan: Plan, rejects: dict[str, str], tag: int = 0) -> list[bool]:
    """Go over all pending chunks as the flow does; whether each commit was the first."""
    won = []
    for chunk in work.pending(store, plan):
        rows = work.rows(store, plan, chunk)
        if rows is not None:
            won.append(work.commit(store, chunk, tagged_rows(plan, rows, rejects, tag)))
    return won


def published(store: LocalStore, folder: str) -> pd.DataFrame:
    return pd.read_parquet(store.path(folder)).set_index("image_id")


def test_only_the_asked_rejects_are_done_again(store: LocalStore, plan: Plan) -> None:
    """A pass over one kind touches the chunks that have it, and in these only its rows."""
    work, found = find_rejects(store, plan, frozenset({"not_found"}))
    assert (work.base, dict(found), work.extent(store, plan)) == ({0: 0}, {"not_found": 1}, (1, 0))
    rows = work.rows(store, plan, 0)
    assert rows is not None
    assert rows["image_id"].to_pylist() == ["i1"]


def test_a_retry_replaces_its_rejects_and_copies_the_rest(store: LocalStore, plan: Plan) -> None:
    """The next generation of affected chunks only; other rows unchanged, attempts added up, in the planned order."""
    before = published_after_finalize(store)
    work, _ = find_rejects(store, plan, ALL)
    assert do(work, store, plan, {"i9": "connection"}, tag=1) == [True, True]
    assert generations(store) == {0: 1, 1: 0, 2: 1}
    after = published_after_finalize(store)
    assert after.loc["i1", "tags"].tolist() == ["cat"]
    rejects = published(store, "rejects")
    assert rejects["error_kind"].to_dict() == {"i2": "truncated", "i9": "connection"}
    assert rejects["attempts"].to_dict() == {"i2": 1, "i9": 2}
    pd.testing.assert_frame_equal(after.drop(index="i1"), before)
    assert store.exists(chunk_name(0, 0))


def published_after_finalize(store: LocalStore) -> pd.DataFrame:
    finalize(store)
    return published(store, "tags").drop(columns="sha256")


def test_telemetry_counts_what_a_retry_did(store: LocalStore, plan: Plan) -> None:
    """A row for each generation; that of a retry has the images that were tagged again, not those that were copied."""
    work, _ = find_rejects(store, plan, ALL)
    do(work, store, plan, {})
    finalize(store)
    telemetry = pd.read_parquet(store.path("telemetry"))
    assert telemetry[["chunk", "generation", "images", "bytes"]].to_numpy().tolist() == [
        [0, 0, 4, 400], [0, 1, 1, 100], [1, 0, 4, 400], [2, 0, 2, 200], [2, 1, 1, 100],
    ]  # fmt: skip


def test_of_two_retries_at_once_each_chunk_takes_one(store: LocalStore, plan: Plan) -> None:
    """Both read the same generation; the second to commit a chunk loses, whatever it found."""
    first, second = (find_rejects(store, plan, ALL)[0] for _ in range(2))
    rows = {chunk: second.rows(store, plan, chunk) for chunk in second.pending(store, plan)}
    assert do(first, store, plan, {}) == [True, True]
    late = [second.commit(store, chunk, tagged_rows(plan, table, REJECTS)) for chunk, table in rows.items()]
    assert late == [False, False]
    assert second.pending(store, plan) == []
    assert finalize(store).counts.rejected == 1


def test_a_retry_that_began_before_another_ended_undoes_nothing(store: LocalStore, plan: Plan) -> None:
    """A chunk that has a later generation than the one that was read is passed over."""
    early, _ = find_rejects(store, plan, ALL)
    do(find_rejects(store, plan, ALL)[0], store, plan, {})
    assert early.rows(store, plan, 0) is None
    assert do(early, store, plan, REJECTS) == []


def test_a_zombie_of_the_first_run_changes_nothing(store: LocalStore, plan: Plan) -> None:
    """A commit of generation 0 loses against the one that is there, also after a retry."""
    do(find_rejects(store, plan, ALL)[0], store, plan, {})
    parts = finalize(store).parts["tags"]
    zombie = tagged_rows(plan, plan.read_chunk(store, 0), dict.fromkeys(IDS, "timeout"))
    assert FirstPass().rows(store, plan, 0) is None
    assert not FirstPass().commit(store, 0, zombie)
    assert finalize(store).parts["tags"] == parts


def test_a_retry_of_a_retry(store: LocalStore, plan: Plan) -> None:
    """Attempts go on counting, and the generation before is what is copied from."""
    for attempts in (2, 3):
        work, _ = find_rejects(store, plan, frozenset({"not_found"}))
        do(work, store, plan, {"i1": "not_found"})
        finalize(store)
        assert published(store, "rejects").loc["i1", "attempts"] == attempts
    assert generations(store)[0] == 2


def test_killed_after_some_chunks(store: LocalStore, plan: Plan) -> None:
    """What a killed retry has committed is not done again, also if the published tables are of before it."""
    finalize(store)
    work, _ = find_rejects(store, plan, ALL)
    rows = work.rows(store, plan, 0)
    assert rows is not None
    work.commit(store, 0, tagged_rows(plan, rows, {}))
    again, found = find_rejects(store, plan, ALL)
    assert (again.base, found.total()) == ({2: 0}, 1)


@pytest.mark.parametrize(
    ("only", "words"),
    [
        ("nope", "--only nope: no such error kind; there are not_found"),
        ("duplicate_id", "--only duplicate_id: it was decided when the run was planned"),
        (" , ", "--only names no error kind"),
    ],
)
def test_kinds_that_cannot_be_retried_are_refused(only: str, words: str) -> None:
    """Each by name, with those that can."""
    with pytest.raises(ConfigError, match=words):
        retriable_kinds(only)


def test_default_kinds_are_the_retriable_ones() -> None:
    """Those that may succeed later without the image being changed; others can be named."""
    assert {name for name, kind in ERROR_KINDS.items() if kind.retriable} == ALL
    assert retriable_kinds("truncated, connection") == {"truncated", "connection"}


def test_an_unfinished_or_cleaned_run_is_not_retried(store: LocalStore, tiny_bundle: Path) -> None:
    """The first is to be finished, exit 3; the second is read-only."""
    plan = plan_run(store, tiny_bundle, IDS)
    with pytest.raises(StoppedError, match="3 of 3 chunks are not yet done"):
        planned_run(store)
    commit_all(store, plan)
    finalize(store)
    clean(store)
    with pytest.raises(ReadOnlyError, match="removed by `ramfleet clean`"):
        planned_run(store)


def test_other_rows_than_asked_for_are_not_committed(store: LocalStore, plan: Plan) -> None:
    """A block that was mixed up on its way changes nothing."""
    work, _ = find_rejects(store, plan, ALL)
    rows = work.rows(store, plan, 2)
    assert rows is not None
    with pytest.raises(Exception, match="brought back other rows"):
        work.commit(store, 0, tagged_rows(plan, rows, {}))
    assert generations(store)[0] == 0
    assert not commit_chunk(store, 0, tagged_rows(plan, plan.read_chunk(store, 0), {}))
