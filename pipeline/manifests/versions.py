"""Which content an image had when it was planned, so that a later run with --base knows what has changed.

A version is a text that changes with the content: of a local file its size and time of modification, of an object
that the listing of a bucket found its etag. A manifest's own column of that name, kept by `manifest.keep=[version]`,
comes before the former.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.fetching.files import local_path
from pipeline.fetching.outcome import FetchError
from pipeline.tables.schemas import VERSION_COLUMN

_THREADS = 16
_URIS_PER_TASK = 512


def with_versions(batches: Iterator[pa.RecordBatch], look: bool) -> Iterator[pa.RecordBatch]:
    """The rows with a column `version`: string, null where nothing is known.

    A column of that name stays, and only its nulls are filled. look: ask the file system; else nothing is known.
    """
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="stat") as pool:
        for batch in batches:
            names = batch.schema.names
            known = pa.nulls(batch.num_rows, pa.string())
            if VERSION_COLUMN in names:
                known = pc.cast(batch.column(VERSION_COLUMN), pa.string())
            if look and known.null_count:
                known = pc.coalesce(known, _looked_up(batch.column("uri"), pool))
            columns = {name: batch.column(name) for name in names} | {VERSION_COLUMN: known}
            yield pa.RecordBatch.from_pydict(columns)


def _looked_up(uris: pa.Array, pool: ThreadPoolExecutor) -> pa.Array:
    pieces = [uris.slice(start, _URIS_PER_TASK) for start in range(0, len(uris), _URIS_PER_TASK)]
    found = pool.map(lambda piece: [local_version(uri) for uri in piece.to_pylist()], pieces)
    return pa.array([version for versions in found for version in versions], pa.string())


def local_version(uri: str) -> str | None:
    """`SIZE-NANOSECONDS` of a local file, links followed; None for what is no local file, or cannot be asked."""
    try:
        status = os.stat(local_path(uri))
    except (FetchError, OSError, ValueError):
        return None
    return f"{status.st_size}-{status.st_mtime_ns}"
