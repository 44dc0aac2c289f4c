"""Committed chunks into the published tables of a run: a pure function of the plan, the chunks and the events.

Nothing here remembers anything: killed and run again, it writes the same parts under the same names. Chunks stay.
"""

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.chunks import committed, read_chunk
from pipeline.costs.run_costs import cost_summary, ledger_of
from pipeline.errors import IncompleteError, InputError, PlanError
from pipeline.events.log import events_in_order
from pipeline.finished_run import REPORT, FinishedRun
from pipeline.model_record import recorded_vocabulary
from pipeline.plan import Plan, read_plan
from pipeline.report.document import Options
from pipeline.run_document import run_document, write_run
from pipeline.stores.read_ahead import read_ahead
from pipeline.stores.read_only import refuse_if_cleaned
from pipeline.stores.run_store import RunStore
from pipeline.tables.accounting import Counts, Published
from pipeline.tables.names import Naming
from pipeline.tables.parts import GROUP_ROWS, PartWriter, create_part
from pipeline.tables.schemas import REJECTS_COLUMNS, TAGS_COLUMNS, VERSION_COLUMN, to_parquet
from pipeline.tables.telemetry import Telemetry

_LOCK = "finalize"
_ATTEMPTS = 3


@dataclass
class _Tally:
    """Counted while the chunks stream by. names: the column of tags that is filled."""

    names: str = "tags"
    tagged: int = 0
    done: int = 0
    rejects: Counter[str] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)

    def add(self, table: pa.Table) -> None:
        kinds = table["error_kind"]
        self.done += table.num_rows
        self.tagged += kinds.null_count
        self.rejects.update(kinds.drop_null().to_pylist())
        self.add_tags(table)

    def add_tags(self, table: pa.Table) -> None:
        # A run in one language has the names in one of the two columns only.
        for entry in pc.value_counts(pc.list_flatten(table[self.names])).to_pylist():
            self.tags[entry["values"]] += entry["counts"]


def finalize(store: RunStore, report: Options | None = None) -> Published:
    """Publish the tables of a run, its report, and last its run.json.

    report: what report.html is made with; None: none is written, and an older one is removed.

    Raises InputError if the folder holds no run, ReadOnlyError if its chunks were removed by `ramfleet clean`,
    IncompleteError if a chunk is damaged, of another run, or has other rows than planned.
    """
    plan = read_plan(store)
    if plan is None:
        raise InputError(f"{store.root} holds no run: there is no plan/plan.json in it")
    refuse_if_cleaned(store)
    with store.alone(_LOCK):
        for _ in range(_ATTEMPTS):
            published = publish(store, plan)
            document = run_document(store, plan, published)
            _report(store, document, report)
            write_run(store, document)
            _remove_others(store, published.parts)
            if not _lost(store, published.parts):
                return published
    raise IncompleteError(f"{store.root}: another process removes parts while they are written; run finalize again")


def _report(store: RunStore, document: dict[str, Any], options: Options | None) -> None:
    from pipeline.report.page import write_report  # matplotlib, which nothing before this needs

    if options is None:
        store.delete(REPORT)
    else:
        write_report(FinishedRun(store, document), options)


def publish(store: RunStore, plan: Plan) -> Published:
    """Write tags/, rejects/, duplicates/, telemetry/ and vocabulary.parquet from what is committed."""
    tally = _Tally("tags_zh" if Naming.of(plan.pinned).languages == "zh" else "tags")
    telemetry = Telemetry(store)
    with tempfile.TemporaryDirectory(prefix="ramfleet-finalize-") as scratch:
        tags = PartWriter(store, "tags/", Path(scratch), tags_columns(plan))
        rejects = PartWriter(store, "rejects/", Path(scratch), list(REJECTS_COLUMNS))
        for table in _latest_chunks(store, plan, telemetry):
            tally.add(table)
            tagged = pc.is_null(table["error_kind"])
            tags.add(table.filter(tagged))
            rejects.add(table.filter(pc.invert(tagged)))
        carried = 0
        for table in _carried(store, plan):
            carried += table.num_rows
            tally.add_tags(table)
            tags.add(table)
        parts = {"tags": tags.close(), "rejects": rejects.close()}
    parts["duplicates"] = [create_part(store, "duplicates/", 0, store.read(plan.duplicates_name))]
    attempts = telemetry.table()
    parts["telemetry"] = [create_part(store, "telemetry/", 0, to_parquet(attempts))]
    store.replace("vocabulary.parquet", recorded_vocabulary(store, plan))
    counts = Counts(
        input=plan.counts["input"],
        tagged=tally.tagged,
        rejected=tally.rejects.total(),
        duplicates=plan.counts["duplicates"],
        carried=carried,
        missing=plan.counts["planned"] - tally.done,
    )
    counts.check()
    cost = cost_summary(ledger_of(events_in_order(store), attempts))
    return Published(parts, counts, dict(tally.rejects.most_common()), tally.tags.most_common(10), cost)


def tags_columns(plan: Plan) -> list[str]:
    """Columns of the tag table of a run."""
    own = ("image_id", "uri", "chunk", "planned_error", VERSION_COLUMN)
    version = [VERSION_COLUMN] if VERSION_COLUMN in plan.column_names else []
    kept = [name for name in plan.column_names if name not in own]
    return [*TAGS_COLUMNS, *Naming.of(plan.pinned).extra_columns, *version, *kept]


def _latest_chunks(store: RunStore, plan: Plan, telemetry: Telemetry) -> Iterator[pa.Table]:
    """The rows of each committed chunk, of its highest generation; every generation goes to the telemetry."""

    def read(found: tuple[int, int]) -> tuple[int, int, pa.Table]:
        return *found, read_chunk(store, plan, *found)

    last: tuple[int, pa.Table] | None = None
    for chunk, generation, table in read_ahead(read, sorted(committed(store))):
        telemetry.add(chunk, generation, table)
        if last is not None and last[0] != chunk:
            yield last[1]
        last = chunk, table.replace_schema_metadata()
    if last is not None:
        yield last[1]


def _carried(store: RunStore, plan: Plan) -> Iterator[pa.Table]:
    """The rows that came with the plan from the base run."""
    for part in plan.carried:
        try:
            with store.open(part.name) as file:
                for batch in pq.ParquetFile(file).iter_batches(batch_size=GROUP_ROWS):
                    yield pa.Table.from_batches([batch]).replace_schema_metadata()
        except (FileNotFoundError, pa.ArrowException) as error:
            raise PlanError(f"{store.root}/{part.name} is missing or damaged; restore the run folder") from error


def _lost(store: RunStore, parts: dict[str, list[str]]) -> bool:
    """Whether a part that was there when it was to be written has gone since: a finalize that had lost its lock."""
    return any(set(names) - set(store.list(f"{folder}/")) for folder, names in parts.items())


def _remove_others(store: RunStore, parts: dict[str, list[str]]) -> None:
    """Parts of an earlier finalize, so that a folder read as a whole is right."""
    for folder, names in parts.items():
        for name in list(store.list(f"{folder}/")):
            if name not in names:
                store.delete(name)
