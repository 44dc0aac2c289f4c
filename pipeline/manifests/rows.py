"""Rows of a manifest: its columns chosen, its uris made absolute, an id for each."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ManifestConfig
from pipeline.fetching.members import Cell
from pipeline.fetching.redaction import column_without_credentials
from pipeline.manifests.readers import Reader, Source, open_reader
from pipeline.tables.names import Naming
from pipeline.tables.schemas import IMAGE_FIELDS, TAG_FIELDS, to_parquet

URI_COLUMNS = ("uri", "url", "path", "image_path", "URL")
"""Names of the manifest column that says where an image is; the first of these that is there."""

ID_COLUMNS = ("image_id", "id", "key", "__key__")
"""Names of the manifest column with the image's id; the first of these that is there."""

_RESERVED = {
    *("image_id", "uri", "chunk", "planned_error"),
    *(field.name for field in (*IMAGE_FIELDS, *TAG_FIELDS)),
    *Naming(grounding_prompt=True, joined=True).extra_columns,
}


def manifest_rows(
    source: Source, config: ManifestConfig, location: str, id_prefix: str = ""
) -> Iterator[pa.RecordBatch]:
    """image_id, uri, kept columns of all rows; location: the file's uri, for images that it holds itself.

    id_prefix: in front of "row:<n>", the id where there is none, to tell several files apart.
    Raises InputError.
    """
    reader = open_reader(source)
    uri_column, id_column = _choose(reader, source, config)
    cells = reader.image_bytes[0] if config.image_bytes and reader.image_bytes else None
    text = [column for column in (uri_column, id_column) if column]
    first_row = 0
    for batch in reader.batches(text, config.keep):
        if first_row == 0:
            _check_kept(source, config.keep, batch.schema.types[len(text) :])
        if batch.num_rows:
            missing = pa.nulls(batch.num_rows, pa.string())
            written = pc.fill_null(batch.column(0), "") if uri_column else missing
            ids = batch.column(len(text) - 1) if id_column else missing
            if cells:
                uris = _cells(location, cells, reader.group_rows, first_row, batch.num_rows)
            else:
                uris = _absolute(written, source.folder)
            columns = [_ids(ids, written, first_row, id_prefix), uris, *batch.columns[len(text) :]]
            yield pa.RecordBatch.from_arrays(columns, names=["image_id", "uri", *config.keep])
        first_row += batch.num_rows


def _choose(reader: Reader, source: Source, config: ManifestConfig) -> tuple[str | None, str | None]:
    """The columns that hold uri and id. Raises InputError if there is neither uri nor image, or for a wrong `keep`."""
    names = reader.names()
    if not names:
        raise source.error("the manifest is empty; write a header, or one object a line, and one row for each image")
    found = ", ".join(map(repr, names[:50]))
    uri_column = next((name for name in URI_COLUMNS if name in names), None)
    if uri_column is None and not (config.image_bytes and reader.image_bytes):
        remedy = ", or set manifest.image_bytes=true" if reader.image_bytes else ""
        raise source.error(f"no column of uris; found {found}; name one of them {', '.join(URI_COLUMNS)}{remedy}")
    id_column = next((name for name in ID_COLUMNS if name in names), None)
    for name in config.keep:
        if name not in names:
            raise source.error(f"manifest.keep names {name!r}, which is no column; found {found}")
        if name in _RESERVED or config.keep.count(name) > 1:
            reason = "is named twice" if config.keep.count(name) > 1 else "is a column of the output itself; rename it"
            raise source.error(f"manifest.keep: {name!r} {reason}")
    for name in {name for name in (uri_column, id_column, *config.keep) if name}:
        if names.count(name) > 1:
            raise source.error(f"two columns are named {name!r}; rename one")
    return uri_column, id_column


def _check_kept(source: Source, keep: tuple[str, ...], types: list[pa.DataType]) -> None:
    """Raises InputError for a column that a plan cannot select rows of, or cannot write."""
    for name, kind in zip(keep, types, strict=True):
        try:
            to_parquet(pa.table({name: pa.nulls(1, kind)}).take(pa.array([0])))
        except pa.ArrowException as error:
            raise source.error(
                f"manifest.keep: column {name!r} of type {kind} cannot be kept; leave it out, or write it as text"
            ) from error


def _ids(ids: pa.Array, written: pa.Array, first_row: int, prefix: str) -> pa.Array:
    """The manifest's ids; where there is none its uris, less their signatures; "row:<n>" without both."""
    found = pc.coalesce(_null_if_empty(ids), column_without_credentials(_null_if_empty(written)))
    if found.null_count:
        rows = pc.cast(pa.array(np.arange(first_row, first_row + len(found))), pa.string())
        found = pc.coalesce(found, pc.binary_join_element_wise(f"{prefix}row:", rows, ""))
    return found


def _null_if_empty(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _absolute(uris: pa.Array, folder: str) -> pa.Array:
    """Relative uris with the folder in front; absolute paths, uris with a scheme and "" as they are."""
    stays = pc.match_substring_regex(uris, r"^(/|$|[A-Za-z][A-Za-z0-9+.\-]*://)")
    relative = pc.replace_substring_regex(uris, r"^(\./+)+", "")
    return pc.if_else(stays, uris, pc.binary_join_element_wise(folder.rstrip("/"), relative, "/"))


def _cells(location: str, column: str, group_rows: list[int], first_row: int, rows: int) -> pa.Array:
    """Uris of the cells of so many rows of a Parquet file."""
    ends = np.cumsum(group_rows)
    numbers = np.arange(first_row, first_row + rows)
    groups = np.searchsorted(ends, numbers, side="right")
    within = numbers - (ends - group_rows)[groups]
    start = Cell(location, column, 0, 0).uri.removesuffix("group=0&row=0")
    texts = (pc.cast(pa.array(values), pa.string()) for values in (groups, within))
    group_texts, row_texts = texts
    return pc.binary_join_element_wise(f"{start}group=", group_texts, "&row=", row_texts, "")
