"""What is committed of a run that still goes on, as readers of a finished one see it."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.chunks import chunk_name, chunk_of, generations, read_chunk
from pipeline.errors import InputError
from pipeline.finished_run import BATCH_ROWS, FinishedRun, RowGroup, published
from pipeline.model_record import recorded_model, recorded_vocabulary, vocabulary_of
from pipeline.plan import Plan, read_plan
from pipeline.stores.read_ahead import read_ahead
from pipeline.stores.run_store import RunStore
from pipeline.tables.schemas import FORMAT_VERSION
from ramcore.vocabulary import Vocabulary

GROWING = "growing"
"""The status of a run that is not complete."""
_CHUNKS_AT_A_TIME = 64
_IS_TABLE = {"tags": pc.is_null, "rejects": pc.is_valid}


class CommittedRun(FinishedRun):
    """The chunks that were committed when it was made, each a row group, after the rows that were carried over.

    known: tagged and rejected rows by chunk object, of an earlier one of the same run, which are not counted again.
    """

    def __init__(self, store: RunStore, plan: Plan, known: dict[str, tuple[int, int]] | None = None) -> None:
        self._plan = plan
        names = [chunk_name(*found) for found in generations(store).items()]
        known = known or {}
        new = [name for name in names if name not in known]
        self.store = store
        counted = {**known, **dict(read_ahead(lambda name: (name, self._count(name)), new))}
        self.known = {name: counted[name] for name in names}
        super().__init__(store, self._describe(names))

    def vocabulary(self) -> Vocabulary:
        """As planned."""
        return vocabulary_of(pq.read_table(pa.BufferReader(recorded_vocabulary(self.store, self._plan))))

    def batches(self, table: str, columns: Sequence[str], rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """As `FinishedRun.batches`, of "tags" and "rejects"."""
        if table == "tags":
            for part in self._plan.carried:
                with self._opened(part.name) as file:
                    yield from pq.ParquetFile(file).iter_batches(batch_size=rows, columns=list(columns))
        chunks = read_ahead(lambda name: self._rows(name, table, columns), list(self.known))
        while some := list(islice(chunks, _CHUNKS_AT_A_TIME)):
            yield from pa.concat_tables(some).combine_chunks().to_batches(max_chunksize=rows)

    def row_groups(self, table: str) -> list[RowGroup]:
        """As `FinishedRun.row_groups`, of "tags"."""
        groups: list[RowGroup] = []
        first = 0
        for part in self._plan.carried:
            footer = self._footer(part.name)
            for number in range(footer.num_row_groups):
                groups.append(RowGroup(part.name, number, first, int(footer.row_group(number).num_rows)))
                first += groups[-1].rows
        for name, (tagged, _) in self.known.items():
            groups.append(RowGroup(name, 0, first, tagged))
            first += tagged
        return groups

    def row_group(self, group: RowGroup, columns: Sequence[str]) -> pa.Table:
        """As `FinishedRun.row_group`."""
        if chunk_of(group.part) is None:
            return super().row_group(group, columns)
        return self._rows(group.part, "tags", columns)

    def _rows(self, name: str, table: str, columns: Sequence[str]) -> pa.Table:
        rows = self._read_chunk(name)
        return rows.filter(_IS_TABLE[table](rows["error_kind"])).select(list(columns)).replace_schema_metadata()

    def _count(self, name: str) -> tuple[int, int]:
        rows = self._read_chunk(name)
        rejected = len(rows) - int(rows["error_kind"].null_count)
        return len(rows) - rejected, rejected

    def _read_chunk(self, name: str) -> pa.Table:
        found = chunk_of(name)
        if found is None:
            raise ValueError(f"{name} is no chunk")
        return read_chunk(self.store, self._plan, *found)

    def _describe(self, names: list[str]) -> dict[str, Any]:
        """What run.json would say, as far as it is known."""
        model, planned = recorded_model(self.store, self._plan), self._plan.counts
        tagged, rejected = (sum(counts[place] for counts in self.known.values()) for place in (0, 1))
        carried = sum(part.rows for part in self._plan.carried)
        return {
            "format_version": FORMAT_VERSION,
            "status": GROWING,
            "finalized_at": "",
            "demo": model.demo,
            "plan_hash": self._plan.hash,
            "pinned": self._plan.pinned,
            "model": {"kind": model.kind, "image_size": model.swin.image_size, "tags": model.num_tags},
            "counts": {
                "input": planned["input"],
                "tagged": tagged,
                "rejected": rejected,
                "duplicates": planned["duplicates"],
                "carried": carried,
                "missing": planned["planned"] - tagged - rejected,
            },
            "parts": {"tags": [*(part.name for part in self._plan.carried), *names]},
        }


def open_run(store: RunStore, before: FinishedRun | None = None) -> FinishedRun:
    """A run as it is now: its published tables if it is complete, else what is committed, as the index has it.

    before: the same run, opened earlier. Raises InputError for a folder that holds no run.
    """
    document = published(store)
    if document is not None and document["status"] == "complete":
        return FinishedRun(store, document)
    plan = read_plan(store)
    if plan is None:
        if document is None:
            raise InputError(f"{store.root} holds no run: there is neither run.json nor plan/plan.json in it")
        return FinishedRun(store, document)
    return CommittedRun(store, plan, before.known if isinstance(before, CommittedRun) else None)


def new_chunks(run: FinishedRun) -> int:
    """How many chunks of a growing run were committed since it was opened; 0 for a finished one."""
    if not isinstance(run, CommittedRun):
        return 0
    names = {chunk_name(*found) for found in generations(run.store).items()}
    return len(names - run.known.keys())


def is_complete_now(run: FinishedRun) -> bool:
    """Whether a run that was growing when it was opened is complete by now."""
    if not isinstance(run, CommittedRun):
        return False
    document = published(run.store)
    return document is not None and document["status"] == "complete"
