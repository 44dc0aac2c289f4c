"""Two runs side by side."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from committed_run import commit_all, plan_run
from PIL import Image
from synthetic_run import FLEET, write_run
from typer.testing import CliRunner

import pipeline.report.tag_drift as drift_module
from jobs.main import app
from pipeline.finalize import finalize
from pipeline.finished_run import FinishedRun
from pipeline.report.compare import Comparison, as_dict, compare_runs, figure_rows
from pipeline.stores.local_store import LocalStore
from ramcore.vocabulary import Vocabulary

IDS = [f"i{number}" for number in range(10)]


def tagged_run(folder: Path, bundle: Path, ids: list[str], tag: int) -> LocalStore:
    """A run whose images all have one tag, dog (0) or cat (1)."""
    store = LocalStore(folder)
    commit_all(store, plan_run(store, bundle, ids), tag=tag)
    finalize(store)
    return store


def compared(a: LocalStore, b: LocalStore) -> Comparison:
    return compare_runs(FinishedRun(a), FinishedRun(b))


@pytest.fixture
def dogs(tmp_path: Path, tiny_bundle: Path) -> LocalStore:
    return tagged_run(tmp_path / "dogs", tiny_bundle, IDS, 0)


@pytest.fixture
def cats(tmp_path: Path, tiny_bundle: Path) -> LocalStore:
    return tagged_run(tmp_path / "cats", tiny_bundle, IDS[4:], 1)


def test_a_run_agrees_with_itself(dogs: LocalStore) -> None:
    """All images have the same tags, and no tag's share changed."""
    found = compared(dogs, dogs)
    assert (found.drift.agreement.images, found.drift.agreement.same, found.drift.agreement.mean_overlap) == (
        10,
        10,
        1.0,
    )
    assert not [shift for shift in found.drift.shifts if shift.change or shift.gained or shift.lost]


def test_tags_that_drift_come_first(dogs: LocalStore, cats: LocalStore) -> None:
    """Shares are of each run's images; gained and lost of the images in both."""
    found = compared(dogs, cats)
    names = FinishedRun(dogs).vocabulary().tags
    first = {shift.tag: shift for shift in found.drift.shifts[:2]}
    dog, cat = first[names[0]], first[names[1]]
    assert (dog.share_a, dog.share_b, dog.gained, dog.lost) == (1, 0, 0, 6)
    assert (cat.share_a, cat.share_b, cat.gained, cat.lost) == (0, 1, 6, 0)
    assert (found.drift.agreement.images, found.drift.agreement.same, found.drift.agreement.mean_overlap) == (6, 0, 0.0)


def test_tags_are_told_apart_by_name(tmp_path: Path) -> None:
    """Two vocabularies in another order, with a tag that only one has."""
    stores = []
    for name, tags in (("a", ("dog", "cat", "sea")), ("b", ("cat", "dog"))):
        store = LocalStore(tmp_path / name)
        write_run(store, 0, 0, names=Vocabulary(tags, ("",) * len(tags), np.full(len(tags), 0.5, np.float32)))
        stores.append(store)
    put_row(stores[0], [0, 2], [0.9, 0.8])
    put_row(stores[1], [1], [0.9])
    found = compared(*stores)
    shifts = {shift.tag: shift for shift in found.drift.shifts}
    assert (shifts["dog"].share_a, shifts["dog"].share_b) == (1, 1)
    assert (shifts["sea"].share_a, shifts["sea"].share_b, shifts["sea"].lost) == (1, 0, 1)
    assert found.drift.agreement.mean_overlap == 0.5


def put_row(
    store: LocalStore, ids: list[int], scores: list[float], picture: Path | None = None, image_id: str = "i0"
) -> None:
    import pyarrow as pa

    from pipeline.tables.parts import create_part
    from pipeline.tables.schemas import to_parquet

    sha256 = "00" if picture is None else hashlib.sha256(picture.read_bytes()).hexdigest()
    columns = {"image_id": [image_id], "uri": [str(picture or "/i0")], "sha256": [sha256]}
    lists = {"tag_ids": pa.array([ids], pa.list_(pa.int32())), "scores": pa.array([scores], pa.list_(pa.float32()))}
    document = json.loads(store.read("run.json"))
    document["parts"]["tags"] = [create_part(store, "tags/", 1, to_parquet(pa.table({**columns, **lists})))]
    store.replace("run.json", json.dumps(document).encode())


