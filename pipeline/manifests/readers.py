"""Readers of manifest files: the names of their columns, and their rows as Arrow batches, never the whole file.

Every reader gives the columns it is asked for: `text` columns as strings, `keep` columns with the types of
the file. All of them name file and line (where the parser knows it) in an InputError.
"""

import csv
import gzip
import itertools
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.fetching.outcome import FetchError

MANIFEST_EXTENSIONS = (".parquet", ".csv", ".tsv", ".jsonl", ".json", ".txt")
"""Endings of manifests; all but .parquet may be followed by .gz."""

_MAX_LINE_BYTES = 64 * 1024 * 1024


def manifest_extension(path: str) -> str | None:
    """One of MANIFEST_EXTENSIONS that a file's name ends with, or None; behind it may be .gz, but not for Parquet."""
    lower = path.lower()
    name = lower.removesuffix(".gz")
    extension = next((known for known in MANIFEST_EXTENSIONS if name.endswith(known)), None)
    return None if name != lower and extension == ".parquet" else extension


@dataclass(frozen=True)
class Source:
    """A manifest file. name: of the file, whose ending says what it is; label: how messages call it; opener: opens it
    for reading and seeking; folder: in front of relative uris; batch_rows: rows of a batch at most."""

    name: str
    label: str
    opener: Callable[[], Any]
    folder: str
    batch_rows: int

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The content, decompressed."""
        with self.opener() as raw:
            if not self.name.lower().endswith(".gz"):
                yield raw
                return
            with gzip.GzipFile(fileobj=raw) as unpacked:
                yield cast(BinaryIO, unpacked)

    @property
    def extension(self) -> str | None:
        """One of MANIFEST_EXTENSIONS, or None where the name has none of them."""
        return manifest_extension(self.name)

    def error(self, detail: str) -> InputError:
        """An InputError about this file."""
        return InputError(f"INPUT {self.label}: {detail}")


class Reader(Protocol):
    """A manifest that is open for reading.

    image_bytes: columns that hold images themselves, not uris; group_rows: rows of each row group, of Parquet only.
    """

    image_bytes: list[str]
    group_rows: list[int]

    def names(self) -> list[str]:
        """Names of the columns, in the file's order."""

    def batches(self, text: Sequence[str], keep: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """All rows in order; columns `text` (type string, nullable) and then `keep` (types of the file).

        Of the types of the file, dictionaries and views become what they stand for.
        """


def open_reader(source: Source) -> Reader:
    """The reader for the file's ending; the ending must be a known one."""
    readers: dict[str | None, Callable[[Source], Reader]] = {
        ".parquet": _Parquet,
        ".csv": lambda source: _Csv(source, ","),
        ".tsv": lambda source: _Csv(source, "\t"),
        ".jsonl": _Json,
        ".json": _Json,
        ".txt": _Text,
    }
    return readers[source.extension](source)


@contextmanager
def _explained(source: Source, what: str) -> Iterator[None]:
    """Faults of file and parser as an InputError that names the file."""
    try:
        yield
    except pa.ArrowException as error:
        raise source.error(f"{what}: {_one_line(error)}") from error
    except FetchError as error:
        raise source.error(str(error)) from error
    except (EOFError, zlib.error) as error:
        raise source.error(f"its compressed data is damaged or cut: {_one_line(error)}; write it again") from error
    except OSError as error:
        raise source.error(error.strerror or f"{what}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


class _Parquet:
    def __init__(self, source: Source) -> None:
        self._source = source
        with self._file() as file:
            self._schema: pa.Schema = file.schema_arrow
            groups = range(file.metadata.num_row_groups)
            self.group_rows = [file.metadata.row_group(group).num_rows for group in groups]
        cells = (_image_column(field) for field in self._schema)
        self.image_bytes = [column for column in cells if column]

    def names(self) -> list[str]:
        return list(self._schema.names)

    def batches(self, text: Sequence[str], keep: Sequence[str]) -> Iterator[pa.RecordBatch]:
        wanted = [*text, *keep]
        if not wanted:
            yield from self._bare_batches()
            return
        for name in keep:
            kind = self._schema.field(name).type
            if not pa.types.is_dictionary(kind) and _has_dictionary(kind):
                raise self._source.error(
                    f"manifest.keep: column {name!r} of type {kind} cannot be kept; "
                    "leave it out, or write it without dictionary encoding"
                )
        with self._file() as file, _explained(self._source, "damaged Parquet"):
            for batch in file.iter_batches(self._source.batch_rows, columns=wanted):
                texts = [_as_text(batch.column(name), name, self._source) for name in text]
                kept = [_plain(batch.column(name)) for name in keep]
                yield pa.RecordBatch.from_arrays([*texts, *kept], names=wanted)

    def _bare_batches(self) -> Iterator[pa.RecordBatch]:
        """All rows without a column: only their number counts."""
        for rows in self.group_rows:
            for start in range(0, rows, self._source.batch_rows):
                nothing = pa.array([{}] * min(self._source.batch_rows, rows - start), pa.struct([]))
                yield pa.RecordBatch.from_struct_array(nothing)

    @contextmanager
    def _file(self) -> Iterator[pq.ParquetFile]:
        with _explained(self._source, "not a Parquet file"), self._source.open() as handle:
            yield pq.ParquetFile(handle)


def _image_column(field: pa.Field) -> str | None:
    """How a column of images is called by uris of its cells, or None for other columns."""
    binary = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view)
    kind = field.type
    if pa.types.is_struct(kind):  # as Hugging Face writes images: {bytes, path}
        types = {child.name: child.type for child in kind.fields}
        is_image = types.keys() == {"bytes", "path"} and any(test(types["bytes"]) for test in binary)
        return f"{field.name}.bytes" if is_image else None
    is_named = field.name in ("bytes", "image_bytes")
    return field.name if is_named and any(test(kind) for test in binary) else None


def _plain(column: pa.Array) -> pa.Array:
    """Without dictionary encoding, as each batch would have its own, and without views, which no row is taken of."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    plain = _plain_type(column.type)
    return column if plain == column.type else column.cast(plain)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """The type with string and binary in the place of views, at any depth of lists, structs and maps."""
    if kind.id in _OF_VIEWS:
        return _OF_VIEWS[kind.id]
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(field) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(_plain_field(kind.key_field), _plain_field(kind.item_field), kind.keys_sorted)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    return kind


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain_type(field.type))


def _has_dictionary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return True
    return any(_has_dictionary(kind.field(index).type) for index in range(kind.num_fields))


_OF_VIEWS = {pa.string_view().id: pa.string(), pa.binary_view().id: pa.binary()}


def _as_text(column: pa.Array, name: str, source: Source) -> pa.Array:
    column, kind = _plain(column), pa.types
    known = (kind.is_string, kind.is_large_string, kind.is_string_view, kind.is_null)
    numbers = (kind.is_integer, kind.is_floating, kind.is_decimal)
    if not any(test(column.type) for test in (*known, *numbers)):
        raise source.error(f"column {name!r} is of type {column.type}; it must hold text or numbers")
    return column.cast(pa.string())


class _Csv:
    """Every column is text, as it stands in the file: leading zeros stay.

    Read by Python's strict parser, not by Arrow's: at a quote that is not closed, or is closed many rows later,
    Arrow silently takes all rows up to there for one field. This one is slower, but fails, and knows the line.
    """

    def __init__(self, source: Source, delimiter: str) -> None:
        self.image_bytes: list[str] = []
        self.group_rows: list[int] = []
        self._source = source
        self._delimiter = delimiter

    def names(self) -> list[str]:
        return next(self._rows(), [])

    def batches(self, text: Sequence[str], keep: Sequence[str]) -> Iterator[pa.RecordBatch]:
        wanted = [*text, *keep]
        rows = self._rows()
        header = next(rows)
        places = [header.index(name) for name in wanted]
        while batch := list(itertools.islice(rows, self._source.batch_rows)):
            columns = [pa.array([row[place] for row in batch], pa.string()) for place in places]
            yield pa.RecordBatch.from_arrays(columns, names=wanted)

    def _rows(self) -> Iterator[list[str]]:
        """The header and the rows, all with as many fields; blank lines are no rows."""
        reader = csv.reader(_texts(self._source, blank=True), delimiter=self._delimiter, strict=True)
        fields = None
        try:
            for row in reader:
                if fields is None and not "".join(row).strip():
                    continue  # before the header
                fields = fields or len(row)
                if len(row) == fields:
                    yield row
                elif row:
                    start = self._delimiter.join(row)[:80]
                    raise self._source.error(
                        f"line {reader.line_num}: {len(row)} fields instead of the header's {fields}: {start!r}; "
                        "put fields that hold the separator in double quotes"
                    )
        except csv.Error as error:
            raise self._source.error(
                f"line {reader.line_num}: {_one_line(error)}; look for a quote that is not closed, or not doubled"
            ) from error


class _Text:
    """One uri a line, with the blanks around it, as names may have them; blank lines are no rows."""

    def __init__(self, source: Source) -> None:
        self.image_bytes: list[str] = []
        self.group_rows: list[int] = []
        self._source = source

    def names(self) -> list[str]:
        return ["uri"]

    def batches(self, text: Sequence[str], keep: Sequence[str]) -> Iterator[pa.RecordBatch]:
        lines = _texts(self._source, blank=False)
        while uris := [line.rstrip("\r\n") for line in itertools.islice(lines, self._source.batch_rows)]:
            yield pa.RecordBatch.from_arrays([pa.array(uris, pa.string())], names=["uri"])


def _texts(source: Source, blank: bool) -> Iterator[str]:
    for number, line in _lines(source, blank):
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise source.error(f"line {number}: not UTF-8; save the file as UTF-8") from error


def _lines(source: Source, blank: bool) -> Iterator[tuple[int, bytes]]:
    """The lines, without the blank ones if not `blank`, with their numbers from 1 and without byte order mark."""
    with _explained(source, "not text"), source.open() as file:
        read_line = file.readline  # once: fsspec's files look it up anew each time
        for number in itertools.count(1):
            line = read_line(_MAX_LINE_BYTES)
            if not line:
                return
            if len(line) >= _MAX_LINE_BYTES:
                raise source.error(f"line {number} has more than {_MAX_LINE_BYTES} bytes: this is no manifest of lines")
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if blank or line.strip():
                yield number, line


_Record = tuple[str, dict[str, Any]]
"""Where a JSON object stands in its file ("line 7", "item 7"), and the object."""


class _Json:
    """JSON Lines, or, in a .json file that begins with [, a list of objects."""

    def __init__(self, source: Source) -> None:
        self.image_bytes: list[str] = []
        self.group_rows: list[int] = []
        self._source = source
        with _explained(source, "not JSON"), source.open() as file:
            start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        self._list = self._load_list() if source.extension == ".json" and start.startswith(b"[") else None

    def names(self) -> list[str]:
        """Keys of the first batch of objects: a later object may lack some."""
        found: dict[str, None] = {}
        for _, record in next(self._batches(), []):
            found.update(dict.fromkeys(record))
        return list(found)

    def batches(self, text: Sequence[str], keep: Sequence[str]) -> Iterator[pa.RecordBatch]:
        types = self._types(keep)
        for records in self._batches():
            texts = [self._array(records, name, pa.string(), self._text) for name in text]
            kept = [self._array(records, name, types[name], None) for name in keep]
            yield pa.RecordBatch.from_arrays([*texts, *kept], names=[*text, *keep])

    def _types(self, keep: Sequence[str]) -> dict[str, pa.DataType]:
        """The type of each kept column that holds all its values; that takes reading the file once more."""
        schema = pa.schema([(name, pa.null()) for name in keep])
        for records in self._batches() if keep else ():
            arrays = [self._array(records, name, None, None) for name in keep]
            found = pa.schema([(name, array.type) for name, array in zip(keep, arrays, strict=True)])
            try:
                schema = pa.unify_schemas([schema, found], promote_options="permissive")
            except pa.ArrowException as error:
                raise self._source.error(f"a kept column changes its type: {_one_line(error)}") from error
        return {field.name: pa.string() if pa.types.is_null(field.type) else field.type for field in schema}

    def _array(
        self,
        records: list[_Record],
        name: str,
        kind: pa.DataType | None,
        convert: Callable[[Any, str, str], str | None] | None,
    ) -> pa.Array:
        values = [record.get(name) for _, record in records]
        if convert:
            values = [convert(value, name, place) for value, (place, _) in zip(values, records, strict=True)]
        try:
            return pa.array(values, kind)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            places = f"{records[0][0]} to {records[-1][0]}"
            raise self._source.error(f"{places}: column {name!r} has no common type: {_one_line(error)}") from error

    def _text(self, value: Any, name: str, place: str) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, float) and value.is_integer():
            return str(int(value))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise self._source.error(f"{place}: {name!r} is {json.dumps(value)[:80]}; it must be text or a number")

    def _batches(self) -> Iterator[list[_Record]]:
        batch: list[_Record] = []
        for place, value in self._values():
            if not isinstance(value, dict):
                raise self._source.error(f'{place}: not an object; write rows like {{"uri": "a.jpg"}}')
            batch.append((place, value))
            if len(batch) == self._source.batch_rows:
                yield batch
                batch = []
        if batch:
            yield batch

    def _values(self) -> Iterator[tuple[str, Any]]:
        if self._list is not None:
            yield from ((f"item {number}", value) for number, value in enumerate(self._list, 1))
            return
        for number, line in _lines(self._source, blank=False):
            try:
                yield f"line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:  # also UnicodeDecodeError
                raise self._source.error(f"line {number}: not JSON: {_one_line(error)}") from error

    def _load_list(self) -> list[Any]:
        with _explained(self._source, "not JSON"), self._source.open() as file:
            try:
                values: list[Any] = json.loads(file.read())
            except (ValueError, RecursionError) as error:
                raise self._source.error(f"not a JSON list: {_one_line(error)}") from error
        return values
