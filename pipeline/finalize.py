"""Committed chunks into the published tables of a run: a pure function of the plan, the chunks and the events.

Nothing here remembers anything: killed and run again, it writes the same parts under the same names. Chunks stay.
"""

import fcntl
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.accounting import Counts, Published
from pipeline.chunks import latest
from pipeline.errors import IncompleteError, InputError, StoreError, last_line
from pipeline.model_record import recorded_vocabulary
from pipeline.names import Naming
from pipeline.parts import PartWriter, create_part
from pipeline.plan import Plan, read_plan
from pipeline.run_document import write_run
from pipeline.store import RunStore
from pipeline.tables import REJECTS_COLUMNS, TAGS_COLUMNS, attempt_of, to_parquet
from pipeline.telemetry import telemetry_table

_LOCK = ".finalize.lock"


@dataclass
class _Tally:
    """Counted while the chunks stream by. names: the column of tags that is filled."""

    names: str = "tags"
    tagged: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)

    def add(self, table: pa.Table) -> None:
        kinds = table["error_kind"]
        self.tagged += kinds.null_count
        self.rejects.update(kinds.drop_null().to_pylist())
        # A run in one language has the names in one of the two columns only.
        for entry in pc.value_counts(pc.list_flatten(table[self.names])).to_pylist():
            self.tags[entry["values"]] += entry["counts"]


def finalize(store: RunStore) -> Published:
    """Publish the tables of a run and write its run.json. Raises InputError if the folder holds no run."""
    plan = read_plan(store)
    if plan is None:
        raise InputError(f"{store.root} holds no run: there is no plan/plan.json in it")
    with _alone(store):
        published = publish(store, plan)
        write_run(store, plan, published)
        _remove_others(store, published.parts)
    return published


def publish(store: RunStore, plan: Plan) -> Published:
    """Write tags/, rejects/, duplicates/, telemetry/ and vocabulary.parquet from what is committed.

    Raises IncompleteError if a chunk is damaged, of another run, or has other rows than planned.
    """
    chunks = latest(store)
    tally = _Tally("tags_zh" if Naming.of(plan.pinned).languages == "zh" else "tags")
    with tempfile.TemporaryDirectory(prefix="ramfleet-finalize-") as scratch:
        kept = [name for name in plan.column_names if name not in ("image_id", "uri", "chunk", "planned_error")]
        columns = [*TAGS_COLUMNS, *Naming.of(plan.pinned).extra_columns, *kept]
        tags = PartWriter(store, "tags/", Path(scratch), columns)
        rejects = PartWriter(store, "rejects/", Path(scratch), list(REJECTS_COLUMNS))
        for chunk, name in chunks.items():
            table = _read_chunk(store, plan, chunk, name)
            tally.add(table)
            tagged = pc.is_null(table["error_kind"])
            tags.add(table.filter(tagged))
            rejects.add(table.filter(pc.invert(tagged)))
        parts = {"tags": tags.close(), "rejects": rejects.close()}
        parts["duplicates"] = [create_part(store, "duplicates/", 0, store.read(plan.duplicates_name))]
        parts["telemetry"] = [create_part(store, "telemetry/", 0, to_parquet(telemetry_table(store, chunks)))]
        store.replace("vocabulary.parquet", recorded_vocabulary(store, plan))
    counts = _counts(plan, chunks, tally)
    counts.check()
    return Published(parts, counts, dict(tally.rejects.most_common()), tally.tags.most_common(10))


def _read_chunk(store: RunStore, plan: Plan, chunk: int, name: str) -> pa.Table:
    where = f"{store.root}/{name}"
    try:
        with store.open(name) as file:
            table = pq.read_table(file)
        plan_hash = attempt_of(table.schema)["plan_hash"]
    except (pa.ArrowException, KeyError, TypeError) as error:
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
    return table.replace_schema_metadata()


def _counts(plan: Plan, chunks: dict[int, str], tally: _Tally) -> Counts:
    done = sum(plan.chunk_rows(chunk) for chunk in chunks)
    return Counts(
        input=plan.counts["input"],
        tagged=tally.tagged,
        rejected=tally.rejects.total(),
        duplicates=plan.counts["duplicates"],
        missing=plan.counts["planned"] - done,
    )


def _remove_others(store: RunStore, parts: dict[str, list[str]]) -> None:
    """Parts of an earlier finalize, so that a folder read as a whole is right."""
    for folder, names in parts.items():
        for name in list(store.list(f"{folder}/")):
            if name not in names:
                store.delete(name)


@contextmanager
def _alone(store: RunStore) -> Iterator[None]:
    """Two finalizes of one run take turns, since each removes the parts that are not its own."""
    path = store.path(_LOCK)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise StoreError(f"{store.root}: cannot be written: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
