"""`ramfleet verify` finds what is wrong and says how to repair it; `ramfleet clean` trusts nothing else."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from committed_run import HASH, commit_all, plan_run, tagged_rows

from pipeline.chunks import chunk_name, commit_chunk
from pipeline.clean import clean
from pipeline.errors import IncompleteError, InputError, ReadOnlyError
from pipeline.finalize import finalize
from pipeline.plan import Plan
from pipeline.retry import find_rejects, retriable_kinds
from pipeline.stores.local_store import LocalStore
from pipeline.stores.read_only import CLEANED
from pipeline.verify import verify

IDS = [f"i{number}" for number in range(10)]


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


@pytest.fixture
def plan(store: LocalStore, tiny_bundle: Path) -> Plan:
    plan = plan_run(store, tiny_bundle, [*IDS, "i3"])
    commit_all(store, plan, {"i1": "not_found"})
    finalize(store)
    return plan


def part(store: LocalStore, folder: str) -> str:
    name: str = json.loads(store.read("run.json"))["parts"][folder][0]
    return name


def test_a_sound_run_has_no_fault(store: LocalStore, plan: Plan) -> None:
    """Every row is read, and nothing is changed."""
    before = {name: store.read(name) for folder in ("", "tags/", "chunks/", "plan/") for name in store.list(folder)}
    found = verify(store)
    assert (found.faults, found.rows) == ([], 11)
    assert before == {name: store.read(name) for name in before}


def delete_chunk(store: LocalStore, plan: Plan) -> None:
    store.delete(chunk_name(1))


def damage_chunk(store: LocalStore, plan: Plan) -> None:
    store.replace(chunk_name(1), b"PAR1 not really")


def other_images(store: LocalStore, plan: Plan) -> None:
    store.delete(chunk_name(1))
    commit_chunk(store, 1, tagged_rows(plan, plan.read_chunk(store, 0), {}))


def unplanned_chunk(store: LocalStore, plan: Plan) -> None:
    store.create(chunk_name(77), b"x")


def damage_plan(store: LocalStore, plan: Plan) -> None:
    name = plan.parts[0].name
    data = bytearray(store.read(name))
    data[20] ^= 1
    store.replace(name, bytes(data))


def lose_plan_part(store: LocalStore, plan: Plan) -> None:
    store.delete(plan.parts[0].name)


def lose_run_json(store: LocalStore, plan: Plan) -> None:
    store.delete("run.json")


def damage_run_json(store: LocalStore, plan: Plan) -> None:
    store.replace("run.json", b"{")


def flip_a_bit_of_a_part(store: LocalStore, plan: Plan) -> None:
    data = bytearray(store.read(part(store, "tags")))
    data[len(data) // 2] ^= 1
    store.replace(part(store, "tags"), bytes(data))


def lose_part(store: LocalStore, plan: Plan) -> None:
    store.delete(part(store, "rejects"))


def strange_part(store: LocalStore, plan: Plan) -> None:
    store.create("tags/part-00000-0123456789abcdef.parquet", b"x")


def retry_without_finalize(store: LocalStore, plan: Plan) -> None:
    work, _ = find_rejects(store, plan, retriable_kinds(None))
    rows = work.rows(store, plan, 0)
    assert rows is not None
    work.commit(store, 0, tagged_rows(plan, rows, {}))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (delete_chunk, ("1 of 3 chunks are not committed, 1:", "run the command that began the run again")),
        (damage_chunk, ("chunks/0000001.g0.parquet is damaged", "delete it")),
        (other_images, ("chunks/0000001.g0.parquet has other images than planned", "delete it")),
        (unplanned_chunk, ("not planned, chunks/0000077.g0.parquet", "delete them")),
        (damage_plan, ("plan/part-00000", "restore it")),
        (lose_plan_part, ("parts of the plan are missing", "restore")),
        (lose_run_json, ("run.json is missing", "ramfleet finalize")),
        (damage_run_json, ("run.json is damaged", "ramfleet finalize")),
        (flip_a_bit_of_a_part, ("tags/part-00000", "not as it was written", "delete it, then run `ramfleet finalize`")),
        (lose_part, ("rejects/part-00000", "missing", "ramfleet finalize")),
        (strange_part, ("tags/ has objects that are not in run.json", "ramfleet finalize")),
        (retry_without_finalize, ("published before the last retry", "ramfleet finalize")),
    ],
)
def test_each_fault_is_named_with_its_repair(
    store: LocalStore, plan: Plan, fault: Callable[[LocalStore, Plan], None], words: tuple[str, ...]
) -> None:
    """One line that has the object and the remedy; and nothing with a fault is cleaned."""
    fault(store, plan)
    faults = verify(store).faults
    assert any(all(word in line for word in words) for line in faults), faults
    assert all("\n" not in line for line in faults)
    with pytest.raises(IncompleteError, match="is not cleaned; it has faults"):
        clean(store)
    assert store.exists(chunk_name(0))


@pytest.mark.parametrize(
    "fault", [lose_run_json, flip_a_bit_of_a_part, lose_part, strange_part, retry_without_finalize]
)
def test_finalize_repairs_what_it_is_named_for(
    store: LocalStore, plan: Plan, fault: Callable[[LocalStore, Plan], None]
) -> None:
    """The remedy that is told works."""
    fault(store, plan)
    if fault is flip_a_bit_of_a_part:
        store.delete(part(store, "tags"))
    finalize(store)
    assert verify(store).faults == []


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    """What is missing is named."""
    with pytest.raises(InputError, match=r"plan/plan\.json"):
        verify(LocalStore(tmp_path))


def test_clean_removes_the_chunks_and_marks_the_run(store: LocalStore, plan: Plan) -> None:
    """Tables stay and can still be verified; finalize is refused; a second clean has nothing to do."""
    tags = store.read(part(store, "tags"))
    assert clean(store).objects == 3
    assert list(store.list("chunks/")) == []
    assert store.read(part(store, "tags")) == tags
    assert verify(store).faults == []
    assert clean(store).objects == 0
    with pytest.raises(ReadOnlyError, match="is read-only"):
        finalize(store)


def test_a_clean_that_was_killed_goes_on(store: LocalStore, plan: Plan) -> None:
    """Once the mark is there, chunks that are missing are no fault."""
    record = {"cleaned_at": "now", "rows_checksum": verify(store).checksum}
    store.create(CLEANED, json.dumps(record).encode())
    store.delete(chunk_name(0))
    assert verify(store).faults == []
    assert clean(store).objects == 2


def test_a_damaged_table_of_a_cleaned_run(store: LocalStore, plan: Plan) -> None:
    """It cannot be written again, and that is said."""
    clean(store)
    flip_a_bit_of_a_part(store, plan)
    assert "restore it from a copy" in verify(store).faults[0]


def test_an_unfinished_run_is_not_cleaned(store: LocalStore, tiny_bundle: Path) -> None:
    """Chunks that are still to come would be lost."""
    plan = plan_run(store, tiny_bundle, IDS)
    commit_chunk(store, 0, tagged_rows(plan, plan.read_chunk(store, 0), {}))
    finalize(store)
    with pytest.raises(IncompleteError, match="2 of 3 chunks are not committed"):
        clean(store)
    assert not store.exists(CLEANED)
    assert plan.pinned["bundle"] == HASH
