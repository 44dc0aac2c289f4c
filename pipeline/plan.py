"""The plan: which rows a run has, and which chunk each belongs to. Made once, never changed.

`plan/part-*.parquet` hold the planned rows, a row group for each chunk; `plan/duplicates-*.parquet` the rows that
repeat an earlier one; `carried/part-*.parquet` those that a base run has tagged already, as they were tagged;
`plan/plan.json`, written last, says which of them belong to the plan.
"""

import bisect
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import InputError, PlanError
from pipeline.fetching.redaction import column_without_credentials
from pipeline.manifests.identity import CARRIED, DUPLICATE, OTHER_URI, Flags, Spool
from pipeline.stores.run_store import RunStore
from pipeline.tables.schemas import FORMAT_VERSION, to_parquet

PLAN = "plan/plan.json"

DUPLICATE_ID = "duplicate_id"
"""planned_error of a row whose image_id an earlier row has with another uri."""

_CHUNKS_PER_REPLICA = 8
_FEWEST_CHUNK_ROWS, _MOST_CHUNK_ROWS = 16, 256
_PART_CHUNKS = 1_000
_PART_ROWS = 262_144
_DUPLICATES_SCHEMA = pa.schema([("image_id", pa.string()), ("uri", pa.string())])


@dataclass(frozen=True)
class Part:
    """One object of planned rows. name: below the run folder; chunks, rows: how many it holds."""

    name: str
    first_chunk: int
    chunks: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class CarriedPart:
    """One object of rows that are carried over from a base run, with the columns of the tag table."""

    name: str
    rows: int


class Carrier(Protocol):
    """Finds the rows that need not be tagged, as `pipeline.sync.BaseRun` does."""

    def carry(self, store: RunStore, spool: Spool, flags: Flags) -> tuple[list[CarriedPart], dict[str, int]]:
        """Write the rows that are carried over, and mark them CARRIED in `flags`; their parts, and further counts."""


