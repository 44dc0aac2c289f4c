"""Which rows of an input repeat an earlier one, found on disk: memory does not grow with the number of rows."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

FIRST, DUPLICATE, OTHER_URI, CARRIED = 0, 1, 2, 3
"""What a row is: the first of its id; the same id and uri as an earlier row; the id of an earlier row, another uri;
the first of its id, and tagged already by a base run."""

_PARTITION_ROWS = 250_000
_PARTITION_BYTES = 64 * 1024 * 1024
_MOST_PARTITIONS = 512
"""Each is an open file; at 1,024 many systems stop."""

_CACHED_BATCHES = 4

_COMPRESSED = pa.ipc.IpcWriteOptions(compression="lz4")

Flags = npt.NDArray[np.uint8]


class Spool:
    """The rows of an input in a temporary file, to be read more than once.

    folder: a temporary folder that the caller removes. After `fill`: rows: how many; schema: of the batches.
    After `find_repeats`: duplicates, other_uris: how many rows are DUPLICATE and OTHER_URI.
    """

    def __init__(self, folder: Path) -> None:
        self.rows = 0
        self.duplicates = 0
        self.other_uris = 0
        self.schema: pa.Schema = pa.schema([])
        self.folder = folder
        self._file = folder / "rows.arrow"
        self.text_bytes = 0
        self._batch_rows: list[int] = []
        self._cached: dict[int, pa.Table] = {}

    def fill(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Write all batches. Raises ValueError for a null id or uri, or if the schema changes."""
        with ExitStack() as stack:
            writer: pa.RecordBatchFileWriter | None = None
            for batch in batches:
                if writer is None:
                    self.schema = batch.schema
                    writer = stack.enter_context(pa.ipc.new_file(self._file, batch.schema, options=_COMPRESSED))
                ids, uris = batch.column("image_id"), batch.column("uri")
                if batch.schema != self.schema or ids.null_count or uris.null_count:
                    raise ValueError("rows: batches must have one schema, and neither null ids nor null uris")
                writer.write_batch(batch)
                self.rows += batch.num_rows
                self._batch_rows.append(batch.num_rows)
                self.text_bytes += ids.nbytes + uris.nbytes

    def tables(self, flags: Flags) -> Iterator[tuple[pa.Table, Flags]]:
        """The rows in order, with their flags (of `find_repeats`)."""
        first = 0
        for table in self._tables():
            yield table, np.asarray(flags[first : first + table.num_rows])
            first += table.num_rows

    def find_repeats(self) -> Flags:
        """uint8 [rows], in a memory-mapped file: FIRST, DUPLICATE or OTHER_URI of each row.

        Rows with equal ids come into the same partition, by a hash of the id; a partition fits into memory, and
        in it ids and uris are compared as they are, not by their hashes.
        """
        flags = np.memmap(self.folder / "flags", np.uint8, "w+", shape=(max(self.rows, 1),))
        partitions = partitions_for(self.rows, self.text_bytes)
        for _, rows in partitioned(self._numbered(), partitions, self.folder):
            numbers, found = _repeats(rows)
            flags[numbers] = found
            self.duplicates += int(np.count_nonzero(found == DUPLICATE))
            self.other_uris += int(np.count_nonzero(found == OTHER_URI))
        return flags

    def _tables(self) -> Iterator[pa.Table]:
        with pa.OSFile(str(self._file)) as file, pa.ipc.open_file(file) as reader:
            for index in range(reader.num_record_batches):
                yield pa.Table.from_batches([reader.get_batch(index)])

    def _numbered(self) -> Iterator[pa.Table]:
        """image_id, uri (large_string: a partition may hold more than 2 GB of text) and row, the row's number."""
        first = 0
        for table in self._tables():
            row = pa.array(np.arange(first, first + table.num_rows))
            columns = [table[name].cast(pa.large_string()) for name in ("image_id", "uri")]
            yield pa.table([*columns, row], names=["image_id", "uri", "row"])
            first += table.num_rows

    def narrow(self, flags: Flags, more: list[str]) -> Iterator[pa.Table]:
        """The rows that are FIRST, as image_id, uri, `more` (all large_string) and row, the row's number."""
        first = 0
        for table, found in self.tables(flags):
            row = pa.array(np.arange(first, first + table.num_rows))
            first += table.num_rows
            texts = [table[name].cast(pa.large_string()) for name in ("image_id", "uri", *more)]
            narrow = pa.table([*texts, row], names=["image_id", "uri", *more, "row"])
            yield narrow.filter(pa.array(found == FIRST))

    def take(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        """Rows by number, in the order asked for; batches that were read last are kept, as askers go in order."""
        if not len(rows):
            return self.schema.empty_table()
        starts = self._starts
        batches = np.searchsorted(starts, rows, side="right") - 1
        order = np.argsort(batches, kind="stable")
        present, first = np.unique(batches[order], return_index=True)
        pieces = [
            self._batch(int(batch)).take(pa.array(rows[chosen] - starts[batch]))
            for batch, chosen in zip(present, np.split(order, first[1:]), strict=True)
        ]
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return pa.concat_tables(pieces).take(pa.array(back))

    @cached_property
    def _starts(self) -> npt.NDArray[np.int64]:
        """Number of the first row of each batch."""
        return np.concatenate([[0], np.cumsum(self._batch_rows)[:-1]]).astype(np.int64)

    def _batch(self, number: int) -> pa.Table:
        if number not in self._cached:
            if len(self._cached) >= _CACHED_BATCHES:
                self._cached.pop(next(iter(self._cached)))
            with pa.OSFile(str(self._file)) as file, pa.ipc.open_file(file) as reader:
                self._cached[number] = pa.Table.from_batches([reader.get_batch(number)])
        return self._cached[number]


def partitions_for(rows: int, text_bytes: int) -> int:
    """Into how many partitions so many rows, with so many bytes of text, are cut so that each fits into memory."""
    needed = max(-(-rows // _PARTITION_ROWS), -(-text_bytes // _PARTITION_BYTES), 1)
    return min(needed, _MOST_PARTITIONS)


def partitioned(tables: Iterator[pa.Table], partitions: int, folder: Path) -> Iterator[tuple[int, pa.Table]]:
    """(partition, rows): all rows of `tables`, parted by the hash of image_id; within a partition in their order.

    Every partition that has rows comes once, in order of number. folder: for temporary files.
    """
    if partitions == 1:
        found = list(tables)
        if found:
            yield 0, pa.concat_tables(found)
        return
    paths = [folder / f"partition-{uuid.uuid4().hex[:8]}-{number}.arrow" for number in range(partitions)]
    with ExitStack() as stack:
        writers: dict[int, pa.RecordBatchStreamWriter] = {}
        for table in tables:
            for number, rows in _split(table, partitions):
                if number not in writers:
                    writers[number] = stack.enter_context(
                        pa.ipc.new_stream(paths[number], table.schema, options=_COMPRESSED)
                    )
                writers[number].write_table(rows)
    for number in sorted(writers):
        with pa.OSFile(str(paths[number])) as file, pa.ipc.open_stream(file) as reader:
            yield number, reader.read_all()
        paths[number].unlink()


def _split(table: pa.Table, partitions: int) -> Iterator[tuple[int, pa.Table]]:
    """The rows of each partition that has any, in their order."""
    hashes = pd.util.hash_array(table["image_id"].to_numpy(zero_copy_only=False), categorize=False)
    numbers = (hashes % np.uint64(partitions)).astype(np.int64)
    order = np.argsort(numbers, kind="stable")
    present, starts = np.unique(numbers[order], return_index=True)
    sorted_rows = table.take(pa.array(order))
    for number, start, end in zip(present, starts, [*starts[1:], len(order)], strict=True):
        yield int(number), sorted_rows.slice(start, end - start)


def _repeats(rows: pa.Table) -> tuple[npt.NDArray[np.int64], Flags]:
    """(number, flag) of the rows of a partition that are not the first of their id."""
    ids, uris = _codes(rows["image_id"]), _codes(rows["uri"])
    later = ~_is_first(ids)
    pairs = ids * (len(uris) + 1) + uris
    flags = np.where(_is_first(pairs), OTHER_URI, DUPLICATE).astype(np.uint8)
    return rows["row"].to_numpy()[later], flags[later]


def _codes(texts: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Equal numbers for equal texts."""
    codes: npt.NDArray[np.int64] = texts.combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    return codes


def _is_first(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each code has not occurred before."""
    first = np.zeros(len(codes), np.bool_)
    first[np.unique(codes, return_index=True)[1]] = True
    return first
