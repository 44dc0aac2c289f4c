"""INPUT, whatever it is, as a stream of rows: an id, a uri, and the columns that are kept."""

import itertools
import posixpath
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pyarrow as pa

from pipeline.config import Config, ManifestConfig
from pipeline.errors import InputError
from pipeline.fetching.outcome import FetchError
from pipeline.manifests.archive_rows import is_tar, tar_rows
from pipeline.manifests.listing import IMAGE_EXTENSIONS, is_image_name, storable
from pipeline.manifests.permission import checked
from pipeline.manifests.places import Place, place_of
from pipeline.manifests.readers import MANIFEST_EXTENSIONS, Source, manifest_extension
from pipeline.manifests.remote_listing import ListedName
from pipeline.manifests.rows import manifest_rows
from pipeline.tables.schemas import VERSION_COLUMN
from ramcore.errors import ImageError
from ramcore.imageformats import identify

Kind = Literal["picture", "directory", "glob", "manifest", "tar"]

BATCH_ROWS = 65_536
"""Rows of a batch at most."""


@dataclass
class _Tally:
    """How many files of a directory were passed over so far."""

    skipped: int = 0

    def skip(self, files: int) -> None:
        """So many more."""
        self.skipped += files


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


def open_input(uri: str, keep: Sequence[str] = (), batch_rows: int = BATCH_ROWS, config: Config | None = None) -> Input:
    """Open a picture, a directory, a glob, a manifest, or archives of images; local, in a bucket or on the web.

    - Directory: all files below it whose extension is that of an image (IMAGE_EXTENSIONS), sorted by name within
      each folder; names that begin with a dot are passed over. Glob: all files that match, of any extension.
      In a bucket: all objects below a prefix, in the store's order; on the web: what a page of links leads to.
    - Manifest: .parquet .csv .tsv .jsonl .json .txt, the text ones also with .gz; columns URI_COLUMNS, ID_COLUMNS
      and those of `keep`. A relative uri is relative to the manifest's folder. Text is UTF-8.
    - Archives: a .tar, a glob of them, or Parquet with a column of images; each image gets a uri of its own place.

    uri of a row: the absolute path for local files. Its image_id: from the manifest; without one (or where it is
    null or empty) the uri as the manifest has it, less its signature; "row:<n>", n from 0, where that is missing too.
    For directories, globs and pictures the path relative to the folder in front, so that ids stay when the folder
    moves; for members of tars the tar's relative path is in front of their name.

    keep: manifest columns to carry along, in the place of the configuration's. config: rules and time-outs of reading.
    Raises InputError that says what is wrong with INPUT, and what to do.
    """
    config = config or Config()
    if keep:
        config = config.model_copy(update={"manifest": config.manifest.model_copy(update={"keep": tuple(keep)})})
    place = place_of(uri, config)
    try:
        return _open(uri, place, config, batch_rows)
    except BaseException:
        place.close()
        raise


def _open(uri: str, place: Place, config: Config, batch_rows: int) -> Input:
    tally = _Tally()
    with _faults(place.label):
        kind = _kind(place)
    kept = list(config.manifest.keep)
    if kept and kind != "manifest":
        raise InputError(f"manifest.keep={kept}: INPUT {place.label} is a {kind} and has no columns; leave it out")
    rows = _explained(place, _rows(place, kind, config.manifest, batch_rows, tally))
    if kind not in ("picture", "tar"):
        rows = checked(rows, place.roots, place.label)
    return Input(place.label, kind, rows, tally)


def _kind(place: Place) -> Kind:
    if place.is_folder:
        return "directory"
    name = next(place.names(), None)
    if name is None:
        return "glob"
    if is_tar(name):
        return "tar"
    extension = manifest_extension(name)
    if place.is_pattern:
        return "manifest" if extension == ".parquet" else "glob"
    if extension:
        return "manifest"
    if is_image_name(name) or _starts_as_picture(place, name):
        return "picture"
    raise InputError(
        f"INPUT {place.label}: neither a picture nor a manifest; give a folder, a glob, a picture, a .tar, or a "
        f"manifest ({' '.join(MANIFEST_EXTENSIONS)})"
    )


