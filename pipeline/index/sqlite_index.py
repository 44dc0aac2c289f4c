"""The index as one SQLite file, without further packages: the documents, postings in blocks, words for other programs.

docs(doc, image_id, uri, width, height, caption, tags)   tags: packed, see documents.py
postings(tag, block, data)                                data: of 262,144 documents, packed, see blocks.py
words(tags)                                               FTS5 by doc, without content: the tag ids as words
names(tag, name, name_zh)

postings has a row of tag -1 too: all documents. Queries read the blocks: of tags that many images have, that takes a
half to a sixth of the time of FTS5 and rows of scores.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.index.backend import Batch, Reader, Writer
from pipeline.index.blocks import EVERY, Block, Matches, Ranking, by_list, read, stored, united, without
from pipeline.index.documents import PAIR_BYTES, Found, tags_in, unpack
from pipeline.index.expression import holds_for_none, tags_of
from pipeline.index.ledger import Ledger, connect
from pipeline.index.names import Names
from pipeline.index.query import Query

_ALL = "all"
"""A word that every document has: FTS5 knows "this but not that", not "not that"."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS docs (doc INTEGER PRIMARY KEY, image_id TEXT NOT NULL, uri TEXT NOT NULL, "
    "width INTEGER, height INTEGER, caption TEXT, tags BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS postings (tag INTEGER, block INTEGER, data BLOB NOT NULL, PRIMARY KEY (tag, block))",
    "CREATE TABLE IF NOT EXISTS names (tag INTEGER PRIMARY KEY, name TEXT NOT NULL, name_zh TEXT NOT NULL)",
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (tags, content = '', detail = none, columnsize = 0)",
)
_FETCHED = 65_536


