"""Rows in, Parquet parts of a folder out, named by their content."""

import hashlib
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.stores.run_store import RunStore

_NAME = re.compile(r"/part-\d+-([0-9a-f]{16})\.parquet$")
_PART_BYTES = 256 << 20
"""A part is closed when it has grown to this size."""
GROUP_ROWS = 16_384
"""Rows of a part's row group: what is held in memory at a time."""


class PartWriter:
    """Writes the parts of one folder of a run; scratch: a local folder for the part that grows."""

    def __init__(self, store: RunStore, prefix: str, scratch: Path, columns: list[str]) -> None:
        self._store, self._prefix, self._columns = store, prefix, columns
        self._path = scratch / f"{prefix.strip('/')}.parquet"
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self._names: list[str] = []
        self._rows: list[int] = []
        self._waiting_rows = self._part_rows = 0

    def add(self, table: pa.Table) -> None:
        """Append the rows, of the columns that were named."""
        self._waiting.append(table.select(self._columns))
        self._waiting_rows += table.num_rows
        if self._waiting_rows >= GROUP_ROWS:
            self._flush()

    def close(self) -> list[str]:
        """The names of all parts; there is one, without rows perhaps, if any table was added."""
        self._flush()
        self._end_part()
        return self._names

    def close_with_rows(self) -> list[tuple[str, int]]:
        """(name, rows) of all parts, as `close`."""
        return list(zip(self.close(), self._rows, strict=True))

    def _flush(self) -> None:
        if not self._waiting:
            return
        table = pa.concat_tables(self._waiting).combine_chunks()
        self._waiting.clear()
        self._waiting_rows = 0
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)
        self._part_rows += table.num_rows
        if self._path.stat().st_size >= _PART_BYTES:
            self._end_part()

    def _end_part(self) -> None:
        if self._writer is None:
            return
        self._writer.close()
        self._writer = None
        with self._path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = _part_name(self._prefix, len(self._names), digest)
        self._store.upload(name, self._path)
        self._path.unlink()
        self._names.append(name)
        self._rows.append(self._part_rows)
        self._part_rows = 0


def create_part(store: RunStore, prefix: str, number: int, data: bytes) -> str:
    """Write one part whose bytes are there already; its name."""
    name = _part_name(prefix, number, hashlib.sha256(data).hexdigest())
    store.create(name, data)
    return name


def digest_of(name: str) -> str | None:
    """The first digits of the sha256 of a part's content, as its name has them; None if it is no part's name."""
    found = _NAME.search(name)
    return found[1] if found else None


def _part_name(prefix: str, number: int, digest: str) -> str:
    return f"{prefix}part-{number:05d}-{digest[:16]}.parquet"
