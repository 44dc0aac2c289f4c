"""Rows of tars of images: each is indexed once, while the run is planned."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError
from pipeline.fetching.archives import ArchiveError, index_tar
from pipeline.fetching.members import TarMember
from pipeline.fetching.outcome import FetchError
from pipeline.fetching.redaction import redacted
from pipeline.manifests.listing import is_image_name, storable

_AT_ONCE = 8
"""Tars that are indexed side by side."""

Tar = tuple[str, str]
"""A tar's name within INPUT, which is in front of its images' ids, and its uri or local path."""


def is_tar(path: str) -> bool:
    """Whether a file's name is that of an uncompressed tar."""
    return path.lower().endswith(".tar")


def tar_rows(
    tars: Iterator[Tar], open_file: Callable[[str], Any], skip: Callable[[int], None], batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """image_id (`shard.tar/000.jpg`), uri of all members that are images by their name, in the order of the tars.

    open_file: a tar's name → file. skip: is told how many members of other names were passed over.
    Raises InputError for what cannot be read as a tar.
    """
    members = _members(tars, open_file, skip)
    while batch := list(itertools.islice(members, batch_rows)):
        ids = [f"{name}/{storable(member.name)}" for name, member in batch]
        columns = [pa.array(ids, pa.string()), pa.array([member.uri for _, member in batch], pa.string())]
        yield pa.RecordBatch.from_arrays(columns, names=["image_id", "uri"])


def _members(
    tars: Iterator[Tar], open_file: Callable[[str], Any], skip: Callable[[int], None]
) -> Iterator[tuple[str, TarMember]]:
    """The images of all tars; a few tars are indexed ahead, as each is one slow stream when it lies far away."""
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="index") as pool:
        ahead: deque[tuple[str, Future[tuple[list[TarMember], int]]]] = deque()
        try:
            while True:
                for name, uri in itertools.islice(tars, _AT_ONCE - len(ahead)):
                    ahead.append((name, pool.submit(_index, name, uri, open_file)))
                if not ahead:
                    return
                name, coming = ahead.popleft()
                members, skipped = coming.result()
                skip(skipped)
                yield from ((name, member) for member in members)
        finally:
            for _, coming in ahead:
                coming.cancel()


def _index(name: str, uri: str, open_file: Callable[[str], Any]) -> tuple[list[TarMember], int]:
    """The tar's images, and how many other members it has."""
    images, others = [], 0
    try:
        with open_file(name) as file:
            for member in index_tar(file, uri):
                if is_image_name(member.name):
                    images.append(member)
                else:
                    others += 1
    except (ArchiveError, FetchError) as error:
        raise InputError(f"INPUT {redacted(uri)}: {error}") from error
    except OSError as error:
        raise InputError(f"INPUT {redacted(uri)}: {error.strerror or type(error).__name__}") from error
    return images, others