@dataclass(frozen=True)
class Plan:
    """The plan of a run; small whatever the number of rows, and can be sent to other processes.

    rows_per_chunk: of every chunk but the last, which may have fewer.
    counts: input = planned + duplicates + carried; rejected_ids of the planned rows are rejects; chunks; with a base
    run also its images that are new, changed or removed.
    pinned: what the run was planned with, as given to `make_plan`. hash: of all planned rows and duplicates.
    column_names: of the planned rows: image_id, uri, chunk, planned_error, then the kept ones.
    """

    rows_per_chunk: int
    counts: dict[str, int]
    parts: tuple[Part, ...]
    duplicates_sha256: str
    pinned: dict[str, Any]
    column_names: tuple[str, ...]
    carried: tuple[CarriedPart, ...] = ()

    @property
    def chunks(self) -> int:
        """Number of chunks; their ids are 0, 1, …"""
        return self.counts["chunks"]

    @property
    def duplicates_name(self) -> str:
        """The object of the duplicates: image_id, uri of each row that repeats an earlier one; there even if empty."""
        return _duplicates_name(self.duplicates_sha256)

    @cached_property
    def hash(self) -> str:
        """sha256 of the counts and of the content of all parts, as hexadecimal digits."""
        content = {
            "format_version": FORMAT_VERSION,
            "rows_per_chunk": self.rows_per_chunk,
            "counts": self.counts,
            "parts": [part.sha256 for part in self.parts],
            "duplicates": self.duplicates_sha256,
        }
        if self.carried:
            content["carried"] = [part.name for part in self.carried]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def chunk_rows(self, chunk: int) -> int:
        """Rows of a chunk. Raises IndexError if there is no such chunk."""
        self._check(chunk)
        return min(self.rows_per_chunk, self.counts["planned"] - chunk * self.rows_per_chunk)

    def locate(self, chunk: int) -> tuple[str, int]:
        """(name of the part, row group in it) of a chunk. Raises IndexError if there is no such chunk."""
        self._check(chunk)
        part = self.parts[bisect.bisect_right(self._first_chunks, chunk) - 1]
        return part.name, chunk - part.first_chunk

    def read_chunk(self, store: RunStore, chunk: int) -> pa.Table:
        """The rows of a chunk: image_id: string, uri: string, chunk: int64, planned_error: string or null, kept.

        Raises IndexError if there is no such chunk, PlanError if the part is damaged.
        """
        name, row_group = self.locate(chunk)
        try:
            with store.open(name) as file:
                table = pq.ParquetFile(file).read_row_group(row_group, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise PlanError(f"{store.root}/{name}: the plan is damaged: {_one_line(error)}") from error
        if table.num_rows != self.chunk_rows(chunk):
            raise PlanError(f"{store.root}/{name}: chunk {chunk} has {table.num_rows} rows, not as planned")
        return table

    @cached_property
    def _first_chunks(self) -> list[int]:
        return [part.first_chunk for part in self.parts]

    def _check(self, chunk: int) -> None:
        if not 0 <= chunk < self.chunks:
            raise IndexError(f"chunk {chunk}: the plan has chunks 0 to {self.chunks - 1}")


def auto_chunk_rows(rows: int, replicas: int) -> int:
    """Rows of a chunk where `plan.chunk_rows` is auto: several chunks for each replica, neither tiny nor huge."""
    even = -(-rows // (_CHUNKS_PER_REPLICA * replicas))
    return min(max(even, _FEWEST_CHUNK_ROWS), _MOST_CHUNK_ROWS)


def make_plan(
    rows: Iterator[pa.RecordBatch],
    store: RunStore,
    chunk_rows: int | Callable[[int], int],
    limit: int | None,
    pinned: dict[str, Any],
    scratch: str | Path | None = None,
    base: Carrier | None = None,
) -> Plan:
    """Plan a run and write the plan, or read the plan that another process wrote meanwhile.

    rows: batches of one schema with image_id and uri (strings, no nulls) and kept columns, as `Input.batches`.
    The key is image_id. The first row of an id is planned. A later row of the same id and uri is a duplicate
    and is not planned; of the same id and another uri it is planned as a reject (planned_error duplicate_id).
    chunk_rows: rows of a chunk, or a function from the number of planned rows to it.
    limit: only the first so many rows are read; None = all. pinned: a JSON object to be kept with the plan.
    scratch: folder for temporary files, up to twice as large as the rows; None = the system's.
    base: rows that it carries are not planned, but part of the run as they are.

    Memory does not grow with the number of rows. The same rows give the same objects and the same hash.
    Raises InputError if there are no rows, ValueError for a wrong argument, StoreError if nothing can be written.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: must be 1 or more")
    pinned = json.loads(json.dumps(pinned))  # as it will be read again; if it is no JSON, it fails here
    with tempfile.TemporaryDirectory(prefix="ramfleet-plan-", dir=scratch) as folder:
        spool = Spool(Path(folder))
        spool.fill(_first_rows(rows, limit))
        if not spool.rows:
            raise InputError("INPUT has no rows; give one with at least one image")
        flags = spool.find_repeats()
        carried, counts = base.carry(store, spool, flags) if base is not None else ([], {})
        planned = spool.rows - spool.duplicates - sum(part.rows for part in carried)
        rows_per_chunk = chunk_rows(planned) if callable(chunk_rows) else chunk_rows
        if rows_per_chunk < 1:
            raise ValueError(f"chunk_rows={rows_per_chunk}: must be 1 or more")
        return _write_plan(store, spool, flags, rows_per_chunk, pinned, tuple(carried), counts)


def read_plan(store: RunStore) -> Plan | None:
    """The plan of a run, or None if it has none yet.

    Raises PlanError if it is of another format version, damaged, or lacks one of its parts (whose content is
    not read here).
    """
    if not store.exists(PLAN):
        return None
    where = f"{store.root}/{PLAN}"
    remedy = "restore the run folder, or choose another --out"
    try:
        document = json.loads(store.read(PLAN))
        version = document["format_version"]
        if version != FORMAT_VERSION:
            raise PlanError(f"{where}: format version {version}, this program reads {FORMAT_VERSION}; use its version")
        plan = _from_json(document)
        is_whole = document["hash"] == plan.hash and _adds_up(plan)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PlanError(f"{where}: the plan is damaged: {_one_line(error)}; {remedy}") from error
    if not is_whole:
        raise PlanError(f"{where}: the plan is damaged: its counts or its hash do not fit its parts; {remedy}")
    missing = {plan.duplicates_name, *(part.name for part in plan.parts)} - set(store.list("plan/"))
    if missing:
        raise PlanError(f"{where}: {len(missing)} parts of the plan are missing, {min(missing)} for one; {remedy}")
    return plan


def _first_rows(batches: Iterator[pa.RecordBatch], limit: int | None) -> Iterator[pa.RecordBatch]:
    left = limit
    for batch in batches:
        if left is None:
            yield batch
            continue
        yield batch.slice(0, left)
        left -= batch.num_rows
        if left <= 0:
            return


def _planned_schema(schema: pa.Schema) -> pa.Schema:
    kept = [field for field in schema if field.name not in ("image_id", "uri")]
    added = [pa.field("chunk", pa.int64()), pa.field("planned_error", pa.string())]
    return pa.schema([schema.field("image_id"), schema.field("uri"), *added, *kept])


def _write_plan(
    store: RunStore,
    spool: Spool,
    flags: Flags,
    rows_per_chunk: int,
    pinned: dict[str, Any],
    carried: tuple[CarriedPart, ...],
    counts_of_base: dict[str, int],
) -> Plan:
    """Write all objects of the plan; the plan in force, which is another process's if that was first."""
    carried_rows = sum(part.rows for part in carried)
    planned = spool.rows - spool.duplicates - carried_rows
    counts = {
        **counts_of_base,
        "input": spool.rows,
        "duplicates": spool.duplicates,
        "carried": carried_rows,
        "rejected_ids": spool.other_uris,
        "planned": planned,
        "chunks": -(-planned // rows_per_chunk),
    }
    made = [part.name for part in carried]
    parts = tuple(_write_parts(store, spool, flags, rows_per_chunk, made))
    duplicates_sha256 = _write_duplicates(store, spool, flags, made)
    columns = tuple(_planned_schema(spool.schema).names)
    plan = Plan(rows_per_chunk, counts, parts, duplicates_sha256, pinned, columns, carried)
    if store.create(PLAN, _to_json(plan)):
        return plan
    other = read_plan(store)
    if other is None:
        raise PlanError(f"{store.root}/{PLAN} was removed while the run was planned; start again")
    of_other = {part.name for part in other.parts} | {part.name for part in other.carried}
    for name in set(made) - of_other - {other.duplicates_name}:
        store.delete(name)
    return other


def _write_parts(store: RunStore, spool: Spool, flags: Flags, rows_per_chunk: int, made: list[str]) -> Iterator[Part]:
    """The planned rows as parts, named by their content; names of those that were not there already go to `made`."""
    schema = _planned_schema(spool.schema)
    part_chunks = max(1, min(_PART_CHUNKS, _PART_ROWS // rows_per_chunk))
    for number, table in enumerate(_regrouped(_planned(spool, flags), part_chunks * rows_per_chunk)):
        first_chunk = number * part_chunks
        chunks = pa.array(first_chunk + np.arange(table.num_rows) // rows_per_chunk, pa.int64())
        table = table.append_column("chunk", chunks).select(schema.names)
        # Neither dictionaries nor statistics: at a few hundred rows they only make the file larger.
        data = to_parquet(table, row_group_size=rows_per_chunk, use_dictionary=False, write_statistics=False)
        sha256 = hashlib.sha256(data).hexdigest()
        name = f"plan/part-{number:05d}-{sha256[:8]}.parquet"
        if store.create(name, data):
            made.append(name)
        yield Part(name, first_chunk, -(-table.num_rows // rows_per_chunk), table.num_rows, sha256)


def _planned(spool: Spool, flags: Flags) -> Iterator[pa.Table]:
    for table, found in spool.tables(flags):
        error = pc.if_else(pa.array(found == OTHER_URI), DUPLICATE_ID, pa.scalar(None, pa.string()))
        planned = (found != DUPLICATE) & (found != CARRIED)
        yield table.append_column("planned_error", error).filter(pa.array(planned))


def _regrouped(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows each, fewer only in the last."""
    waiting: list[pa.Table] = []
    waiting_rows = 0
    for table in tables:
        waiting.append(table)
        waiting_rows += table.num_rows
        while waiting_rows >= rows:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, rows).combine_chunks()
            waiting, waiting_rows = [whole.slice(rows)], waiting_rows - rows
    if waiting_rows:
        yield pa.concat_tables(waiting).combine_chunks()


def _write_duplicates(store: RunStore, spool: Spool, flags: Flags, made: list[str]) -> str:
    """The duplicates as an object, named by its content as `_write_parts` does; sha256 of its content."""
    path = spool.folder / "duplicates.parquet"
    with pq.ParquetWriter(path, _DUPLICATES_SCHEMA, compression="zstd") as writer:
        duplicates = (
            table.select(_DUPLICATES_SCHEMA.names).filter(pa.array(found == DUPLICATE))
            for table, found in spool.tables(flags)
        )
        for table in _regrouped(duplicates, _PART_ROWS):
            uris = column_without_credentials(table["uri"].combine_chunks())  # it is published as it is
            writer.write_table(table.set_column(1, "uri", uris))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    name = _duplicates_name(sha256)
    if store.upload(name, path):
        made.append(name)
    return sha256


def _duplicates_name(sha256: str) -> str:
    return f"plan/duplicates-{sha256[:8]}.parquet"


def _to_json(plan: Plan) -> bytes:
    document = {"format_version": FORMAT_VERSION, "hash": plan.hash, **asdict(plan)}
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()


def _from_json(document: dict[str, Any]) -> Plan:
    return Plan(
        document["rows_per_chunk"],
        document["counts"],
        tuple(Part(**part) for part in document["parts"]),
        document["duplicates_sha256"],
        document["pinned"],
        tuple(document["column_names"]),
        tuple(CarriedPart(**part) for part in document.get("carried", ())),
    )


def _adds_up(plan: Plan) -> bool:
    counts = plan.counts
    first_chunk = 0
    for part in plan.parts:
        if part.first_chunk != first_chunk or part.chunks != -(-part.rows // plan.rows_per_chunk):
            return False
        first_chunk += part.chunks
    rows = sum(part.rows for part in plan.parts)
    carried = sum(part.rows for part in plan.carried)
    added_up = {"input": rows + counts["duplicates"] + carried, "planned": rows, "chunks": first_chunk}
    added_up["carried"] = carried
    return {"carried": 0, **counts} == counts | added_up


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
