"""Which rows of a chunk a driver works on, and which object it commits: all of them, or some rejects once more."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.chunks import chunk_name, commit_chunk, committed, pending_chunks
from pipeline.errors import IncompleteError
from pipeline.plan import Plan
from pipeline.stores.run_store import RunStore
from pipeline.tables.schemas import attempt_of, from_parquet, with_attempt


class Pass(Protocol):
    """What the flow asks. Values are small and can be sent to other processes.

    command: that does this work, such as "tag".
    """

    command: ClassVar[str]

    def pending(self, store: RunStore, plan: Plan) -> list[int]:
        """Chunks that are still to be done."""

    def rows(self, store: RunStore, plan: Plan, chunk: int) -> pa.Table | None:
        """The planned rows to be tagged, as `Plan.read_chunk`; None if the chunk has been done by another meanwhile."""

    def commit(self, store: RunStore, chunk: int, done: pa.Table) -> bool:
        """Create the chunk's object from these rows, when tagged; False if another was first."""

    def generation(self, chunk: int) -> int:
        """Generation of the object that `commit` creates."""

    def extent(self, store: RunStore, plan: Plan) -> tuple[int, int]:
        """Rows to be done in all, and how many of them are done."""


@dataclass(frozen=True)
class FirstPass:
    """Every planned row, into generation 0."""

    command: ClassVar[str] = "tag"

    def pending(self, store: RunStore, plan: Plan) -> list[int]:
        """Planned chunks without an object."""
        return pending_chunks(store, plan)

    def rows(self, store: RunStore, plan: Plan, chunk: int) -> pa.Table | None:
        """All rows of the chunk."""
        return None if store.exists(chunk_name(chunk)) else plan.read_chunk(store, chunk)

    def commit(self, store: RunStore, chunk: int, done: pa.Table) -> bool:
        """The rows as they are."""
        return commit_chunk(store, chunk, done)

    def generation(self, chunk: int) -> int:
        """0."""
        return 0

    def extent(self, store: RunStore, plan: Plan) -> tuple[int, int]:
        """All planned rows, and those of committed chunks."""
        pending = sum(plan.chunk_rows(chunk) for chunk in self.pending(store, plan))
        return plan.counts["planned"], plan.counts["planned"] - pending


@dataclass(frozen=True)
class RetryPass:
    """The rejects of some kinds once more, each chunk into the generation after the one that was read.

    That makes the commit a compare-and-swap: of two retries that start from the same generation one wins each chunk,
    and nothing that a retry did is undone by one that began before.
    kinds: error kinds; base: the generation of each affected chunk; images: rejects of these kinds in all of them.
    """

    command: ClassVar[str] = "retry"

    kinds: frozenset[str]
    base: dict[int, int]
    images: int

    def pending(self, store: RunStore, plan: Plan) -> list[int]:
        """Affected chunks that have no later generation yet."""
        done = {chunk for chunk, generation in committed(store) if generation > self.base.get(chunk, generation)}
        return sorted(self.base.keys() - done)

    def rows(self, store: RunStore, plan: Plan, chunk: int) -> pa.Table | None:
        """The rejects of these kinds."""
        if store.exists(chunk_name(chunk, self.generation(chunk))):
            return None
        return plan.read_chunk(store, chunk).filter(pa.array(self.chosen(self._read_base(store, chunk))))

    def commit(self, store: RunStore, chunk: int, done: pa.Table) -> bool:
        """The rows of the generation before, with these in the place of their rejects, and attempts added up."""
        base = self._read_base(store, chunk)
        return commit_chunk(store, chunk, _replaced(base, self.chosen(base), done), self.generation(chunk))

    def generation(self, chunk: int) -> int:
        """The one after the chunk's base."""
        return self.base[chunk] + 1

    def extent(self, store: RunStore, plan: Plan) -> tuple[int, int]:
        """The rejects that were found; none is done, as what is done is not found."""
        return self.images, 0

    def chosen(self, table: pa.Table) -> NDArray[np.bool_]:
        """bool [rows]: which rows of a chunk are rejects of these kinds."""
        found = pc.is_in(table["error_kind"], value_set=pa.array(sorted(self.kinds), pa.string()))
        return np.asarray(found.to_numpy())

    def _read_base(self, store: RunStore, chunk: int) -> pa.Table:
        return from_parquet(store.read(chunk_name(chunk, self.base[chunk])))


def _replaced(base: pa.Table, chosen: NDArray[np.bool_], done: pa.Table) -> pa.Table:
    before = base.filter(pa.array(chosen))
    if before["image_id"].to_pylist() != done["image_id"].to_pylist():
        raise IncompleteError("a retry brought back other rows than were asked for; nothing is committed")
    attempts = pc.add(before["attempts"], done["attempts"])
    position = done.schema.get_field_index("attempts")
    record = attempt_of(done.schema) | {
        "images": done.num_rows,
        "rejects": done.num_rows - done["error_kind"].null_count,
        "bytes": pc.sum(done["image_bytes"]).as_py() or 0,
    }
    done = done.set_column(position, done.schema.field(position), attempts)
    done = done.select(base.column_names).cast(base.schema)
    # Rows of `base`, then of `done`: each row of the chunk is taken from one of the two.
    order = np.arange(base.num_rows)
    order[chosen] = base.num_rows + np.arange(done.num_rows)
    both = pa.concat_tables([base.replace_schema_metadata(), done.replace_schema_metadata()])
    return with_attempt(both.take(pa.array(order)), record)
