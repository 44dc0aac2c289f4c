"""`ramfleet index` and `ramfleet search` on runs that grow, are finished, have a base; and on what is none."""

import json
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
from committed_run import HASH, VOCABULARY, commit_all, plan_run, tagged_rows
from synthetic_run import write_run
from typer.testing import CliRunner

import pipeline.index
from jobs.index import Kind
from jobs.main import app
from pipeline.chunks import commit_chunk
from pipeline.errors import RunError
from pipeline.finalize import finalize
from pipeline.index.blocks import BLOCK_BITS, places, read, scores
from pipeline.index.kinds import KINDS
from pipeline.model_record import vocabulary_name, vocabulary_table
from pipeline.plan import Plan
from pipeline.stores.local_store import LocalStore
from pipeline.sync import BaseRun
from pipeline.tables.schemas import attempt_of, to_parquet, with_attempt

IDS = [f"i{number}" for number in range(10)]
SHELL = CliRunner()


def run_command(*arguments: object) -> str:
    result = SHELL.invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def found(index: Path, query: str) -> list[str]:
    with pipeline.index.open(index) as opened:
        return sorted(hit.image_id for hit in opened.search(query, limit=100).hits)


def planned(store: LocalStore, bundle: Path, ids: list[str], *more: object, **options: object) -> Plan:
    """A planned run whose tags are dog and cat."""
    store.create(vocabulary_name(HASH), to_parquet(vocabulary_table(VOCABULARY)))
    return plan_run(store, bundle, ids, *more, **options)  # type: ignore[arg-type]


def contents(file: Path) -> dict[str, list[object]]:
    """All that an index says of its documents; their numbers may differ."""
    database = sqlite3.connect(file)
    docs = database.execute("SELECT image_id, uri, width, height, caption, tags FROM docs ORDER BY 1").fetchall()
    ids = dict(database.execute("SELECT doc, image_id FROM docs").fetchall())
    postings = []
    for tag, block, data in database.execute("SELECT tag, block, data FROM postings").fetchall():
        pairs = read(data)
        assert (np.diff(places(pairs)) > 0).all()
        numbers = ((block << BLOCK_BITS) + places(pairs)).tolist()
        postings += [(tag, ids[doc], score) for doc, score in zip(numbers, scores(pairs).tolist(), strict=True)]
    postings.sort()
    words = [
        database.execute(
            "SELECT image_id FROM docs WHERE doc IN (SELECT rowid FROM words(?)) ORDER BY 1", (f'"{tag}"',)
        )
        for tag in ("all", 0, 1, 2, 3)
    ]
    database.execute("INSERT INTO words (words) VALUES ('integrity-check')")
    return {"docs": docs, "postings": postings, "words": [rows.fetchall() for rows in words]}


def test_a_growing_run_is_followed(tmp_path: Path, tiny_bundle: Path) -> None:
    """What is committed is found; the next call reads only what came since, and the finished run changes nothing."""
    store, index = LocalStore(tmp_path / "run"), tmp_path / "run/index.sqlite"
    plan = planned(store, tiny_bundle, IDS)
    commit_chunk(store, 0, tagged_rows(plan, plan.read_chunk(store, 0), {"i1": "timeout"}))
    said = run_command("index", tmp_path / "run")
    assert said.startswith(f"{index}: 3 images; 3 new, 0 changed, 0 removed")
    assert found(index, "dog") == ["i0", "i2", "i3"]
    for chunk in range(1, plan.chunks):
        commit_chunk(store, chunk, tagged_rows(plan, plan.read_chunk(store, chunk), {}))
    assert "9 images; 6 new, 0 changed, 0 removed" in run_command("index", tmp_path / "run")
    finalize(store)
    assert "9 images; 0 new, 0 changed, 0 removed" in run_command("index", tmp_path / "run")
    assert found(tmp_path / "run", "狗 -cat") == [name for name in IDS if name != "i1"]


