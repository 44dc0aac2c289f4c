"""The index as a DuckDB database, for those who go on with SQL: scans instead of an index, and two views.

docs(doc, image_id, uri, width, height, caption, tags INTEGER[], scores USMALLINT[])   scores: thousandths
names(tag, name, name_zh)
images: docs with the names of the tags         image_tags: a row for each image and tag, scores up to 1
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.index.backend import Batch, Reader, Writer, package
from pipeline.index.documents import Found
from pipeline.index.expression import Expression, Has, as_sql
from pipeline.index.ledger import Ledger, connect
from pipeline.index.names import Names
from pipeline.index.query import Query

_DATA = "index.duckdb"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS docs (
    doc BIGINT, image_id VARCHAR, uri VARCHAR, width INTEGER, height INTEGER, caption VARCHAR,
    tags INTEGER[], scores USMALLINT[]
);
CREATE TABLE IF NOT EXISTS names (tag INTEGER PRIMARY KEY, name VARCHAR, name_zh VARCHAR);
CREATE OR REPLACE VIEW image_tags AS
    SELECT image_id, uri, name AS tag, name_zh AS tag_zh, score / 1000 AS score
    FROM (SELECT image_id, uri, unnest(tags) AS tag, unnest(scores) AS score FROM docs) JOIN names USING (tag);
CREATE OR REPLACE VIEW images AS
    SELECT doc, image_id, uri, width, height, caption,
        [listed[number + 1] FOR number IN tags] AS tags, [score / 1000 FOR score IN scores] AS scores
    FROM docs, (SELECT list(name ORDER BY tag) AS listed FROM names);
"""
_COLUMNS = "image_id, uri, width, height, caption"


class DuckdbWriter(Writer):
    """Documents in DuckDB, the ledger beside it."""

    def __init__(self, folder: Path, state: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ledger_db = connect(state, write=True)
        self.ledger = Ledger(self._ledger_db)
        self._db = _connected(folder, read_only=False)

    def prepare(self, names: Names) -> None:
        """As `Writer.prepare`."""
        self._db.execute(_SCHEMA)
        listed = [names.shown(tag) for tag in range(len(names.tags))]
        columns = {"tag": range(len(listed)), "name": [name for name, _ in listed], "name_zh": [zh for _, zh in listed]}
        self._db.register("given", pa.table({name: list(values) for name, values in columns.items()}))
        self._db.execute("INSERT OR REPLACE INTO names SELECT tag, name, name_zh FROM given")
        self._db.unregister("given")
        self._db.execute("BEGIN")

    def write(self, batch: Batch) -> None:
        """As `Writer.write`."""
        self._delete(batch.docs[batch.replaces].tolist())
        self._db.register("given", _table(batch))
        self._db.execute(f"INSERT INTO docs SELECT doc, {_COLUMNS}, tags, scores FROM given")
        self._db.unregister("given")

    def remove(self, docs: Sequence[int], image_ids: Sequence[str]) -> None:
        """As `Writer.remove`."""
        self._delete(docs)

    def _delete(self, docs: Sequence[int]) -> None:
        if docs:
            self._db.register("gone", pa.table({"doc": pa.array(docs, pa.int64())}))
            self._db.execute("DELETE FROM docs WHERE doc IN (SELECT doc FROM gone)")
            self._db.unregister("gone")

    def commit(self) -> None:
        """As `Writer.commit`."""
        self._db.execute("COMMIT")
        self._db.execute("BEGIN")

    def finish(self) -> None:
        """As `Writer.finish`."""
        self._db.execute("COMMIT")
        self._db.execute("CHECKPOINT")

    def close(self) -> None:
        """As `Writer.close`."""
        self._db.close()
        self._ledger_db.close()


class DuckdbReader(Reader):
    """Each query is one scan of the table, on all cores."""

    def __init__(self, folder: Path, state: Path) -> None:
        self._db = _connected(folder, read_only=True)

    def find(self, query: Query, limit: int, offset: int) -> tuple[int, list[Found]]:
        """As `Reader.find`."""
        condition = _condition(query.expression)
        total = int(self._db.execute(f"SELECT count(*) FROM docs WHERE {condition}").fetchone()[0])
        rows = self._db.execute(
            f"SELECT {_COLUMNS}, {_rank(query.wanted)} AS rank, tags, scores FROM docs WHERE {condition} "
            "ORDER BY rank DESC, doc LIMIT ? OFFSET ?",
            [limit, offset],
        ).fetchall()
        return total, [Found.of(row[:5], row[5], list(zip(row[6], row[7], strict=True))) for row in rows]

    def facets(self, query: Query, tags: int) -> dict[int, int]:
        """As `Reader.facets`."""
        matching = f"SELECT unnest(tags) AS tag FROM docs WHERE {_condition(query.expression)}"
        return dict(self._db.execute(f"SELECT tag, count(*) FROM ({matching}) GROUP BY tag").fetchall())

    def close(self) -> None:
        """As `Reader.close`."""
        self._db.close()


def _connected(folder: Path, read_only: bool) -> Any:
    """DuckDB lets one process write, or several read. Raises StoreError while another has the file."""
    duckdb = package("duckdb", "duckdb")
    try:
        return duckdb.connect(str(folder / _DATA), read_only=read_only)
    except duckdb.IOException as error:
        said = str(error).splitlines()[0]
        raise StoreError(f"{folder}: {said}; wait until no other process feeds or reads it") from error


def _table(batch: Batch) -> pa.Table:
    """A batch as Arrow: doc, image_id, uri, width, height, caption, and lists of tags and scores."""
    documents = batch.documents
    starts = pa.array(documents.starts.astype(np.int32))
    return pa.table(
        {
            "doc": batch.docs,
            "image_id": pa.array(documents.image_ids, pa.string()),
            "uri": pa.array(documents.uris, pa.string()),
            "width": pa.array(documents.widths, pa.int32()),
            "height": pa.array(documents.heights, pa.int32()),
            "caption": pa.array(documents.captions, pa.string()),
            "tags": pa.ListArray.from_arrays(starts, pa.array(documents.tags)),
            "scores": pa.ListArray.from_arrays(starts, pa.array(documents.scores.astype(np.uint16))),
        }
    )


def _condition(expression: Expression) -> str:
    return as_sql(expression, _has, "true")


def _has(expression: Has) -> str:
    if not expression.at_least:
        if len(expression.ids) == 1:
            return f"list_contains(tags, {expression.ids[0]})"
        return f"list_has_any(tags, {list(expression.ids)})"
    each = (f"coalesce({_score(tag)} >= {expression.at_least}, false)" for tag in expression.ids)
    return f"({' OR '.join(each)})"


def _score(tag: int) -> str:
    """Of one tag; null without it."""
    return f"scores[list_position(tags, {tag})]"


def _rank(wanted: dict[int, int]) -> str:
    parts = (
        f"CASE WHEN {_score(tag)} >= {at_least} THEN {_score(tag)}::INTEGER ELSE 0 END"
        for tag, at_least in wanted.items()
    )
    return " + ".join(parts) or "0"
