"""The balance of a run: input = tagged + rejected + duplicates + carried."""

from dataclasses import asdict, dataclass
from typing import Any

from pipeline.errors import IncompleteError


@dataclass(frozen=True)
class Counts:
    """Rows of a run. carried: taken over unchanged from the base run; missing: planned rows of chunks that are not
    committed, 0 in a finished run."""

    input: int
    tagged: int
    rejected: int
    duplicates: int
    carried: int
    missing: int

    def check(self) -> None:
        """Raises IncompleteError if the rows do not add up."""
        if self.input != self.tagged + self.rejected + self.duplicates + self.carried + self.missing:
            raise IncompleteError(
                f"the run does not add up: input {self.input} ≠ tagged {self.tagged} + rejected {self.rejected} + "
                f"duplicates {self.duplicates} + carried {self.carried} + not yet done {self.missing}"
            )

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


@dataclass(frozen=True)
class Published:
    """What finalize made: the tables' parts by folder, the counts, and what the summary shows.

    cost: see `pipeline.costs.run_costs.cost_summary`.
    """

    parts: dict[str, list[str]]
    counts: Counts
    rejects_by_kind: dict[str, int]
    frequent_tags: list[tuple[str, int]]
    cost: dict[str, Any]
