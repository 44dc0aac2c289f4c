"""Which rows of an input repeat an earlier one, found on disk: memory does not grow with the number of rows."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

FIRST, DUPLICATE, OTHER_URI = 0, 1, 2
"""What a row is: the first of its id; the same id and uri as an earlier row; the id of an earlier row, another uri."""

_PARTITION_ROWS = 250_000
_PARTITION_BYTES = 64 * 1024 * 1024
_MOST_PARTITIONS = 512
"""Each is an open file; at 1,024 many systems stop."""

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
        self._text_bytes = 0

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
                self._text_bytes += ids.nbytes + uris.nbytes

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
        needed = max(-(-self.rows // _PARTITION_ROWS), -(-self._text_bytes // _PARTITION_BYTES), 1)
        partitions = min(needed, _MOST_PARTITIONS)
        for rows in self._partitioned(partitions):
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

    def _partitioned(self, partitions: int) -> Iterator[pa.Table]:
        """All rows, as `_numbered`, in so many tables by id; in each the rows are in order."""
        if partitions == 1:
            yield pa.concat_tables(self._numbered())
            return
        paths = [self.folder / f"partition-{number}.arrow" for number in range(partitions)]
        with ExitStack() as stack:
            writers: dict[int, pa.RecordBatchStreamWriter] = {}
            for table in self._numbered():
                for number, rows in _split(table, partitions):
                    if number not in writers:
                        writers[number] = stack.enter_context(
                            pa.ipc.new_stream(paths[number], table.schema, options=_COMPRESSED)
                        )
                    writers[number].write_table(rows)
        for number in writers:
            with pa.OSFile(str(paths[number])) as file, pa.ipc.open_stream(file) as reader:
                yield reader.read_all()
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
