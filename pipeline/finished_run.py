"""A finished run as its readers see it: run.json, and the tables that it lists, batch by batch."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.model_record import vocabulary_of
from pipeline.stores.run_store import RunStore
from pipeline.tables.schemas import FORMAT_VERSION, TELEMETRY_SCHEMA
from ramcore.vocabulary import Vocabulary

REPORT = "report.html"
"""The page of a run, beside its run.json."""
_HOLDS: dict[str, type] = {
    **dict.fromkeys(("status", "finalized_at", "plan_hash"), str),
    **dict.fromkeys(("counts", "parts", "model", "pinned", "versions"), dict),
    "demo": bool,
}
_COUNTS = ("input", "tagged", "rejected", "duplicates", "carried", "missing")
BATCH_ROWS = 65_536
"""Rows that are held in memory at a time."""


@dataclass(frozen=True)
class RowGroup:
    """Rows of a table that are read at once. first: the number of its first row in the table; rows: how many."""

    part: str
    number: int
    first: int
    rows: int


class FinishedRun:
    """The published tables of a run.

    document: what its run.json is about to say, else it is read. Raises InputError for a folder without a run.json
    that can be read.
    """

    def __init__(self, store: RunStore, document: dict[str, Any] | None = None) -> None:
        self.store = store
        self.document = _read_document(store) if document is None else document

    @property
    def root(self) -> str:
        """Path or URL of the run."""
        return self.store.root

    def vocabulary(self) -> Vocabulary:
        """The run's vocabulary, with the thresholds that its tags were decided by."""
        return vocabulary_of(self._read("vocabulary.parquet"))

    def rows(self, table: str) -> int:
        """Rows of one of the tables, from the footers of its parts."""
        return sum(self._footer(part).num_rows for part in self._parts(table))

    def has(self, table: str) -> bool:
        """Whether the run has the table at all, with rows or without."""
        return bool(self._parts(table))

    def table(self, table: str) -> pa.Table:
        """A whole table, all columns; for the small ones."""
        return pa.concat_tables([self._read(part) for part in self._parts(table)])

    def telemetry(self) -> pa.Table:
        """A row of TELEMETRY_SCHEMA for each attempt; none where no attempt was recorded."""
        return self.table("telemetry") if self.has("telemetry") else TELEMETRY_SCHEMA.empty_table()

    def batches(self, table: str, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """The rows of "tags", "rejects", "duplicates" or "telemetry", these columns only."""
        for part in self._parts(table):
            with self._opened(part) as file:
                yield from pq.ParquetFile(file).iter_batches(batch_size=rows, columns=list(columns))

    def row_groups(self, table: str) -> list[RowGroup]:
        """The pieces that a row can be read from without the rest of its table."""
        groups: list[RowGroup] = []
        first = 0
        for part in self._parts(table):
            footer = self._footer(part)
            for number in range(footer.num_row_groups):
                rows = int(footer.row_group(number).num_rows)
                groups.append(RowGroup(part, number, first, rows))
                first += rows
        return groups

    def row_group(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """One of them, these columns only."""
        with self._opened(group.part) as file, pq.ParquetFile(file) as parquet:
            return parquet.read_row_group(group.number, columns=list(columns))

    def _read(self, part: str) -> pa.Table:
        with self._opened(part) as file:
            return pq.read_table(file)

    def _footer(self, part: str) -> Any:
        with self._opened(part) as file:
            return pq.ParquetFile(file).metadata

    @contextmanager
    def _opened(self, part: str) -> Iterator[BinaryIO]:
        """An object of the run. Raises InputError for what is not there, or is not as it was written."""
        try:
            with self.store.open(part) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{self.root}/{part} is missing or damaged; `ramfleet finalize {self.root}` writes it again"
            ) from error

    def _parts(self, table: str) -> list[str]:
        parts: list[str] = self.document["parts"].get(table, [])
        return parts


def published(store: RunStore) -> dict[str, Any] | None:
    """What run.json says, None where there is none. Raises InputError for one that cannot be read."""
    return _read_document(store) if store.exists("run.json") else None


def _read_document(store: RunStore) -> dict[str, Any]:
    name = f"{store.root}/run.json"
    again = f"`ramfleet finalize {store.root}` writes it again"
    try:
        document: dict[str, Any] = json.loads(store.read("run.json"))
        version = document["format_version"]
    except FileNotFoundError as error:
        raise InputError(
            f"{store.root} holds no finished run: there is no run.json in it; "
            f"`ramfleet finalize {store.root}` publishes what is done of an unfinished one"
        ) from error
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{name} is damaged; {again}") from error
    if version != FORMAT_VERSION:
        raise InputError(f"{store.root}: run.json has format_version {version}, not {FORMAT_VERSION}")
    wrong = [key for key, holds in _HOLDS.items() if not isinstance(document.get(key), holds)]
    wrong += [
        f"counts.{key}" for key in _COUNTS if "counts" not in wrong and not _is_count(document["counts"].get(key))
    ]
    if wrong:
        raise InputError(f"{name} has no {', '.join(wrong)}, or not as it should be; {again}")
    return document


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0
