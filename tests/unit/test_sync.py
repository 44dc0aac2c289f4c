"""A run with a base: only what is new or changed is planned, the rest is carried over as it was tagged."""

import json
from pathlib import Path

import pandas as pd
import pytest
from committed_run import PINNED, commit_all, plan_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.clean import clean
from pipeline.errors import InputError, PinnedError
from pipeline.finalize import finalize
from pipeline.manifests import identity
from pipeline.stores.local_store import LocalStore
from pipeline.sync import open_base
from pipeline.verify import verify

IDS = [f"i{number}" for number in range(10)]
ASKED = {**PINNED, "--base": "/base"}


@pytest.fixture
def base(tmp_path: Path, tiny_bundle: Path) -> LocalStore:
    store = LocalStore(tmp_path / "base")
    commit_all(store, plan_run(store, tiny_bundle, IDS), {"i9": "not_found"})
    finalize(store)
    return store


def sync(store: LocalStore, base: LocalStore, bundle: Path, ids: list[str], by_uri: bool = False, **options):
    """Plan, commit and publish a run with a base, in which new images get another tag."""
    plan = plan_run(store, bundle, ids, base=open_base(base, ASKED, by_uri), **options)
    commit_all(store, plan, tag=1)
    return plan, finalize(store)


def table(store: LocalStore) -> pd.DataFrame:
    return pd.read_parquet(store.path("tags")).set_index("image_id").sort_index()


def test_added_changed_removed_and_renamed(tmp_path: Path, tiny_bundle: Path, base: LocalStore) -> None:
    """Each case is counted; what is carried has the base's tags, what is tagged the new ones."""
    ids = ["new", "renamed", *IDS[2:]]  # i0 is removed, i1 renamed, i9 was a reject of the base
    store = LocalStore(tmp_path / "run")
    plan, result = sync(store, base, tiny_bundle, ids, versions={"i2": "2"})
    assert result.counts.as_dict() == {
        "input": 10, "tagged": 4, "rejected": 0, "duplicates": 0, "carried": 6, "missing": 0,
    }  # fmt: skip
    assert {name: plan.counts[name] for name in ("new", "changed", "removed")} == {"new": 3, "changed": 1, "removed": 2}
    tags = table(store)
    assert tags.index[tags["tags"].str[0] == "cat"].tolist() == ["i2", "i9", "new", "renamed"]
    assert tags.index[tags["tags"].str[0] == "dog"].tolist() == ["i3", "i4", "i5", "i6", "i7", "i8"]
    assert tags.columns.tolist() == table(base).columns.tolist()
    assert tags["chunk"].isna().tolist() == (tags["tags"].str[0] == "dog").tolist()
    assert verify(store).faults == []


def test_nothing_changed(tmp_path: Path, tiny_bundle: Path, base: LocalStore) -> None:
    """All is carried, there is no chunk, and a third run carries from the second, which was cleaned."""
    for name in ("second", "third"):
        store = LocalStore(tmp_path / name)
        plan, result = sync(store, base, tiny_bundle, IDS[:9])
        assert (plan.chunks, result.counts.carried, result.counts.tagged) == (0, 9, 0)
        assert table(store)["tags"].str[0].eq("dog").all()
        clean(store)
        assert verify(store).faults == []
        base = store


@pytest.mark.parametrize(("by_uri", "carried"), [(False, 7), (True, 8)])
def test_without_a_version(tmp_path: Path, tiny_bundle: Path, base: LocalStore, by_uri: bool, carried: int) -> None:
    """An image whose version is unknown is tagged again, unless it was asked to trust the uri."""
    store = LocalStore(tmp_path / "run")
    versions = {"i3": None, "i4": "2"}
    _, result = sync(store, base, tiny_bundle, IDS[:9], by_uri, versions=versions)
    assert result.counts.carried == carried


def test_a_kept_column_has_the_new_value(tmp_path: Path, tiny_bundle: Path, base: LocalStore) -> None:
    """Columns of the manifest come from the input of the new run, also in carried rows."""
    store = LocalStore(tmp_path / "run")
    sync(store, base, tiny_bundle, IDS[:4] + IDS[3:9])
    assert table(store)["version"].eq("1").all()
    assert json.loads(store.read("plan/plan.json"))["counts"]["duplicates"] == 1


@pytest.mark.lengthy
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    old=st.dictionaries(st.sampled_from("abcdefghij"), st.sampled_from(["1", "2", None]), min_size=1),
    new=st.dictionaries(st.sampled_from("abcdefghij"), st.sampled_from(["1", "2", None]), min_size=1),
    partition=st.integers(1, 6),
)
def test_as_a_simple_loop_says(tmp_path_factory, tiny_bundle, monkeypatch, old, new, partition) -> None:
    """Whatever two runs hold, and however small the partitions, the same rows are carried as a dictionary tells."""
    folder = tmp_path_factory.mktemp("sync")
    monkeypatch.setattr(identity, "_PARTITION_ROWS", partition)
    base, store = LocalStore(folder / "base"), LocalStore(folder / "run")
    commit_all(base, plan_run(base, tiny_bundle, list(old), versions=old))
    finalize(base)
    plan, result = sync(store, base, tiny_bundle, list(new), versions=new)
    carried = {image_id for image_id, version in new.items() if version is not None and old.get(image_id) == version}
    tags = table(store)
    assert set(tags.index[tags["tags"].str[0] == "dog"]) == carried
    assert sorted(tags.index) == sorted(new)
    assert plan.counts["removed"] == len(old.keys() - new.keys())
    assert plan.counts["changed"] == len(old.keys() & new.keys()) - len(carried)
    assert result.counts.carried == len(carried)


@pytest.mark.parametrize(("key", "value"), [("bundle", "f" * 64), ("decode.mode", "exact"), ("output.top_k", 3)])
def test_another_bundle_or_result_configuration_is_refused(base: LocalStore, key: str, value: object) -> None:
    """By name: such a base has other tags than the new run would give."""
    with pytest.raises(PinnedError, match=f"{key}: the base was tagged with"):
        open_base(base, {**ASKED, key: value}, by_uri=False)


def test_a_base_that_is_no_finished_run(tmp_path: Path, tiny_bundle: Path, base: LocalStore) -> None:
    """Nothing there, not complete, or made by `ramfleet threshold`."""
    with pytest.raises(InputError, match=r"holds no finished run: there is no run\.json"):
        open_base(LocalStore(tmp_path / "nothing"), ASKED, by_uri=False)
    document = json.loads(base.read("run.json"))
    base.replace("run.json", json.dumps({**document, "status": "incomplete"}).encode())
    with pytest.raises(InputError, match="the run is incomplete: finish it first"):
        open_base(base, ASKED, by_uri=False)
    base.replace("run.json", json.dumps({**document, "derived_from": {"run": "/first"}}).encode())
    with pytest.raises(PinnedError, match=r"made by `ramfleet threshold`.*/first"):
        open_base(base, ASKED, by_uri=False)
