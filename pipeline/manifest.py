"""INPUT, whatever it is, as a stream of rows: an id, a uri, and the columns that are kept."""

import itertools
import os
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import InputError
from pipeline.listing import IMAGE_EXTENSIONS, glob_matches, is_glob, is_image_name, split_glob, storable, walk
from pipeline.manifest_readers import MANIFEST_EXTENSIONS, Reader, Source, open_reader
from pipeline.names import Naming
from pipeline.tables import IMAGE_FIELDS, TAG_FIELDS, to_parquet
from ramcore.errors import ImageError
from ramcore.imageformats import identify

Kind = Literal["picture", "directory", "glob", "manifest"]

URI_COLUMNS = ("uri", "url", "path", "image_path", "URL")
"""Names of the manifest column that says where an image is; the first of these that is there."""

ID_COLUMNS = ("image_id", "id", "key", "__key__")
"""Names of the manifest column with the image's id; the first of these that is there."""

BATCH_ROWS = 65_536
"""Rows of a batch at most."""

_RESERVED = {
    *("image_id", "uri", "chunk", "planned_error"),
    *(field.name for field in (*IMAGE_FIELDS, *TAG_FIELDS)),
    *Naming(grounding_prompt=True, joined=True).extra_columns,
}


@dataclass
class _Tally:
    """How many files of a directory were passed over so far."""

    skipped: int = 0


class Input:
    """INPUT, opened and known to have at least one row.

    uri: as it was given; kind: what it turned out to be; schema: image_id: string, uri: string, then the kept
    columns with the types of the manifest, without dictionaries and views (CSV and TSV: string).
    """

    def __init__(self, uri: str, kind: Kind, batches: Iterator[pa.RecordBatch], tally: _Tally) -> None:
        first = next(batches, None)
        if first is None:
            raise _empty(uri, kind, tally)
        self.uri = uri
        self.kind = kind
        self.schema: pa.Schema = first.schema
        self._tally = tally
        self._batches: Iterator[pa.RecordBatch] | None = itertools.chain([first], batches)

    @property
    def skipped(self) -> int:
        """Files of a directory that are no images by their name, as far as the batches have been read."""
        return self._tally.skipped

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in order, in batches of 1 to BATCH_ROWS rows; can be read once.

        image_id and uri are never null. A row without uri has the uri "". Raises InputError where the rest of
        the input turns out to be damaged.
        """
        if self._batches is None:
            raise RuntimeError("the rows of an Input can be read only once; open it again")
        batches, self._batches = self._batches, None
        return batches


def open_input(
    uri: str, keep: Sequence[str] = (), filesystem: AbstractFileSystem | None = None, batch_rows: int = BATCH_ROWS
) -> Input:
    """Open a picture, a directory, a glob or a manifest.

    - Directory: all files below it whose extension is that of an image (IMAGE_EXTENSIONS), sorted by name within
      each folder; names that begin with a dot are passed over. Glob: all files that match, of any extension.
    - Manifest: .parquet .csv .tsv .jsonl .json .txt, the text ones also with .gz; columns URI_COLUMNS, ID_COLUMNS
      and those of `keep`. A relative uri is relative to the manifest's folder. Text is UTF-8.

    uri of a row: the absolute path for local files. Its image_id: from the manifest; without one (or where it is
    null or empty) the uri as the manifest has it; "row:<n>", n from 0, where that is missing too. For directories,
    globs and pictures the path relative to the folder in front, so that ids stay when the folder moves.

    keep: manifest columns to carry along. filesystem: where uri lies, if not on local disk.
    Raises InputError that says what is wrong with INPUT, and what to do.
    """
    fs = filesystem or LocalFileSystem()
    path = _local_path(uri) if filesystem is None else fs._strip_protocol(uri)
    kind = _kind(fs, path, uri)
    if keep and kind != "manifest":
        raise InputError(f"manifest.keep={list(keep)}: INPUT {uri} is a {kind} and has no columns; leave it out")
    tally = _Tally()
    if kind == "manifest":
        rows = _manifest_rows(Source(fs, path, uri, batch_rows), tuple(keep))
    else:
        rows = _listed_rows(fs, path, kind, batch_rows, tally)
    return Input(uri, kind, _explained(uri, rows), tally)


def still_there(uri: str) -> bool:
    """Whether a local INPUT can be reached now: its file, or its folder with anything in it.

    An empty folder counts as gone: it is what a mount leaves behind.
    """
    path = _local_path(uri)
    if is_glob(path) and not os.path.lexists(path):
        path = split_glob(path)[0]
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except NotADirectoryError:
        return True
    except OSError:
        return False


def _local_path(uri: str) -> str:
    """The absolute local path that a path or a file:// uri names."""
    scheme, separator, rest = uri.partition("://")
    if not uri:
        raise InputError("INPUT is empty; give a folder, a glob, a picture or a manifest")
    if not separator:
        return os.path.abspath(uri)
    host, _, path = rest.partition("/")
    if scheme.lower() != "file" or host not in ("", "localhost"):
        raise InputError(f"INPUT {uri}: {scheme}:// is not read yet; copy or mount it, and give its local path")
    return os.path.abspath(os.fsdecode(unquote_to_bytes("/" + path)))


