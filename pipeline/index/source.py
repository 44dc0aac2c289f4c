"""A run as an index reads it: the parts of a finished one, the committed chunks of one that still grows."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.chunks import chunk_name, generations, read_chunk
from pipeline.errors import InputError
from pipeline.finished_run import FinishedRun
from pipeline.index.documents import COLUMNS, Documents, documents_of
from pipeline.model_record import recorded_vocabulary, vocabulary_of
from pipeline.plan import Plan, read_plan
from pipeline.stores.read_ahead import read_ahead
from pipeline.stores.run_store import RunStore
from ramcore.vocabulary import Vocabulary

_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Unit:
    """An object of a run that never changes: a part or a chunk. key: its name, and what its tags depend on beside it;
    rows: images at most; chunk: with its generation."""

    key: str
    name: str
    rows: int
    chunk: tuple[int, int] | None = None


@dataclass(frozen=True)
class Source:
    """What is to be indexed.

    plan_hash: which run it is; base_hash: that of the run it was tagged with --base of, if any; read: the documents of
    some of the units, unit by unit.
    """

    store: RunStore
    vocabulary: Vocabulary
    plan_hash: str
    base_hash: str | None
    units: list[Unit]
    read: Callable[[list[Unit]], Iterator[tuple[Unit, Iterator[Documents]]]]


def open_source(store: RunStore) -> Source:
    """A run's parts if it is complete, else what is committed of it.

    Raises InputError if the folder holds neither run.json nor plan, or only a part of the objects they name.
    """
    finished = FinishedRun(store) if store.exists("run.json") else None
    if finished is not None and finished.document["status"] == "complete":
        return _of_parts(finished)
    plan = read_plan(store)
    if plan is not None:
        return _of_chunks(store, plan)
    if finished is None:
        raise InputError(f"{store.root} holds no run: there is neither run.json nor plan/plan.json in it")
    return _of_parts(finished)


def _of_parts(run: FinishedRun) -> Source:
    vocabulary = run.vocabulary()
    document = run.document
    top_k = int(document.get("derived_from", {}).get("top_k", 0))
    base = (document.get("base") or {}).get("plan_hash")
    made_by = _digest(document["plan_hash"], vocabulary.thresholds, top_k)
    units = [Unit(f"{made_by}/{name}", name, _rows(run.store, name)) for name in document["parts"]["tags"]]

    def read(chosen: list[Unit]) -> Iterator[tuple[Unit, Iterator[Documents]]]:
        for unit in chosen:
            yield unit, _read_part(run.store, unit.name, vocabulary.thresholds, top_k)

    return Source(run.store, vocabulary, document["plan_hash"], base, units, read)


def _of_chunks(store: RunStore, plan: Plan) -> Source:
    vocabulary = vocabulary_of(pq.read_table(pa.BufferReader(recorded_vocabulary(store, plan))))
    made_by = _digest(plan.hash, vocabulary.thresholds, 0)
    units = [Unit(f"{made_by}/{part.name}", part.name, part.rows) for part in plan.carried]
    for found in generations(store).items():
        name = chunk_name(*found)
        units.append(Unit(f"{made_by}/{name}", name, plan.chunk_rows(found[0]), found))

    def read(chosen: list[Unit]) -> Iterator[tuple[Unit, Iterator[Documents]]]:
        for unit in (unit for unit in chosen if unit.chunk is None):
            yield unit, _read_part(store, unit.name, vocabulary.thresholds, 0)
        committed = [unit for unit in chosen if unit.chunk is not None]
        yield from read_ahead(lambda unit: (unit, iter([_read_chunk(store, plan, unit, vocabulary)])), committed)

    base = plan.pinned.get("base.plan_hash")
    return Source(store, vocabulary, plan.hash, base, units, read)


def _read_part(store: RunStore, name: str, thresholds: NDArray[np.float32], top_k: int) -> Iterator[Documents]:
    try:
        with store.open(name) as file:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=_BATCH_ROWS, columns=list(COLUMNS)):
                yield documents_of(pa.Table.from_batches([batch]), thresholds, top_k)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise _damaged(store, name) from error


def _rows(store: RunStore, name: str) -> int:
    try:
        with store.open(name) as file:
            return int(pq.ParquetFile(file).metadata.num_rows)
    except (FileNotFoundError, pa.ArrowException) as error:
        raise _damaged(store, name) from error


def _damaged(store: RunStore, name: str) -> InputError:
    return InputError(f"{store.root}/{name} is missing or damaged; `ramfleet finalize {store.root}` writes it again")


def _read_chunk(store: RunStore, plan: Plan, unit: Unit, vocabulary: Vocabulary) -> Documents:
    if unit.chunk is None:
        raise ValueError(f"{unit.name} is no chunk")
    rows = read_chunk(store, plan, *unit.chunk)
    return documents_of(rows.filter(pc.is_null(rows["error_kind"])).select(list(COLUMNS)), vocabulary.thresholds)


def _digest(plan_hash: str, thresholds: NDArray[np.float32], top_k: int) -> str:
    """Of what decides, beside an object's content, which tags its images have."""
    content = chain([plan_hash.encode(), str(top_k).encode()], [thresholds.astype("<f4").tobytes()])
    return hashlib.sha256(b"\0".join(content)).hexdigest()[:16]


def described(source: Source) -> dict[str, Any]:
    """What an index notes of the run that it holds."""
    return {"run": source.store.root, "plan_hash": source.plan_hash, "base_hash": source.base_hash}
