"""The index as a Lance dataset, beside whatever else is kept there, embeddings for one.

doc, image_id, uri, width, height, caption
tags     names; LABEL_LIST index, for `array_has(tags, 'dog')`
codes    terms, see codes.py; LABEL_LIST index
packed   tags and scores as bytes, see documents.py
"""

from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.index.backend import Batch, Reader, Writer, package
from pipeline.index.codes import above, codes, has, level
from pipeline.index.documents import Found, pairs_in, tags_in, unpack
from pipeline.index.expression import Expression, Has, as_sql
from pipeline.index.ledger import Ledger, connect
from pipeline.index.names import Names
from pipeline.index.query import Query

_DATA = "images.lance"
_OLD_VERSIONS = timedelta(hours=1)
"""Who has begun to read a version has so long until it may be gone."""
_MOST_SCANNED = 0.1
"""The share of the documents that the indexes may lack."""
# Of 64 bits: of fewer, Lance casts the column in every filter, and does not use its index.
_SCHEMA = pa.schema(
    [
        ("doc", pa.int64()),
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("caption", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("codes", pa.list_(pa.int64())),
        ("packed", pa.binary()),
    ]
)
_INDEXES = {"doc": "BTREE", "tags": "LABEL_LIST", "codes": "LABEL_LIST"}
_SHOWN = ("image_id", "uri", "width", "height", "caption")


class LanceWriter(Writer):
    """Documents in Lance, the ledger beside it."""

    def __init__(self, folder: Path, state: Path) -> None:
        self._lance = package("lance", "lance")
        folder.mkdir(parents=True, exist_ok=True)
        self._path = str(folder / _DATA)
        self._db = connect(state, write=True)
        self.ledger = Ledger(self._db)
        self._names = pa.array([], pa.string())

    def prepare(self, names: Names) -> None:
        """As `Writer.prepare`."""
        self._names = pa.array(names.tags, pa.string())
        if not Path(self._path).exists():
            self._lance.write_dataset(_SCHEMA.empty_table(), self._path)

    def write(self, batch: Batch) -> None:
        """As `Writer.write`."""
        self._delete(batch.docs[batch.replaces].tolist())
        self._lance.write_dataset(self._table(batch), self._path, mode="append")

    def remove(self, docs: Sequence[int], image_ids: Sequence[str]) -> None:
        """As `Writer.remove`."""
        self._delete(docs)

    def _delete(self, docs: Sequence[int]) -> None:
        if docs:
            self._lance.dataset(self._path).delete(f"doc IN ({','.join(map(str, docs))})")

    def commit(self) -> None:
        """As `Writer.commit`: every write was one."""

    def finish(self) -> None:
        """As `Writer.finish`: makes the indexes; again when much has come since, for what they lack is scanned."""
        dataset = self._lance.dataset(self._path)
        rows = dataset.count_rows()
        if not rows:
            return
        dataset.optimize.compact_files()
        # `optimize_indices` takes twenty times as long as new indexes do.
        indexed = {index.field_names[0]: index.num_rows_indexed for index in dataset.describe_indices()}
        for column, kind in _INDEXES.items():
            if rows - indexed.get(column, 0) > _MOST_SCANNED * rows:
                dataset.create_scalar_index(column, kind, replace=True)
        dataset.cleanup_old_versions(_OLD_VERSIONS)

    def close(self) -> None:
        """As `Writer.close`."""
        self._db.close()

    def _table(self, batch: Batch) -> pa.Table:
        documents = batch.documents
        starts = documents.starts.astype(np.int32)
        terms = codes(documents.tags, documents.scores).ravel()
        columns = {
            "doc": batch.docs,
            "image_id": documents.image_ids,
            "uri": documents.uris,
            "width": documents.widths,
            "height": documents.heights,
            "caption": documents.captions,
            "tags": pa.ListArray.from_arrays(pa.array(starts), self._names.take(pa.array(documents.tags))),
            "codes": pa.ListArray.from_arrays(pa.array(3 * starts), pa.array(terms)),
            "packed": batch.packed,
        }
        return pa.table(columns, schema=_SCHEMA)


class LanceReader(Reader):
    """The index finds the documents; their ranks are summed up here."""

    def __init__(self, folder: Path, state: Path) -> None:
        self._dataset = package("lance", "lance").dataset(str(folder / _DATA))

    def find(self, query: Query, limit: int, offset: int) -> tuple[int, list[Found]]:
        """As `Reader.find`."""
        docs, ranks = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for batch in self._batches(query, ["doc", "packed"]):
            docs.append(batch["doc"].to_numpy())
            ranks.append(_ranks(batch["packed"].to_pylist(), query.wanted))
        all_docs, all_ranks = np.concatenate(docs), np.concatenate(ranks)
        page = np.lexsort((all_docs, -all_ranks))[offset : offset + limit]
        return len(all_docs), self._found(all_docs[page].tolist(), all_ranks[page].tolist())

    def facets(self, query: Query, tags: int) -> dict[int, int]:
        """As `Reader.facets`."""
        counts = np.zeros(tags, np.int64)
        for batch in self._batches(query, ["packed"]):
            counts += np.bincount(tags_in(b"".join(batch["packed"].to_pylist())), minlength=tags)
        return {int(tag): int(counts[tag]) for tag in np.flatnonzero(counts)}

    def close(self) -> None:
        """As `Reader.close`."""
        del self._dataset

    def _batches(self, query: Query, columns: list[str]) -> Iterator[pa.RecordBatch]:
        batches: Any = self._dataset.scanner(columns=columns, filter=_condition(query.expression)).to_batches()
        yield from batches

    def _found(self, docs: list[int], ranks: list[int]) -> list[Found]:
        if not docs:
            return []
        listed = f"doc IN ({','.join(map(str, docs))})"
        rows = self._dataset.scanner(columns=["doc", *_SHOWN, "packed"], filter=listed).to_table().to_pylist()
        by_doc = {row["doc"]: row for row in rows}
        pages = ((by_doc[doc], rank) for doc, rank in zip(docs, ranks, strict=True))
        return [Found.of([row[name] for name in _SHOWN], rank, unpack(row["packed"])) for row, rank in pages]


def _ranks(packed: list[bytes], wanted: dict[int, int]) -> NDArray[np.int64]:
    """The rank of each document, int64 [n]."""
    tags, scores = pairs_in(b"".join(packed))
    least = np.full(max([*wanted, *tags.tolist(), 0]) + 1, np.iinfo(np.int64).max)
    for tag, at_least in wanted.items():
        least[tag] = at_least
    counted = np.where(scores >= least[tags], scores, 0)
    ends = np.cumsum([0, *(len(one) // 4 for one in packed)])
    sums = np.concatenate([[0], np.cumsum(counted)])
    return np.asarray(sums[ends[1:]] - sums[ends[:-1]])


def _condition(expression: Expression) -> str:
    return as_sql(expression, _has, "(doc >= 0)")


def _has(expression: Has) -> str:
    if not expression.at_least:
        return _any([has(tag) for tag in expression.ids])
    return f"({' OR '.join(_reaches(tag, expression.at_least) for tag in expression.ids)})"


def _reaches(tag: int, at_least: int) -> str:
    high, lows = level(tag, at_least)
    equal = f"({_any([high])} AND {_any(lows)})"
    greater = above(tag, at_least)
    return f"({_any(greater)} OR {equal})" if greater else equal


def _any(terms: list[int]) -> str:
    return f"array_has_any(codes, {terms})"
