"""The index as a folder of tantivy, the search engine in Rust.

doc     number, to delete by      tags   ids, to count by
codes   terms, see codes.py       about, packed   what is shown of an image
"""

import json
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.index.backend import Batch, Reader, Writer, package
from pipeline.index.codes import above, codes, has, level, values
from pipeline.index.documents import Found, unpack
from pipeline.index.expression import And, Expression, Has, Not, Or
from pipeline.index.ledger import Ledger, connect
from pipeline.index.names import Names
from pipeline.index.query import Query

_DATA = "tantivy"
_HEAP_BYTES = 128 << 20
_MOST_THREADS = 4
_EMPTY_PAGE = 1
"""tantivy refuses a page of no documents."""


class TantivyWriter(Writer):
    """Documents in tantivy, the ledger beside it."""

    def __init__(self, folder: Path, state: Path) -> None:
        tantivy = package("tantivy", "tantivy")
        (folder / _DATA).mkdir(parents=True, exist_ok=True)
        self._db = connect(state, write=True)
        self.ledger = Ledger(self._db)
        self._document, self._terms = tantivy.Document, tantivy.Query.term_set_query
        self._schema = _schema(tantivy)
        index = tantivy.Index(self._schema, path=str(folder / _DATA))
        self._writer = index.writer(_HEAP_BYTES, min(_MOST_THREADS, os.cpu_count() or 1))

    def prepare(self, names: Names) -> None:
        """As `Writer.prepare`: names are in the ledger."""

    def write(self, batch: Batch) -> None:
        """As `Writer.write`."""
        self._delete(batch.docs[batch.replaces].tolist())
        documents = batch.documents
        tags, terms = documents.tags.tolist(), codes(documents.tags, documents.scores).ravel().tolist()
        texts = (documents.image_ids, documents.uris, documents.widths, documents.heights, documents.captions)
        about, ends = zip(*texts, strict=True), pairwise(documents.starts.tolist())
        rows = zip(batch.docs.tolist(), batch.packed, ends, about, strict=True)
        for doc, packed, (begin, end), shown in rows:
            fields = {
                "doc": doc,
                "codes": terms[3 * begin : 3 * end],
                "tags": tags[begin:end],
                "about": json.dumps(shown).encode(),
                "packed": packed,
            }
            self._writer.add_document(self._document.from_dict(fields, self._schema))

    def remove(self, docs: Sequence[int], image_ids: Sequence[str]) -> None:
        """As `Writer.remove`."""
        self._delete(docs)

    def _delete(self, docs: Sequence[int]) -> None:
        if docs:
            # By term, the package takes a number for a signed one, and deletes nothing from an unsigned field.
            self._writer.delete_documents_by_query(self._terms(self._schema, "doc", list(docs)))

    def commit(self) -> None:
        """As `Writer.commit`."""
        self._writer.commit()

    def finish(self) -> None:
        """As `Writer.finish`: waits for merges that are under way."""
        self._writer.wait_merging_threads()

    def close(self) -> None:
        """As `Writer.close`."""
        del self._writer
        self._db.close()


class TantivyReader(Reader):
    """Sums of constant scores make the rank: whole numbers, exact in float32 up to 16,000 tags."""

    def __init__(self, folder: Path, state: Path) -> None:
        tantivy = package("tantivy", "tantivy")
        self._schema = _schema(tantivy)
        self._searcher = tantivy.Index(self._schema, path=str(folder / _DATA)).searcher()
        self._query, self._must = tantivy.Query, tantivy.Occur.Must
        self._should, self._must_not = tantivy.Occur.Should, tantivy.Occur.MustNot

    def find(self, query: Query, limit: int, offset: int) -> tuple[int, list[Found]]:
        """As `Reader.find`."""
        ranked = self._all((self._must, self._scored(self._matching(query.expression), 0)), *self._rank(query.wanted))
        page = self._searcher.search(ranked, limit=max(limit, _EMPTY_PAGE), offset=offset)
        hits = page.hits[:limit]
        return page.count, [self._found(round(rank), address) for rank, address in hits]

    def facets(self, query: Query, tags: int) -> dict[int, int]:
        """As `Reader.facets`."""
        asked = {"tags": {"terms": {"field": "tags", "size": tags}}}
        buckets = self._searcher.aggregate(self._matching(query.expression), asked)["tags"]["buckets"]
        return {int(bucket["key"]): int(bucket["doc_count"]) for bucket in buckets}

    def close(self) -> None:
        """As `Reader.close`."""
        del self._searcher

    def _found(self, rank: int, address: Any) -> Found:
        document = self._searcher.doc(address)
        shown = json.loads(bytes(document.get_first("about")))
        return Found.of(shown, rank, unpack(bytes(document.get_first("packed"))))

    def _matching(self, expression: Expression) -> Any:
        if isinstance(expression, Has):
            return self._has(expression)
        if isinstance(expression, Not):
            return self._all((self._must, self._query.all_query()), (self._must_not, self._matching(expression.part)))
        if isinstance(expression, And):
            return self._all(*((self._must, self._matching(part)) for part in expression.parts))
        if isinstance(expression, Or):
            return self._all(*((self._should, self._matching(part)) for part in expression.parts))
        return self._query.all_query()

    def _has(self, expression: Has) -> Any:
        if not expression.at_least:
            return self._any([has(tag) for tag in expression.ids])
        return self._all(*((self._should, self._reaches(tag, expression.at_least)) for tag in expression.ids))

    def _reaches(self, tag: int, at_least: int) -> Any:
        high, lows = level(tag, at_least)
        equal = self._all((self._must, self._any([high])), (self._must, self._any(lows)))
        return self._all((self._should, self._any(above(tag, at_least))), (self._should, equal))

    def _rank(self, wanted: dict[int, int]) -> Iterable[tuple[Any, Any]]:
        for tag, at_least in wanted.items():
            terms = [(self._should, self._scored(self._any([term]), value)) for term, value in values(tag)]
            if not at_least:
                yield from terms
                continue
            reaches = (self._must, self._scored(self._reaches(tag, at_least), 0))
            yield self._should, self._all(reaches, *terms)

    def _any(self, terms: list[int]) -> Any:
        if len(terms) == 1:
            return self._query.term_query(self._schema, "codes", terms[0], "basic")
        return self._query.term_set_query(self._schema, "codes", terms)

    def _all(self, *clauses: tuple[Any, Any]) -> Any:
        return self._query.boolean_query(list(clauses))

    def _scored(self, query: Any, score: int) -> Any:
        return self._query.const_score_query(query, float(score))


def _schema(tantivy: Any) -> Any:
    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("doc", indexed=True)
    builder.add_unsigned_field("codes", indexed=True)
    builder.add_unsigned_field("tags", fast=True)
    builder.add_bytes_field("about", stored=True)
    builder.add_bytes_field("packed", stored=True)
    return builder.build()
