"""Chunk objects: their names, which exist, and the commit of one."""

import re
from collections.abc import Iterator

import pyarrow as pa

from pipeline.store import RunStore
from pipeline.tables import to_parquet

_NAME = re.compile(r"chunks/(\d{7,})\.g(\d+)\.parquet")


def chunk_name(chunk: int, generation: int = 0) -> str:
    """`chunks/0000042.g0.parquet`."""
    return f"chunks/{chunk:07d}.g{generation}.parquet"


def commit_chunk(store: RunStore, chunk: int, table: pa.Table, generation: int = 0) -> bool:
    """Create the chunk's object, if absent: the only commit point of a run. False if another was first."""
    return store.create(chunk_name(chunk, generation), to_parquet(table))


def committed(store: RunStore) -> Iterator[tuple[int, int]]:
    """(chunk, generation) of every chunk object, unsorted; listed, not opened."""
    for name in store.list("chunks/"):
        if match := _NAME.fullmatch(name):
            yield int(match[1]), int(match[2])


def latest(store: RunStore) -> dict[int, str]:
    """The object of each committed chunk: the highest generation wins; in order of chunk."""
    generations: dict[int, int] = {}
    for chunk, generation in committed(store):
        generations[chunk] = max(generation, generations.get(chunk, 0))
    return {chunk: chunk_name(chunk, generation) for chunk, generation in sorted(generations.items())}
