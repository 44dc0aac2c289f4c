"""Chunk objects: their names, which exist, the commit of one, and its rows."""

import re
from collections.abc import Iterator

import pyarrow as pa

from pipeline.errors import IncompleteError, last_line
from pipeline.plan import Plan
from pipeline.stores.run_store import RunStore
from pipeline.tables.schemas import attempt_of, from_parquet, to_parquet

_NAME = re.compile(r"chunks/(\d{7,})\.g(\d+)\.parquet")


def chunk_name(chunk: int, generation: int = 0) -> str:
    """`chunks/0000042.g0.parquet`."""
    return f"chunks/{chunk:07d}.g{generation}.parquet"


def chunk_of(name: str) -> tuple[int, int] | None:
    """(chunk, generation) of an object's name; None if it is no chunk's."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def commit_chunk(store: RunStore, chunk: int, table: pa.Table, generation: int = 0) -> bool:
    """Create the chunk's object, if absent: the only commit point of a run. False if another was first."""
    return store.create(chunk_name(chunk, generation), to_parquet(table))


def committed(store: RunStore) -> Iterator[tuple[int, int]]:
    """(chunk, generation) of every chunk object, unsorted; listed, not opened."""
    for name in store.list("chunks/"):
        if (found := chunk_of(name)) is not None:
            yield found


def pending_chunks(store: RunStore, plan: Plan) -> list[int]:
    """Planned chunks that are not committed: all that a resume needs to know."""
    done = {chunk for chunk, _ in committed(store)}
    return [chunk for chunk in range(plan.chunks) if chunk not in done]


def generations(store: RunStore) -> dict[int, int]:
    """The highest generation of each committed chunk, which is the one that counts; in order of chunk."""
    highest: dict[int, int] = {}
    for chunk, generation in committed(store):
        highest[chunk] = max(generation, highest.get(chunk, 0))
    return dict(sorted(highest.items()))


def read_chunk(store: RunStore, plan: Plan, chunk: int, generation: int) -> pa.Table:
    """The rows of a chunk object, with the record of its attempt in the metadata.

    Raises IncompleteError if it is damaged, of another run, or has other rows than planned; FileNotFoundError.
    """
    name = chunk_name(chunk, generation)
    where = f"{store.root}/{name}"
    data = store.read(name)
    try:
        table = from_parquet(data)
        plan_hash = attempt_of(table.schema)["plan_hash"]
    except (pa.ArrowException, OSError, KeyError, TypeError) as error:
        raise IncompleteError(
            f"{where} is damaged ({last_line(error)}); delete it and run the command again"
        ) from error
    if plan_hash != plan.hash:
        raise IncompleteError(f"{where} is a chunk of another run; delete it and run the command again")
    planned = plan.chunk_rows(chunk) if chunk < plan.chunks else 0
    if table.num_rows != planned:
        raise IncompleteError(
            f"{where} holds {table.num_rows} rows, the plan has {planned}; delete it and run the command again"
        )
    return table
