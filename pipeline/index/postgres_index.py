"""The index as a schema of a PostgreSQL database, for servers that have one already.

    docs(doc, image_id, uri, width, height, caption, tags text[], tag_ids int[], scores smallint[])
    postings(tag, doc, score)     scores are thousandths; docs has GIN indexes on tags and tag_ids
    names(tag, name, name_zh)     and the tables of the ledger: meta, units, fed

An address is `postgresql://USER@HOST/DATABASE#SCHEMA`; the schema is `ramfleet` where none is named.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipeline.errors import InputError, StoreAwayError, last_line
from pipeline.fetching.redaction import redacted
from pipeline.index.backend import Batch, Reader, Writer, package
from pipeline.index.documents import Found
from pipeline.index.expression import Expression, Has, as_sql
from pipeline.index.ledger import Ledger
from pipeline.index.names import Names
from pipeline.index.query import Query

SCHEMES = ("postgresql://", "postgres://")
_DEFAULT_SCHEMA = "ramfleet"
_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_TABLES = """
CREATE SCHEMA IF NOT EXISTS {schema};
SET search_path TO {schema};
CREATE TABLE IF NOT EXISTS meta (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE IF NOT EXISTS units (unit serial PRIMARY KEY, key text NOT NULL UNIQUE, done boolean NOT NULL);
CREATE TABLE IF NOT EXISTS fed (
    image_id text PRIMARY KEY, doc bigint NOT NULL, hash bigint NOT NULL, unit integer NOT NULL
);
CREATE TABLE IF NOT EXISTS docs (
    doc bigint PRIMARY KEY, image_id text NOT NULL, uri text NOT NULL, width integer, height integer, caption text,
    tags text[] NOT NULL, tag_ids integer[] NOT NULL, scores smallint[] NOT NULL
);
CREATE TABLE IF NOT EXISTS postings (
    tag integer, doc bigint, score smallint NOT NULL, PRIMARY KEY (tag, doc)
);
CREATE TABLE IF NOT EXISTS names (tag integer PRIMARY KEY, name text NOT NULL, name_zh text NOT NULL);
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS docs_tags ON docs USING gin (tags);
CREATE INDEX IF NOT EXISTS docs_tag_ids ON docs USING gin (tag_ids);
"""
_DOCS = "doc, image_id, uri, width, height, caption, tags, tag_ids, scores"


class PostgresLedger(Ledger):
    """The ledger in the same database as the documents."""

    def __init__(self, connection: Any, schema: str) -> None:
        self._pg, self._schema = connection, schema

    def create(self) -> None:
        """As `Ledger.create`."""
        self._pg.execute(_TABLES.format(schema=self._schema))

    def begin(self) -> None:
        """As `Ledger.begin`: a transaction is open at all times."""

    def commit(self) -> None:
        """As `Ledger.commit`."""
        self._pg.commit()

    def get(self, key: str) -> Any:
        """As `Ledger.get`."""
        row = self._pg.execute("SELECT value FROM meta WHERE key = %s", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        """As `Ledger.put`."""
        text = json.dumps(value, ensure_ascii=False)
        query = "INSERT INTO meta VALUES (%s, %s) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
        self._pg.execute(query, (key, text))

    def unit(self, key: str) -> tuple[int, bool]:
        """As `Ledger.unit`."""
        self._pg.execute("INSERT INTO units (key, done) VALUES (%s, false) ON CONFLICT DO NOTHING", (key,))
        number, done = self._pg.execute("SELECT unit, done FROM units WHERE key = %s", (key,)).fetchone()
        return int(number), bool(done)

    def mark_done(self, units: Iterable[int]) -> None:
        """As `Ledger.mark_done`."""
        self._pg.execute("UPDATE units SET done = true WHERE unit = ANY(%s)", (list(units),))

    def mark_undone(self, units: Iterable[int]) -> None:
        """As `Ledger.mark_undone`."""
        self._pg.execute("UPDATE units SET done = false WHERE unit = ANY(%s)", (list(units),))

    def known(self, image_ids: Sequence[str]) -> dict[str, tuple[int, int, int]]:
        """As `Ledger.known`."""
        rows = self._pg.execute(
            "SELECT image_id, doc, hash, unit FROM fed WHERE image_id = ANY(%s)", (list(image_ids),)
        )
        return {image_id: (doc, content, unit) for image_id, doc, content, unit in rows}

    def count(self) -> int:
        """As `Ledger.count`."""
        return int(self._pg.execute("SELECT count(*) FROM fed").fetchone()[0])

    def record(self, rows: Iterable[tuple[str, int, int, int]]) -> None:
        """As `Ledger.record`."""
        self._copied("given (image_id text, doc bigint, hash bigint, unit integer)", rows)
        self._pg.execute(
            "INSERT INTO fed SELECT * FROM given ON CONFLICT (image_id) DO UPDATE "
            "SET doc = excluded.doc, hash = excluded.hash, unit = excluded.unit"
        )

    def move(self, rows: Iterable[tuple[int, str]]) -> None:
        """As `Ledger.move`."""
        self._copied("given (unit integer, image_id text)", rows)
        self._pg.execute("UPDATE fed SET unit = given.unit FROM given WHERE fed.image_id = given.image_id")

    def expect(self, rows: Iterable[tuple[str, int]]) -> None:
        """As `Ledger.expect`: documents and ledger are one transaction, nothing is ever unsure."""

    def settle(self) -> None:
        """As `Ledger.settle`."""

    def recover(self) -> None:
        """As `Ledger.recover`: the server has rolled back what was not committed."""

    def drop_units(self, keep: Iterable[int]) -> None:
        """As `Ledger.drop_units`."""
        self._pg.execute("DELETE FROM units WHERE unit <> ALL(%s)", (list(keep),))

    def stale(self, most: int) -> Iterator[list[tuple[str, int]]]:
        """As `Ledger.stale`."""
        query = "SELECT image_id, doc FROM fed WHERE unit NOT IN (SELECT unit FROM units) LIMIT %s"
        while rows := self._pg.execute(query, (most,)).fetchall():
            yield rows

    def forget(self, image_ids: Iterable[str]) -> None:
        """As `Ledger.forget`."""
        self._pg.execute("DELETE FROM fed WHERE image_id = ANY(%s)", (list(image_ids),))

    def _copied(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Rows in a temporary table `given`."""
        self._pg.execute("DROP TABLE IF EXISTS pg_temp.given")
        self._pg.execute(f"CREATE TEMP TABLE {table}")
        copy_rows(self._pg, "given", rows)


class PostgresWriter(Writer):
    """Documents and ledger in one transaction."""

    transactional = True

    def __init__(self, address: str) -> None:
        self._pg, schema = connected(address)
        self.ledger = PostgresLedger(self._pg, schema)
        # Another feed of the same index waits for this one.
        self._pg.execute("SELECT pg_advisory_lock(hashtext(%s))", (f"ramfleet {schema}",))
        self._names = np.array([], np.str_)

    def prepare(self, names: Names) -> None:
        """As `Writer.prepare`."""
        self._names = np.array(names.tags, dtype=object)
        self._pg.execute("DELETE FROM names")
        copy_rows(self._pg, "names", ((tag, *names.shown(tag)) for tag in range(len(names.tags))))

    def write(self, batch: Batch) -> None:
        """As `Writer.write`."""
        self._delete(batch.docs[batch.replaces].tolist())
        documents, docs = batch.documents, batch.docs.tolist()
        ends = documents.starts[1:-1]
        lists = [[part.tolist() for part in np.split(column, ends)] for column in self._columns(batch)]
        texts = (documents.image_ids, documents.uris, documents.widths, documents.heights, documents.captions)
        if docs:
            copy_rows(self._pg, f"docs ({_DOCS})", zip(docs, *texts, *lists, strict=True))
        doc_of = np.repeat(batch.docs, documents.counts)
        order = np.lexsort((doc_of, documents.tags))
        columns = (documents.tags[order].tolist(), doc_of[order].tolist(), documents.scores[order].tolist())
        # Numbers need no quoting, and are too many to be adapted one by one.
        text = "".join(f"{tag}\t{doc}\t{score}\n" for tag, doc, score in zip(*columns, strict=True))
        with self._pg.cursor() as cursor, cursor.copy("COPY postings FROM STDIN") as copy:
            copy.write(text)

    def _columns(self, batch: Batch) -> tuple[Any, ...]:
        return self._names[batch.documents.tags], batch.documents.tags, batch.documents.scores

    def remove(self, docs: Sequence[int], image_ids: Sequence[str]) -> None:
        """As `Writer.remove`."""
        self._delete(docs)

    def _delete(self, docs: Sequence[int]) -> None:
        listed = (list(docs),)
        self._pg.execute(
            "DELETE FROM postings p USING (SELECT doc, unnest(tag_ids) AS tag FROM docs WHERE doc = ANY(%s)) gone "
            "WHERE p.tag = gone.tag AND p.doc = gone.doc",
            listed,
        )
        self._pg.execute("DELETE FROM docs WHERE doc = ANY(%s)", listed)

    def commit(self) -> None:
        """As `Writer.commit`: with the ledger."""

    def finish(self) -> None:
        """As `Writer.finish`: the GIN indexes come last, when there is much to be put in at once."""
        self._pg.execute(_INDEXES)
        self._pg.execute("ANALYZE docs; ANALYZE postings")
        self._pg.commit()

    def close(self) -> None:
        """As `Writer.close`."""
        self._pg.close()


class PostgresReader(Reader):
    """GIN finds documents by their tags, postings say with which scores."""

    def __init__(self, address: str) -> None:
        self._pg, schema = connected(address)
        # A page and its total are of one state of the index. Compiling a query takes longer than answering it.
        self._pg.execute(
            f"SET search_path TO {schema}; SET default_transaction_isolation TO 'repeatable read'; SET jit TO off"
        )
        self._pg.commit()
        self._ledger = PostgresLedger(self._pg, schema)

    def state(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """What the index says of itself, and its names; None where there is no index."""
        if self._pg.execute("SELECT to_regclass('meta')").fetchone()[0] is None:
            return None, None
        return self._ledger.get("index"), self._ledger.get("names")

    def find(self, query: Query, limit: int, offset: int) -> tuple[int, list[Found]]:
        """As `Reader.find`."""
        condition = _condition(query.expression)
        page = (
            f"SELECT doc, {_rank(query.wanted)} AS rank FROM docs WHERE {condition} "
            f"ORDER BY rank DESC, doc LIMIT {limit} OFFSET {offset}"
        )
        with answering():
            total = int(self._pg.execute(f"SELECT count(*) FROM docs WHERE {condition}").fetchone()[0])
            rows = self._pg.execute(
                "SELECT image_id, uri, width, height, caption, rank, tag_ids, scores "
                f"FROM ({page}) AS page JOIN docs USING (doc) ORDER BY rank DESC, doc"
            ).fetchall()
            self._pg.rollback()
        return total, [Found.of(row[:5], row[5], list(zip(row[6], row[7], strict=True))) for row in rows]

    def facets(self, query: Query, tags: int) -> dict[int, int]:
        """As `Reader.facets`."""
        matching = f"SELECT unnest(tag_ids) AS tag FROM docs WHERE {_condition(query.expression)}"
        with answering():
            rows = self._pg.execute(f"SELECT tag, count(*) FROM ({matching}) AS found GROUP BY tag").fetchall()
            self._pg.rollback()
        return dict(rows)

    def close(self) -> None:
        """As `Reader.close`."""
        self._pg.close()


def connected(address: str) -> tuple[Any, str]:
    """A connection, and the name of the schema. Raises InputError, without the password, if there is none."""
    psycopg = package("psycopg", "postgres")
    url, _, schema = address.partition("#")
    schema = schema or _DEFAULT_SCHEMA
    if not _SCHEMA_NAME.fullmatch(schema):
        raise InputError(f"{redacted(address)}: #{schema} is no schema: give small letters, digits and _")
    try:
        connection = psycopg.connect(url)
        # One round trip after the other, each with its own plan: kept plans do not know which tags are rare.
        connection.prepare_threshold = None
        return connection, schema
    except psycopg.Error as error:
        raise InputError(
            f"{redacted(address)}: cannot be reached: {last_line(error)}; give postgresql://USER@HOST/DATABASE"
        ) from error


@contextmanager
def answering() -> Iterator[None]:
    """Within, a server that goes away raises StoreAwayError."""
    try:
        yield
    except package("psycopg", "postgres").OperationalError as error:
        raise StoreAwayError(f"PostgreSQL: {last_line(error)}") from error


def copy_rows(connection: Any, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Rows into a table by COPY."""
    with connection.cursor() as cursor, cursor.copy(f"COPY {table} FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _condition(expression: Expression) -> str:
    return as_sql(expression, _has, "true")


def _has(expression: Has) -> str:
    tags = f"ARRAY[{','.join(map(str, expression.ids))}]"
    if not expression.at_least:
        return f"tag_ids && {tags}"
    reached = f"p.doc = docs.doc AND p.tag = ANY({tags}) AND p.score >= {expression.at_least}"
    return f"(tag_ids && {tags} AND EXISTS (SELECT FROM postings p WHERE {reached}))"


def _rank(wanted: dict[int, int]) -> str:
    if not wanted:
        return "0"
    levels: dict[int, list[int]] = {}
    for tag, at_least in wanted.items():
        levels.setdefault(at_least, []).append(tag)
    either = " OR ".join(
        f"(asked.tag = ANY(ARRAY[{','.join(map(str, tags))}]) AND asked.score >= {level})"
        for level, tags in levels.items()
    )
    return (
        f"(SELECT coalesce(sum(score), 0)::integer FROM unnest(tag_ids, scores) AS asked (tag, score) WHERE {either})"
    )