def _starts_as_picture(place: Place, name: str) -> bool:
    with place.open(name) as file:
        try:
            identify(file.read(1024))
        except ImageError:
            return False
    return True


@contextmanager
def _faults(label: str) -> Iterator[None]:
    """Faults of files, sources and of Arrow as an InputError."""
    try:
        yield
    except FetchError as error:
        raise InputError(f"INPUT {label}: {error}") from error
    except OSError as error:
        raise InputError(f"INPUT {label}: {error.filename or ''}: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise InputError(f"INPUT {label}: {' '.join(str(error).split())[:300]}") from error


def _explained(place: Place, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, with what fails explained; the place is given up behind the last."""
    try:
        with _faults(place.label):
            yield from batches
    finally:
        place.close()


def _empty(uri: str, kind: Kind, tally: _Tally) -> InputError:
    if kind == "directory":
        endings = " ".join(sorted(IMAGE_EXTENSIONS))
        return InputError(
            f"INPUT {uri}: no images in this folder; {tally.skipped} files have other extensions than {endings}"
        )
    if kind == "glob":
        return InputError(f"INPUT {uri}: no file matches; put the pattern in quotes, and use ** for any depth")
    if kind == "tar":
        return InputError(f"INPUT {uri}: no images in it; {tally.skipped} members have no image's extension")
    return InputError(f"INPUT {uri}: the manifest has no rows; write one row for each image")


def _rows(place: Place, kind: Kind, config: ManifestConfig, batch_rows: int, tally: _Tally) -> Iterator[pa.RecordBatch]:
    if kind == "tar":
        names = _of_one_kind(place, is_tar, "tars")
        return tar_rows(((name, place.location(name)) for name in names), place.open, tally.skip, batch_rows)
    if kind == "manifest":
        return _manifests(place, config, batch_rows)
    names = _images_only(place.names(), tally) if kind == "directory" else place.names()
    return _listed(place, kind, names, batch_rows)


def _of_one_kind(place: Place, is_kind: Callable[[str], bool], kind: str) -> Iterator[str]:
    for name in place.names():
        if not is_kind(name):
            raise InputError(
                f"INPUT {place.label}: matches {kind} and other files, {name!r} for one; narrow the pattern"
            )
        yield name


def _manifests(place: Place, config: ManifestConfig, batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Rows of one manifest, or of all Parquet files that a pattern matches; these must have the same columns."""
    schema: pa.Schema | None = None
    names = _of_one_kind(place, lambda name: name.lower().endswith(".parquet"), "manifests")
    for name in names if place.is_pattern else place.names():
        label = f"{place.folder}/{name}" if place.is_pattern else place.label
        folder = f"{place.folder.rstrip('/')}/{posixpath.dirname(name)}"
        source = Source(name, label, partial(place.open, name), folder, batch_rows)
        prefix = f"{name}:" if place.is_pattern else ""
        for batch in manifest_rows(source, config, place.location(name), prefix):
            schema = schema or batch.schema
            if batch.schema != schema:
                raise source.error(f"manifest.keep: its columns are {batch.schema.types}, those before {schema.types}")
            yield batch


def _listed(place: Place, kind: Kind, names: Iterator[str], batch_rows: int) -> Iterator[pa.RecordBatch]:
    """Rows of a directory, a glob or one picture."""
    while batch := list(itertools.islice(names, batch_rows)):
        if kind == "glob" and all(name.lower().endswith((*MANIFEST_EXTENSIONS, ".gz")) for name in batch):
            raise InputError(f"INPUT {place.label}: matches manifests, not images; give one manifest")
        columns: dict[str, list[Any]] = {"image_id": list(map(storable, batch))}
        columns["uri"] = [place.location(name) for name in batch]
        versions = [name.version if isinstance(name, ListedName) else None for name in batch]
        if any(versions):
            columns[VERSION_COLUMN] = versions
        yield pa.RecordBatch.from_pydict({name: pa.array(values, pa.string()) for name, values in columns.items()})


def _images_only(names: Iterator[str], tally: _Tally) -> Iterator[str]:
    for name in names:
        if is_image_name(name):
            yield name
        else:
            tally.skip(1)
