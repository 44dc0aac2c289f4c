"""What every index has to keep, by SQLite; and what its file has for other programs."""

import sqlite3
import uuid
from pathlib import Path

import pytest
from index_contract import (  # noqa: F401 - tests
    test_a_feed_that_dies_is_taken_up_again,
    test_a_query_means_the_same_everywhere,
    test_an_index_follows_its_runs,
    test_documents_come_back_whole,
    test_what_is_in_the_index_is_not_written_again,
)
from indexes import MadeIndex, NewIndex, source


@pytest.fixture
def new_index(tmp_path: Path) -> NewIndex:
    return lambda: MadeIndex("sqlite", str(tmp_path / f"{uuid.uuid4().hex}.sqlite"))


def test_the_file_can_be_asked_in_sql(new_index: NewIndex, tmp_path: Path) -> None:
    """Tags are words of a full-text table, scores rows of their own."""
    made = new_index()
    made.feed(source(tmp_path, [{"a": {0: 900, 3: 800}, "b": {0: 700}, "c": {3: 990}}]))
    database = sqlite3.connect(made.out)
    words = "SELECT image_id FROM docs WHERE doc IN (SELECT rowid FROM words WHERE words MATCH ?)"
    assert database.execute(words, ('"0" AND "3"',)).fetchall() == [("a",)]
    scored = "SELECT image_id, score FROM postings JOIN docs USING (doc) JOIN names USING (tag) WHERE name = 'dog'"
    assert database.execute(f"{scored} ORDER BY score DESC").fetchall() == [("a", 900), ("b", 700)]


def test_nothing_is_left_beside_the_file(new_index: NewIndex, tmp_path: Path) -> None:
    """One file: no journal and no lock that would have to go with it when it is copied."""
    made = new_index()
    made.feed(source(tmp_path, [{"a": {0: 900}}]))
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == [Path(made.out).name]