def test_the_highest_generation_counts(tmp_path: Path, tiny_bundle: Path) -> None:
    """What a retry tagged comes in; what it tagged otherwise is changed."""
    store, index = LocalStore(tmp_path / "run"), tmp_path / "run/index.sqlite"
    plan = planned(store, tiny_bundle, IDS)
    commit_all(store, plan, {"i1": "timeout"})
    run_command("index", tmp_path / "run")
    again = tagged_rows(plan, plan.read_chunk(store, 0), {}, tag=1)
    commit_chunk(store, 0, with_attempt(again, attempt_of(again.schema)), generation=1)
    assert "10 images; 1 new, 3 changed, 0 removed" in run_command("index", tmp_path / "run")
    assert found(index, "cat") == ["i0", "i1", "i2", "i3"]
    assert found(index, "dog") == ["i4", "i5", "i6", "i7", "i8", "i9"]


def test_an_index_follows_a_run_with_a_base(tmp_path: Path, tiny_bundle: Path) -> None:
    """What the new run does not have goes, what is new comes; the index equals one made of the new run alone."""
    old, new, index = LocalStore(tmp_path / "old"), LocalStore(tmp_path / "new"), tmp_path / "photos.sqlite"
    plan = planned(old, tiny_bundle, IDS)
    commit_all(old, plan)
    finalize(old)
    run_command("index", tmp_path / "old", "--out", index)
    base = BaseRun(old, json.loads(old.read("run.json")), by_uri=False)
    plan_b = planned(new, tiny_bundle, [*IDS[3:], "n0"], 4, {"i5": "2"}, plan.hash, base=base)
    commit_all(new, plan_b, tag=1)
    for finished in (False, True):
        if finished:
            finalize(new)
        run_command("index", tmp_path / "new", "--out", index)
        assert found(index, "cat") == ["i5", "n0"]
        assert found(index, "dog") == ["i3", "i4", "i6", "i7", "i8", "i9"]
    run_command("index", tmp_path / "new", "--out", tmp_path / "alone.sqlite")
    assert contents(index) == contents(tmp_path / "alone.sqlite")


def test_another_run_needs_a_word(tmp_path: Path, tiny_bundle: Path) -> None:
    """An index is not emptied by mistake: a run without relation to what it holds is refused, unless --replace."""
    a, b, index = LocalStore(tmp_path / "a"), LocalStore(tmp_path / "b"), tmp_path / "photos.sqlite"
    commit_all(a, planned(a, tiny_bundle, IDS))
    commit_all(b, planned(b, tiny_bundle, ["x", "y"]))
    run_command("index", tmp_path / "a", "--out", index)
    with pytest.raises(RunError, match=r"holds .*/a, and .*/b was not tagged with --base of that: .* --replace"):
        run_command("index", tmp_path / "b", "--out", index)
    assert "2 images; 2 new, 0 changed, 10 removed" in run_command("index", tmp_path / "b", "--out", index, "--replace")


def test_an_index_has_one_vocabulary(tmp_path: Path) -> None:
    """Tags of other runs have other ids: they are refused."""
    write_run(LocalStore(tmp_path / "a"), 10, 1)
    write_run(LocalStore(tmp_path / "b"), 10, 1, names=VOCABULARY)
    run_command("index", tmp_path / "a", "--out", tmp_path / "photos.sqlite")
    with pytest.raises(RunError, match=r"the index has 400 tags of another vocabulary than .*, which has 2: name"):
        run_command("index", tmp_path / "b", "--out", tmp_path / "photos.sqlite")


def test_a_result_for_programs(tmp_path: Path, tiny_bundle: Path) -> None:
    """--json has the page, the total and the facets."""
    store = LocalStore(tmp_path / "run")
    commit_all(store, planned(store, tiny_bundle, IDS))
    run_command("index", tmp_path / "run")
    said = json.loads(run_command("search", tmp_path / "run", "do*", "-cat", "--limit", 2, "--facets", 3, "--json"))
    tags = [{"tag": "dog", "tag_zh": "狗", "score": 0.9}]
    hit = {"uri": "/pictures/i0", "width": None, "height": None, "caption": None, "score": 0.9, "tags": tags}
    assert said["hits"][0] == {"image_id": "i0", **hit}
    assert said == {
        "query": "do* -cat",
        "total": 10,
        "offset": 0,
        "hits": said["hits"],
        "facets": [{"tag": "dog", "tag_zh": "狗", "images": 10}],
    }
    assert len(said["hits"]) == 2
    assert "10 images, 3 to 4" in run_command("search", tmp_path / "run", "dog", "--limit", 2, "--offset", 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("index", "{0}/none"), "holds no run: there is neither run.json nor plan/plan.json in it"),
        (("index", "{0}/run", "--out", "{0}"), "is a folder: name a file for --to sqlite"),
        (("index", "{0}/run", "--out", "{0}/text"), "is no index: file is not a database"),
        (("search", "{0}/none", "dog"), "there is no such index; `ramfleet index RUN --out"),
        (("search", "{0}/run", "dog"), "holds no index; `ramfleet index"),
        (("search", "{0}/text", "dog"), "is no index: file is not a database"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """One line each, naming what was given and what to do."""
    write_run(LocalStore(tmp_path / "run"), 10, 1)
    (tmp_path / "text").write_text("this is no database, whatever its name may be\n" * 9)
    with pytest.raises(RunError) as caught:
        run_command(*(argument.format(tmp_path) for argument in arguments))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [("--limit", "-1"), ("--limit", "10001"), ("--offset", "-1"), ("--facets", "-1")])
