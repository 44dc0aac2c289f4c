"""What every index has to keep, by SQLite; and what its file has for other programs."""

import shutil
import sqlite3
import struct
import uuid
from pathlib import Path

import numpy as np
import pytest
from index_contract import (  # noqa: F401 - tests
    test_a_feed_that_dies_is_taken_up_again,
    test_a_query_means_the_same_everywhere,
    test_an_index_follows_its_runs,
    test_documents_come_back_whole,
    test_what_is_in_the_index_is_not_written_again,
)
from indexes import MadeIndex, NewIndex, documents, source

import pipeline.index
from pipeline.errors import StoreError
from pipeline.index import blocks
from pipeline.index.backend import Batch
from pipeline.index.feed import feed
from pipeline.index.kinds import open_writer


@pytest.fixture(params=[blocks.BLOCK_BITS, 2], ids=["one-block", "blocks-of-four"])
def new_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> NewIndex:
    monkeypatch.setattr(blocks, "BLOCK_BITS", request.param)
    monkeypatch.setattr(blocks, "BLOCK_DOCS", 1 << request.param)
    return lambda: MadeIndex("sqlite", str(tmp_path / f"{uuid.uuid4().hex}.sqlite"))


def test_the_file_can_be_asked_in_sql(new_index: NewIndex, tmp_path: Path) -> None:
    """Tags are words of a full-text table; each image's own tags and scores lie beside it."""
    made = new_index()
    made.feed(source(tmp_path, [{"a": {0: 900, 3: 800}, "b": {0: 700}, "c": {3: 990}}]))
    database = sqlite3.connect(made.out)
    words = "SELECT image_id, tags FROM docs WHERE doc IN (SELECT rowid FROM words WHERE words MATCH ?)"
    [(image_id, tags)] = database.execute(words, ('"0" AND "3"',)).fetchall()
    assert image_id == "a"
    assert [divmod(pair, 1 << 10) for (pair,) in struct.iter_unpack("<I", tags)] == [(0, 900), (3, 800)]
    assert database.execute("SELECT name FROM names WHERE tag = 3").fetchall() == [("beach",)]


def test_what_a_killed_feed_left_is_rolled_back_by_a_search(
    new_index: NewIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle of a commit, the file and its journal show what was committed before."""
    monkeypatch.setattr("pipeline.index.ledger._CACHE_KIB", 8)
    made = new_index()
    made.feed(source(tmp_path, [{f"old {n}": {0: 900} for n in range(400)}]))
    killed = tmp_path / "killed.sqlite"
    with open_writer("sqlite", made.out) as writer:
        documents_new = documents({f"new {n}": {0: 800, 1: 700} for n in range(4_000)})
        numbers = np.arange(10_000, 14_000)
        writer.ledger.begin()
        writer.write(Batch(documents_new, numbers, np.zeros(4_000, np.bool_), documents_new.packed()))
        for end in ("", "-journal"):
            shutil.copyfile(f"{made.out}{end}", f"{killed}{end}")
    assert killed.stat().st_size > 100_000
    with pipeline.index.open(killed) as index:
        assert index.search("dog", limit=0).total == 400


def test_nothing_is_left_beside_the_file(new_index: NewIndex, tmp_path: Path) -> None:
    """One file: no journal and no lock that would have to go with it when it is copied."""
    made = new_index()
    made.feed(source(tmp_path, [{"a": {0: 900}}]))
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == [Path(made.out).name]


def test_a_full_disk_is_one_line(new_index: NewIndex, tmp_path: Path) -> None:
    """What SQLite says, the file, and that the same command goes on."""
    made = new_index()

    def fill() -> None:
        with open_writer("sqlite", made.out) as writer:
            writer.ledger._db.execute("PRAGMA max_page_count = 60")  # type: ignore[attr-defined]
            feed(source(tmp_path, [{f"i{n}": {0: 900} for n in range(4_000)}]), writer, "sqlite")

    message = f"--out {made.out}: database or disk is full; when that is mended, run the command again to go on"
    with pytest.raises(StoreError, match=message):
        fill()
