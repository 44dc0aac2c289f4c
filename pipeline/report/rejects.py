"""The rejects of a run by kind, with a few examples of each."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.error_kinds import ERROR_KINDS
from pipeline.finished_run import FinishedRun

_EXAMPLES = 3


@dataclass
class RejectKind:
    """Rejects of one kind. examples: (image_id, uri, error_detail)."""

    kind: str
    images: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def cause(self) -> str:
        """Why images are rejected so."""
        return ERROR_KINDS[self.kind].cause if self.kind in ERROR_KINDS else "not a kind that this version knows"

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return (
            ERROR_KINDS[self.kind].remedy
            if self.kind in ERROR_KINDS
            else "read the table with the version that wrote it"
        )

    @property
    def retriable(self) -> bool:
        """Whether `ramfleet retry` tries them again."""
        return self.kind in ERROR_KINDS and ERROR_KINDS[self.kind].retriable


def gather_rejects(run: FinishedRun) -> list[RejectKind]:
    """The kinds of a run's rejects, the most frequent first."""
    kinds: dict[str, RejectKind] = {}
    for batch in run.batches("rejects", ("image_id", "uri", "error_kind", "error_detail")):
        for entry in pc.value_counts(batch["error_kind"]).to_pylist():
            kind = kinds.setdefault(entry["values"], RejectKind(entry["values"]))
            kind.images += entry["counts"]
            kind.examples += _examples(batch, kind)
    return sorted(kinds.values(), key=lambda kind: (-kind.images, kind.kind))


def _examples(batch: pa.RecordBatch, kind: RejectKind) -> Iterator[tuple[str, str, str]]:
    missing = _EXAMPLES - len(kind.examples)
    if missing > 0:
        rows = batch.filter(pc.equal(batch["error_kind"], kind.kind)).slice(0, missing)
        for row in rows.to_pylist():
            yield row["image_id"], row["uri"], row["error_detail"] or ""