def _kind(fs: AbstractFileSystem, path: str, uri: str) -> Kind:
    if fs.isdir(path):
        return "directory"
    if not fs.exists(path):
        if is_glob(path):
            return "glob"
        raise InputError(f"INPUT {uri}: there is no such file or folder; it was looked for at {path}")
    if not fs.isfile(path):
        raise InputError(f"INPUT {uri}: a pipe, socket or device, which cannot be read twice; give a file or a folder")
    if Source(fs, path, uri, 1).extension:
        return "manifest"
    if is_image_name(path) or _starts_as_picture(fs, path, uri):
        return "picture"
    raise InputError(
        f"INPUT {uri}: neither a picture nor a manifest; give a folder, a glob, a picture, or a manifest "
        f"({' '.join(MANIFEST_EXTENSIONS)})"
    )


def _starts_as_picture(fs: AbstractFileSystem, path: str, uri: str) -> bool:
    try:
        with fs.open(path, "rb") as file:
            identify(file.read(1024))
    except ImageError:
        return False
    except OSError as error:
        raise InputError(f"INPUT {uri}: {error.strerror or error}") from error
    return True


def _explained(uri: str, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, with faults of the file system and of Arrow as an InputError."""
    try:
        yield from batches
    except OSError as error:
        raise InputError(f"INPUT {uri}: {error.filename or ''}: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise InputError(f"INPUT {uri}: {' '.join(str(error).split())[:300]}") from error


def _empty(uri: str, kind: Kind, tally: _Tally) -> InputError:
    if kind == "directory":
        endings = " ".join(sorted(IMAGE_EXTENSIONS))
        return InputError(
            f"INPUT {uri}: no images in this folder; {tally.skipped} files have other extensions than {endings}"
        )
    if kind == "glob":
        return InputError(f"INPUT {uri}: no file matches; put the pattern in quotes, and use ** for any depth")
    return InputError(f"INPUT {uri}: the manifest has no rows; write one row for each image")


def _listed_rows(
    fs: AbstractFileSystem, path: str, kind: Kind, batch_rows: int, tally: _Tally
) -> Iterator[pa.RecordBatch]:
    """Rows of a directory, a glob or one picture."""
    if kind == "glob":
        root, paths = glob_matches(fs, path)
        if not fs.isdir(root):
            return
    elif kind == "directory":
        root, paths = path, _images_only(walk(fs, path), tally)
    else:
        root, paths = posixpath.dirname(path), iter([posixpath.basename(path)])
    while names := list(itertools.islice(paths, batch_rows)):
        if kind == "glob" and all(name.lower().endswith((*MANIFEST_EXTENSIONS, ".gz")) for name in names):
            raise InputError(f"INPUT {path}: matches manifests, not images; give one manifest")
        if isinstance(fs, LocalFileSystem):
            uris = [storable(posixpath.join(root, name), uri=True) for name in names]
        else:
            uris = [fs.unstrip_protocol(posixpath.join(root, name)) for name in names]
        columns = [pa.array(map(storable, names), pa.string()), pa.array(uris, pa.string())]
        yield pa.RecordBatch.from_arrays(columns, names=["image_id", "uri"])


def _images_only(paths: Iterator[str], tally: _Tally) -> Iterator[str]:
    for path in paths:
        if is_image_name(path):
            yield path
        else:
            tally.skipped += 1


def _manifest_rows(source: Source, keep: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    reader = open_reader(source)
    uri_column, id_column = _choose(reader, source, keep)
    folder = posixpath.dirname(source.path)
    if not isinstance(source.fs, LocalFileSystem):
        folder = source.fs.unstrip_protocol(folder)
    text = [uri_column, *([id_column] if id_column else [])]
    first_row = 0
    for batch in reader.batches(text, keep):
        if first_row == 0:
            _check_kept(source, keep, batch.schema.types[len(text) :])
        if batch.num_rows:
            yield _row_batch(batch, id_column is not None, folder, first_row, keep)
        first_row += batch.num_rows


def _choose(reader: Reader, source: Source, keep: tuple[str, ...]) -> tuple[str, str | None]:
    """The columns that hold uri and id. Raises InputError if there is no uri, or if `keep` cannot be kept."""
    names = reader.names()
    if not names:
        raise source.error("the manifest is empty; write a header, or one object a line, and one row for each image")
    found = ", ".join(map(repr, names[:50]))
    uri_column = next((name for name in URI_COLUMNS if name in names), None)
    if uri_column is None and reader.image_bytes:
        raise source.error(
            f"column {reader.image_bytes[0]!r} holds images themselves, which is not read yet; "
            f"write the images to files and give a column {URI_COLUMNS[0]!r}"
        )
    if uri_column is None:
        raise source.error(f"no column of uris; found {found}; name one of them {', '.join(URI_COLUMNS)}")
    id_column = next((name for name in ID_COLUMNS if name in names), None)
    for name in keep:
        if name not in names:
            raise source.error(f"manifest.keep names {name!r}, which is no column; found {found}")
        if name in _RESERVED or keep.count(name) > 1:
            reason = "is named twice" if keep.count(name) > 1 else "is a column of the output itself; rename it"
            raise source.error(f"manifest.keep: {name!r} {reason}")
    for name in {uri_column, *keep, *([id_column] if id_column else [])}:
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


def _row_batch(
    batch: pa.RecordBatch, has_id: bool, folder: str, first_row: int, keep: tuple[str, ...]
) -> pa.RecordBatch:
    """image_id, uri, kept columns from a reader's batch of uri, id (if has_id), kept columns."""
    written = pc.fill_null(batch.column(0), "")
    ids = _null_if_empty(written)
    if has_id:
        ids = pc.coalesce(_null_if_empty(batch.column(1)), ids)
    if ids.null_count:
        rows = pc.cast(pa.array(np.arange(first_row, first_row + batch.num_rows)), pa.string())
        ids = pc.coalesce(ids, pc.binary_join_element_wise("row:", rows, ""))
    kept = batch.columns[2 if has_id else 1 :]
    return pa.RecordBatch.from_arrays([ids, _absolute(written, folder), *kept], names=["image_id", "uri", *keep])


def _null_if_empty(texts: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(texts, ""), pa.scalar(None, pa.string()), texts)


def _absolute(uris: pa.Array, folder: str) -> pa.Array:
    """Relative uris with the folder in front; absolute paths, uris with a scheme and "" as they are."""
    stays = pc.match_substring_regex(uris, r"^(/|$|[A-Za-z][A-Za-z0-9+.\-]*://)")
    relative = pc.replace_substring_regex(uris, r"^(\./+)+", "")
    return pc.if_else(stays, uris, pc.binary_join_element_wise(folder.rstrip("/"), relative, "/"))
