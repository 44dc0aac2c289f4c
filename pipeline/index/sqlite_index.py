"""The index as one SQLite file, without further packages: FTS5 over tag ids, postings with scores, the documents.

docs(doc, image_id, uri, width, height, caption, tags)   tags: packed, see documents.py
postings(tag, doc, score)                                 score: thousandths
words(tags)                                               FTS5 by doc, without content: the tag ids as words
names(tag, name, name_zh)
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.index.backend import Batch, Reader, Writer
from pipeline.index.documents import Found, tags_in, unpack
from pipeline.index.expression import And, Expression, Has, Not, Or, as_sql, has_scores, simplified, without_scores
from pipeline.index.ledger import Ledger, connect
from pipeline.index.names import Names
from pipeline.index.query import Query

_ALL = "all"
"""A word that every document has: FTS5 knows "this but not that", not "not that"."""
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS docs (doc INTEGER PRIMARY KEY, image_id TEXT NOT NULL, uri TEXT NOT NULL, "
    "width INTEGER, height INTEGER, caption TEXT, tags BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS postings (tag INTEGER, doc INTEGER, score INTEGER NOT NULL, PRIMARY KEY (tag, doc)) "
    "WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS names (tag INTEGER PRIMARY KEY, name TEXT NOT NULL, name_zh TEXT NOT NULL)",
    "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (tags, content = '', detail = none, columnsize = 0)",
)
_FEW_TAGS = 8
"""So many tags of a document are looked up one by one; of more, all postings are read and added up."""
_FETCHED = 65_536
_ROWS = 64


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
        doc_of = np.repeat(batch.docs, documents.counts)
        # In the order of the table, so that its pages are written one after the other.
        order = np.lexsort((doc_of, documents.tags))
        self._write_postings(np.stack([documents.tags[order], doc_of[order], documents.scores[order]], axis=1))

    def _write_postings(self, rows: NDArray[np.int64]) -> None:
        """rows: int64 [n, 3]. Several rows to a statement take less than half the time."""
        whole = len(rows) // _ROWS * _ROWS
        several = f"INSERT INTO postings VALUES {','.join(['(?,?,?)'] * _ROWS)}"
        self._db.executemany(several, rows[:whole].reshape(-1, 3 * _ROWS).tolist())
        self._db.executemany("INSERT INTO postings VALUES (?,?,?)", rows[whole:].tolist())

    def remove(self, docs: Sequence[int], image_ids: Sequence[str]) -> None:
        """As `Writer.remove`."""
        self._drop(docs)

    def _drop(self, docs: Sequence[int]) -> None:
        for doc in docs:
            row = self._db.execute("SELECT tags FROM docs WHERE doc = ?", (doc,)).fetchone()
            if row is None:
                continue
            tags = tags_in(row[0]).tolist()
            # An FTS5 table without content has to be told which words to take out.
            [words] = _words(tags, [0, len(tags)])
            self._db.execute("INSERT INTO words (words, rowid, tags) VALUES ('delete', ?, ?)", (doc, words))
            self._db.executemany("DELETE FROM postings WHERE tag = ? AND doc = ?", ((tag, doc) for tag in tags))
            self._db.execute("DELETE FROM docs WHERE doc = ?", (doc,))

    def commit(self) -> None:
        """As `Writer.commit`: with the ledger, whose transaction it is."""

    def finish(self) -> None:
        """As `Writer.finish`: what the planner of queries goes by."""
        self._db.execute("PRAGMA optimize")

    def close(self) -> None:
        """As `Writer.close`."""
        self._db.close()


class SqliteReader(Reader):
    """Queries without scores are answered by FTS5, those with scores by FTS5 and then by the postings."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path, write=False)

    def find(self, query: Query, limit: int, offset: int) -> tuple[int, list[Found]]:
        """As `Reader.find`. Tags and scores are whole numbers that this program made: they are put into the text."""
        expression = simplified(query.expression)
        with self._one_state():
            if isinstance(expression, Has) and query.wanted == dict.fromkeys(expression.ids[:1], expression.at_least):
                return self._find_one(expression, limit, offset)
            matching, values = _matching(expression)
            if not query.wanted:
                return self._find_unranked(matching, values, limit, offset)
            rows = self._db.execute(
                f"WITH found AS MATERIALIZED ({matching}) SELECT doc, (SELECT count(*) FROM found), "
                f"{_ranked(query.wanted)} ORDER BY rank DESC, doc LIMIT ? OFFSET ?",
                [*values, limit, offset],
            ).fetchall()
            if rows:
                return rows[0][1], self._page([(doc, rank) for doc, _, rank in rows])
            return self._count(matching, values), []

    def _find_one(self, tag: Has, limit: int, offset: int) -> tuple[int, list[Found]]:
        """One tag: its postings, which lie together."""
        matching = f"SELECT doc, score FROM postings WHERE tag = {tag.ids[0]} AND score >= {tag.at_least}"
        rows = self._db.execute(f"{matching} ORDER BY score DESC, doc LIMIT ? OFFSET ?", (limit, offset)).fetchall()
        return self._count(matching, []), self._page(rows)

    def _find_unranked(self, matching: str, values: list[str], limit: int, offset: int) -> tuple[int, list[Found]]:
        """Where only excluded tags are named, all images are of one rank: in the order in which they are found."""
        rows = self._db.execute(
            f"SELECT doc, 0 FROM ({matching}) ORDER BY doc LIMIT ? OFFSET ?", [*values, limit, offset]
        ).fetchall()
        return self._count(matching, values), self._page(rows)

    def _count(self, matching: str, values: list[str]) -> int:
        return int(self._db.execute(f"SELECT count(*) FROM ({matching})", values).fetchone()[0])

    @contextmanager
    def _one_state(self) -> Iterator[None]:
        """Within, the index is as it was at the first look, whatever is committed meanwhile."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def facets(self, query: Query, tags: int) -> dict[int, int]:
        """As `Reader.facets`."""
        counts = np.zeros(tags, np.int64)
        matching, values = _matching(query.expression)
        # CROSS JOIN keeps SQLite from reading all documents and looking for each in the result.
        rows = self._db.execute(f"SELECT tags FROM ({matching}) CROSS JOIN docs USING (doc)", values)
        while some := rows.fetchmany(_FETCHED):
            counts += np.bincount(tags_in(b"".join(row[0] for row in some)), minlength=tags)
        return {int(tag): int(counts[tag]) for tag in np.flatnonzero(counts)}

    def close(self) -> None:
        """As `Reader.close`."""
        self._db.close()

    def _page(self, ranked: list[tuple[int, int]]) -> list[Found]:
        """The documents of these (doc, rank), in this order."""
        listed = ",".join(str(doc) for doc, _ in ranked)
        columns = "doc, image_id, uri, width, height, caption, tags"
        rows = self._db.execute(f"SELECT {columns} FROM docs WHERE doc IN ({listed})")
        by_doc = {doc: (shown, tags) for doc, *shown, tags in rows}
        return [Found.of(by_doc[doc][0], rank, unpack(by_doc[doc][1])) for doc, rank in ranked]


def _words(tags: list[int], starts: list[int]) -> Iterable[str]:
    """The words of each document, separated by blanks."""
    written = list(map(str, tags))
    return (f"{_ALL} {' '.join(written[begin:end])}" for begin, end in pairwise(starts))


def _matching(expression: Expression) -> tuple[str, list[str]]:
    """SQL for the numbers of the documents, as a column `doc`."""
    words = "SELECT rowid AS doc FROM words WHERE words MATCH ?"
    expression = simplified(expression)
    if not has_scores(expression):
        return words, [_match(expression)]
    exact = _condition(expression)
    return f"SELECT doc FROM ({words}) AS w WHERE {exact}", [_match(simplified(without_scores(expression)))]


def _match(expression: Expression) -> str:
    """What FTS5 is asked. expression: simplified, without scores."""
    if isinstance(expression, Has):
        words = " OR ".join(f'"{tag}"' for tag in expression.ids)
        return words if len(expression.ids) == 1 else f"({words})"
    if isinstance(expression, Or):
        return f"({' OR '.join(map(_match, expression.parts))})"
    if isinstance(expression, Not):
        return f'("{_ALL}" NOT {_match(expression.part)})'
    if isinstance(expression, And):
        asked = [_match(part) for part in expression.parts if not isinstance(part, Not)]
        excluded = [_match(part.part) for part in expression.parts if isinstance(part, Not)]
        every = f"({' AND '.join(asked or [_quoted(_ALL)])})"
        return f"({every} NOT ({' OR '.join(excluded)}))" if excluded else every
    return _quoted(_ALL)


def _quoted(word: str) -> str:
    return f'"{word}"'


def _condition(expression: Expression) -> str:
    """What a row with a `doc` has to fulfil."""
    return as_sql(expression, _has, "1")


def _has(has: Has) -> str:
    tags = ",".join(map(str, has.ids))
    reached = f"postings p WHERE p.tag IN ({tags}) AND p.score >= {has.at_least}"
    if len(has.ids) > _FEW_TAGS:
        # With the plus it is a condition only: as a key, SQLite would ask FTS5 for each document by itself.
        return f"+w.doc IN (SELECT p.doc FROM {reached})"
    return f"EXISTS (SELECT 1 FROM {reached} AND p.doc = w.doc)"


def _ranked(wanted: dict[int, int]) -> str:
    """SQL for the rank of the rows of `found`, and where they are selected from."""
    if len(wanted) <= _FEW_TAGS:
        looked_up = (
            f"coalesce((SELECT score FROM postings WHERE tag = {tag} AND doc = found.doc AND score >= {at_least}), 0)"
            for tag, at_least in wanted.items()
        )
        return f"{' + '.join(looked_up) or '0'} AS rank FROM found"
    levels: dict[int, list[int]] = {}
    for tag, at_least in wanted.items():
        levels.setdefault(at_least, []).append(tag)
    either = " OR ".join(
        f"(tag IN ({','.join(map(str, tags))}) AND score >= {level})" for level, tags in levels.items()
    )
    sums = f"SELECT doc, sum(score) AS rank FROM postings WHERE {either} GROUP BY doc"
    return f"coalesce(rank, 0) AS rank FROM found LEFT JOIN ({sums}) USING (doc)"
