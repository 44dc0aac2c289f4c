"""Parquet files that hold images: cells are read in the order of rows, as a plan's chunks ask for them."""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.fetching.members import Cell
from pipeline.fetching.outcome import FetchError
from pipeline.fetching.range_file import RangeFile

_MOST_CURSORS = 4
_BATCH_ROWS = 8
_WINDOW_BYTES = 128 << 20
"""Rows that were passed are kept up to so many bytes: fetches run side by side, a little out of order."""

Opener = Callable[[str], BinaryIO | RangeFile]


class ImageTables:
    """Cells of Parquet files; a few files stay open, each with a window of rows around what was read last.

    open_file: uri → file, seekable. Blocks; to be called from threads.
    """

    def __init__(self, open_file: Opener) -> None:
        self._open = open_file
        self._lock = threading.Lock()
        self._cursors: OrderedDict[tuple[str, str, int], _Cursor] = OrderedDict()

    def read(self, cell: Cell, most: int) -> tuple[bytes | None, str | None]:
        """(image bytes, path beside them in the struct), either of them None where null. Raises FetchError."""
        key = (cell.container, cell.column, cell.group)
        cursor = self._cursor(key)
        try:
            data, path = cursor.row(cell.row)
        except FetchError:
            self.forget(cell)
            raise
        except (pa.ArrowException, OSError, IndexError, KeyError) as error:
            self.forget(cell)
            raise cursor.failure or _damaged(error) from error
        if data is not None and len(data) > most:
            raise FetchError("too_large", f"{len(data)} bytes, over fetch.max_image_bytes={most}")
        return data, path

    def forget(self, cell: Cell) -> None:
        """Open the cell's file anew when it is needed next: a reading of it hangs or has failed."""
        with self._lock:
            self._cursors.pop((cell.container, cell.column, cell.group), None)

    def _cursor(self, key: tuple[str, str, int]) -> "_Cursor":
        with self._lock:
            if key not in self._cursors:
                self._cursors[key] = _Cursor(self._open, *key)
                if len(self._cursors) > _MOST_CURSORS:
                    self._cursors.popitem(last=False)
            self._cursors.move_to_end(key)
            return self._cursors[key]


class _Cursor:
    """One column of one row group, read forwards; a row that has left the window starts it again."""

    def __init__(self, open_file: Opener, container: str, column: str, group: int) -> None:
        self._open, self._container, self._column, self._group = open_file, container, column, group
        self._lock = threading.Lock()
        self._file: Any = None
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._window: deque[tuple[int, pa.Array]] = deque()
        self._next = 0
        self._rows = -1

    @property
    def failure(self) -> FetchError | None:
        """Why the file could not be read, where that was no fault of the Parquet in it."""
        return self._file.failure if isinstance(self._file, RangeFile) else None

    def row(self, row: int) -> tuple[bytes | None, str | None]:
        with self._lock:
            if self._rows < 0 or (row < self._next and (not self._window or row < self._window[0][0])):
                self._start()
            if row >= self._rows:
                raise FetchError("not_found", f"row {row} of row group {self._group}: there are only {self._rows} rows")
            while row >= self._next:
                self._advance()
            start, column = next(entry for entry in reversed(self._window) if entry[0] <= row)
            return _cell(column, row - start)

    def _start(self) -> None:
        self._file = self._open(self._container)
        parquet = pq.ParquetFile(self._file, buffer_size=1 << 20)
        if self._group >= parquet.num_row_groups:
            raise FetchError("not_found", f"row group {self._group}: there are only {parquet.num_row_groups}")
        names = parquet.schema_arrow.names
        column = self._column if self._column in names else self._column.removesuffix(".bytes")
        if column not in names:
            raise FetchError("not_found", f"there is no column {self._column[:80]!r}")
        self._rows = parquet.metadata.row_group(self._group).num_rows
        self._batches = parquet.iter_batches(_BATCH_ROWS, [self._group], [column], use_threads=False)
        self._window.clear()
        self._next = 0

    def _advance(self) -> None:
        batch = next(self._batches, None)
        if batch is None or not batch.num_rows:
            raise FetchError("truncated", "the Parquet file has fewer rows than it says")
        self._window.append((self._next, batch.column(0)))
        self._next += batch.num_rows
        while len(self._window) > 1 and sum(column.nbytes for _, column in self._window) > _WINDOW_BYTES:
            self._window.popleft()


def _cell(column: pa.Array, row: int) -> tuple[bytes | None, str | None]:
    value = column[row].as_py()
    if isinstance(value, dict):
        data, path = value.get("bytes"), value.get("path")
    else:
        data, path = value, None
    if not isinstance(data, bytes | type(None)):
        raise FetchError("unsupported_uri", f"the column is of type {column.type}, which holds no images")
    return data, path if isinstance(path, str) and path else None


def _damaged(error: BaseException) -> FetchError:
    return FetchError("truncated", f"the Parquet file is damaged: {' '.join(str(error).split())[:150]}")