class SqliteWriter(Writer):
    """Documents and ledger in one file and one transaction."""

    transactional = True

    def __init__(self, path: Path) -> None:
        self._db = connect(path, write=True)
        self.ledger = Ledger(self._db)

    def prepare(self, names: Names) -> None:
        """As `Writer.prepare`."""
        for statement in _SCHEMA:
            self._db.execute(statement)
        rows = ((tag, *names.shown(tag)) for tag in range(len(names.tags)))
        self._db.executemany("INSERT OR REPLACE INTO names VALUES (?, ?, ?)", rows)

    def write(self, batch: Batch) -> None:
        """As `Writer.write`."""
        self._drop(batch.docs[batch.replaces].tolist())
        documents, docs = batch.documents, batch.docs.tolist()
        texts = (documents.image_ids, documents.uris, documents.widths, documents.heights, documents.captions)
        rows = zip(docs, *texts, batch.packed, strict=True)
        self._db.executemany("INSERT INTO docs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        words = _words(documents.tags.tolist(), documents.starts.tolist())
        self._db.executemany("INSERT INTO words (rowid, tags) VALUES (?, ?)", zip(docs, words, strict=True))
        self._change_lists(batch.docs, documents.counts, documents.tags, documents.scores, united)

    def remove(self, docs: Sequence[int], image_ids: Sequence[str]) -> None:
        """As `Writer.remove`."""
        self._drop(docs)

    def _drop(self, docs: Sequence[int]) -> None:
        rows = self._db.execute(f"SELECT doc, tags FROM docs WHERE {_AMONG}", (json.dumps(docs),)).fetchall()
        there = [doc for doc, _ in rows]
        tags = [tags_in(data) for _, data in rows]
        # An FTS5 table without content has to be told which words to take out.
        words = _words([tag for each in tags for tag in each.tolist()], np.cumsum([0, *map(len, tags)]).tolist())
        gone = zip(there, words, strict=True)
        self._db.executemany("INSERT INTO words (words, rowid, tags) VALUES ('delete', ?, ?)", gone)
        self._db.executemany("DELETE FROM docs WHERE doc = ?", ((doc,) for doc in there))
        every = np.concatenate([*tags, np.empty(0, np.int64)])
        counts = np.array([len(each) for each in tags], np.int64)
        self._change_lists(np.array(there, np.int64), counts, every, np.zeros(len(every), np.int64), without)

    def _change_lists(
        self,
        docs: NDArray[np.int64],
        counts: NDArray[np.int64],
        tags: NDArray[np.integer],
        scores: NDArray[np.integer],
        change: Callable[[NDArray[np.uint32], NDArray[np.uint32]], NDArray[np.uint32]],
    ) -> None:
        """Change the lists of all tags of these documents, and that of all documents; an empty list goes.

        counts: tags of each document, whose tags and scores follow each other; change: of the old list and these.
        """
        of_tag = np.concatenate([tags, np.full(len(docs), EVERY)]).astype(np.int64)
        of_doc = np.concatenate([np.repeat(docs, counts), docs])
        of_score = np.concatenate([scores, np.zeros(len(docs), np.int64)]).astype(np.int64)
        for tag, block, postings in by_list(of_tag, of_doc, of_score):
            place = (tag, block)
            row = self._db.execute("SELECT data FROM postings WHERE tag = ? AND block = ?", place).fetchone()
            changed = change(read(b"" if row is None else row[0]), postings)
            if len(changed):
                self._db.execute("INSERT OR REPLACE INTO postings VALUES (?, ?, ?)", (*place, stored(changed)))
            else:
                self._db.execute("DELETE FROM postings WHERE tag = ? AND block = ?", place)

    def commit(self) -> None:
        """As `Writer.commit`: with the ledger, whose transaction it is."""

    def finish(self) -> None:
        """As `Writer.finish`: what the planner of queries goes by."""
        self._db.execute("PRAGMA optimize")

    def close(self) -> None:
        """As `Writer.close`."""
        self._db.close()


class SqliteReader(Reader):
    """Evaluates queries block by block, so that memory does not grow with the index."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path, write=False)

    def find(self, query: Query, limit: int, offset: int) -> tuple[int, list[Found]]:
        """As `Reader.find`."""
        ranking = Ranking(limit + offset)
        with self._one_state():
            for matches in self._matches(query):
                ranking.add(matches)
            return ranking.total, self._page(ranking.page(offset))

    def facets(self, query: Query, tags: int) -> dict[int, int]:
        """As `Reader.facets`."""
        counts = np.zeros(tags, np.int64)
        with self._one_state():
            for matches in self._matches(query):
                # CROSS JOIN keeps SQLite from reading all documents and looking for each in the list.
                rows = self._db.execute(
                    "SELECT tags FROM json_each(?) AS found CROSS JOIN docs ON doc = found.value",
                    (json.dumps(matches.docs.tolist()),),
                )
                while some := rows.fetchmany(_FETCHED):
                    counts += np.bincount(tags_in(b"".join(row[0] for row in some)), minlength=tags)
        return {int(tag): int(counts[tag]) for tag in np.flatnonzero(counts)}

    def close(self) -> None:
        """As `Reader.close`."""
        self._db.close()

    def _matches(self, query: Query) -> Iterator[Matches]:
        """Of every block in which there may be some."""
        expression = query.expression
        tags = tags_of(expression) | query.wanted.keys()
        if holds_for_none(expression):
            tags.add(EVERY)
        listed = ",".join(map(str, sorted(tags)))  # whole numbers that this program made
        blocks = self._db.execute(f"SELECT DISTINCT block FROM postings WHERE tag IN ({listed}) ORDER BY block")
        for (block,) in blocks.fetchall():
            rows = self._db.execute(f"SELECT tag, data FROM postings WHERE block = ? AND tag IN ({listed})", (block,))
            yield Block(block, dict(rows)).matching(expression, query.wanted)

    @contextmanager
    def _one_state(self) -> Iterator[None]:
        """Within, the index is as it was at the first look, whatever is committed meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:  # an error of the disk has ended it
                self._db.execute("COMMIT")

    def _page(self, ranked: Sequence[tuple[int, int]]) -> list[Found]:
        """The documents of these (doc, rank), in this order."""
        columns = "doc, image_id, uri, width, height, caption, tags"
        asked = json.dumps([doc for doc, _ in ranked])
        rows = self._db.execute(f"SELECT {columns} FROM docs WHERE {_AMONG}", (asked,))
        by_doc = {doc: (shown, tags) for doc, *shown, tags in rows}
        # All at once: an array for each document would take as long as all the rest of a query.
        pairs = iter(unpack(b"".join(by_doc[doc][1] for doc, _ in ranked)))
        return [
            Found.of(by_doc[doc][0], rank, list(islice(pairs, len(by_doc[doc][1]) // PAIR_BYTES)))
            for doc, rank in ranked
        ]


_AMONG = "doc IN (SELECT value FROM json_each(?))"


def _words(tags: list[int], starts: list[int]) -> Iterable[str]:
    """The words of each document, separated by blanks."""
    written = list(map(str, tags))
    return (f"{_ALL} {' '.join(written[begin:end])}" for begin, end in pairwise(starts))