def test_numbers_out_of_range(tmp_path: Path, options: tuple[str, str]) -> None:
    """The option is named with its range."""
    write_run(LocalStore(tmp_path / "run"), 10, 1)
    run_command("index", tmp_path / "run")
    with pytest.raises(RunError, match=rf"{options[0][2:]}={options[1]}: give a number from 0"):
        run_command("search", tmp_path / "run", "*", *options)


@pytest.mark.parametrize(
    ("kind", "module"), [("tantivy", "tantivy"), ("lance", "lance"), ("opensearch", "opensearchpy")]
)
def test_a_package_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, module: str) -> None:
    """One line with what to install."""
    write_run(LocalStore(tmp_path / "run"), 10, 1)
    monkeypatch.setitem(sys.modules, module, None)
    push = ("--push", "http://localhost:9/x") if kind == "opensearch" else ()
    with pytest.raises(RunError) as caught:
        run_command("index", tmp_path / "run", "--to", kind, *push)
    needs = f"an index of the kind {kind} needs the package {module}, which is not installed"
    assert str(caught.value) == f"{needs}: pip install 'ramfleet[{kind}]'"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--to", "postgres"),
            "--to postgres needs the address of a server: name it with --out postgresql://USER@HOST/",
        ),
        (("--to", "postgres", "--out", "x"), "--out x is no address of a server: give postgresql://USER@HOST/DATABASE"),
        (("--to", "tantivy", "--out", "{0}/run"), "/run is a folder of something else: name a new one, or that of an"),
        (
            ("--out", "postgresql://u:secret@h/d"),
            "--out postgresql://h/d: an index of the kind sqlite is on a local",
        ),
        (("--to", "tantivy", "--out", "{0}/run/run.json"), "/run.json is a file: name a folder for --to tantivy"),
    ],
)
def test_places_that_do_not_fit_the_kind(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    """One line each."""
    write_run(LocalStore(tmp_path / "run"), 10, 1)
    with pytest.raises(RunError) as caught:
        run_command("index", tmp_path / "run", *(argument.format(tmp_path) for argument in arguments))
    assert message in str(caught.value)


def test_names_that_were_given_stay(tmp_path: Path, tiny_bundle: Path) -> None:
    """Synonyms and hierarchy are found by, without the images being read again, until other files are given."""
    store, names, tree = LocalStore(tmp_path / "run"), tmp_path / "names.csv", tmp_path / "tree.csv"
    commit_all(store, planned(store, tiny_bundle, IDS))
    names.write_text("name,tag\nhound,dog\n")
    tree.write_text("tag,parent\nhound,animal\ncat,animal\n")
    run_command("index", tmp_path / "run")
    assert "0 new, 0 changed" in run_command("index", tmp_path / "run", "--synonyms", names, "--hierarchy", tree)
    for again in (False, True):
        if again:
            run_command("index", tmp_path / "run")
        assert found(tmp_path / "run", "animal -cat") == found(tmp_path / "run", "hound") == IDS
    names.write_text("name,tag\nhound,cat\n")
    run_command("index", tmp_path / "run", "--synonyms", names)
    assert found(tmp_path / "run", "hound") == []


def test_the_command_knows_every_kind() -> None:
    """The choices of --to are the kinds there are."""
    assert tuple(Kind) == KINDS