@pytest.mark.lengthy
def test_large_runs_are_compared_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of parts, the outcome is that of one."""
    a, b = (LocalStore(tmp_path / name) for name in "ab")
    write_run(a, 3_000, 100)
    write_run(b, 2_500, 100)
    whole = compared(a, b).drift
    monkeypatch.setattr(drift_module, "_PART_ROWS", 300)
    monkeypatch.setattr(drift_module, "_BATCH_ROWS", 700)
    parts = compared(a, b).drift
    assert parts.agreement.images == 2_500
    assert replace(parts, agreement=whole.agreement) == whole
    assert parts.agreement.mean_overlap == pytest.approx(whole.agreement.mean_overlap)


def test_costs_and_throughput_side_by_side(tmp_path: Path) -> None:
    """A run on the first two kinds of nodes against one on all four."""
    stores = [LocalStore(tmp_path / name) for name in "ab"]
    write_run(stores[0], 4_000, 400, FLEET[:2])
    write_run(stores[1], 4_000, 400)
    found = compared(*stores)
    rows = {name: (a, b, change) for name, a, b, change in figure_rows(found)}
    assert rows["images tagged"] == ("4,000", "4,000", "+0.0 %")
    assert rows["cost"][0].startswith("$")
    assert rows["images/s"][2].startswith("+")
    document = as_dict(found)
    assert document["a"]["images tagged"] == 4_000
    assert document["a"]["cost"] > 0
    assert len(document["tags"]) == 400


def test_a_part_of_a_cost_is_not_compared_with_a_whole(tmp_path: Path) -> None:
    """The last kind of nodes has no price: what is missing is said, and no change is reckoned."""
    stores = [LocalStore(tmp_path / name) for name in "ab"]
    for store, fleet in zip(stores, (FLEET[:2], FLEET), strict=True):
        write_run(store, 4_000, 400, fleet)
    found = compared(*stores)
    [(_, whole, part, change)] = [row for row in figure_rows(found) if row[0] == "cost"]
    assert (part.startswith("$"), part.endswith(", without nodes that have no price"), change) == (True, True, "–")
    assert "without" not in whole
    assert [as_dict(found)[side]["unpriced_s"] > 0 for side in "ab"] == [False, True]


def test_runs_without_images_can_be_compared(tmp_path: Path, dogs: LocalStore) -> None:
    """Nothing in common is said; figures that are not there are no zeros."""
    store = LocalStore(tmp_path / "nothing")
    write_run(store, 0, 0)
    found = compared(store, dogs)
    assert found.drift.agreement.mean_overlap is None
    rows = {name: (a, b, change) for name, a, b, change in figure_rows(found)}
    assert rows["tags of an image"] == ("–", "1", "–")


def run_command(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["compare", *arguments], env={"COLUMNS": "140"})
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_in_its_three_forms(dogs: LocalStore, cats: LocalStore, tmp_path: Path) -> None:
    """A table for people, Markdown and JSON; --out for the latter two."""
    table = run_command(dogs.root, cats.root)
    assert "Tags that appeared (1, 1 of them marked)" in table
    assert "Tags that vanished (1, 1 of them marked)" in table
    assert "6 images in both: 0 % with the same tags" in table
    assert "| images tagged | 10 | 6 | -40.0 % |" in run_command(dogs.root, cats.root, "--md")
    out = tmp_path / "drift.json"
    run_command(dogs.root, cats.root, "--json", "--out", str(out))
    assert json.loads(out.read_text())["agreement"] == {"images": 6, "same": 0, "mean_overlap": 0.0}
    images = json.loads(out.read_text())["images"]
    assert [image["image_id"] for image in images] == [f"i{number}" for number in range(9, 3, -1)]
    assert CliRunner().invoke(app, ["compare", dogs.root, cats.root, "--json", "--md"]).exit_code == 2
    assert CliRunner().invoke(app, ["compare", dogs.root, cats.root, "--html"]).exit_code == 2
    assert CliRunner().invoke(app, ["compare", dogs.root, cats.root, "--out", "x"]).exit_code == 2


def test_what_only_a_page_said_is_said_everywhere(tmp_path: Path) -> None:
    """Tags that a vocabulary does not have; and an id with an escape sequence colours nothing."""
    stores = [LocalStore(tmp_path / name) for name in "ab"]
    for store, tags in zip(stores, (("dog", "s[e]a"), ("dog", "cat")), strict=True):
        write_run(store, 0, 0, names=Vocabulary(tags, ("", ""), np.full(2, 0.5, np.float32)))
        put_row(store, [1], [0.9], image_id="i\x1b[31m\n0")
    roots = [store.root for store in stores]
    for text, tag in ((run_command(*roots), "s[e]a"), (run_command(*roots, "--md"), "s\\[e\\]a")):
        assert f"Not in the vocabulary of B: {tag}. Not in the vocabulary of A: cat." in text
        assert "\x1b[31m" not in text
        assert "i\ufffd" in text


NASTY = "<img src=x onerror=alert(1)>"


@pytest.mark.lengthy
def test_the_page_shows_tables_pictures_and_names_as_text(tmp_path: Path) -> None:
    """With the picture of an image that changed; markup in a tag is text."""
    picture = tmp_path / "picture.png"
    Image.new("RGB", (40, 30), (200, 10, 10)).save(picture)
    stores = [LocalStore(tmp_path / name) for name in "ab"]
    for store, tag in zip(stores, (0, 1), strict=True):
        write_run(store, 0, 0, names=Vocabulary((NASTY, "run"), ("", ""), np.full(2, 0.5, np.float32)))
        put_row(store, [tag], [0.9], picture)
    out = tmp_path / "drift.html"
    run_command(stores[0].root, stores[1].root, "--html", "--out", str(out))
    page = out.read_text()
    assert "<img src=x" not in page
    assert "+ run</span>" in page
    assert "− &lt;img src=x" in page
    assert ">run</th>" in page
    assert page.count("data:image/jpeg;base64,") == 1
    assert "<script" not in page
