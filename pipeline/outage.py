"""Is it the images or the storage? Rejects that may mean an outage are held back until that is known."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import OutageError

WINDOW_ROWS = 1_000
"""Rows over which the share of fetch failures is taken."""


@dataclass
class OutageGuard:
    """Looks at finished chunks in the order they come, and decides when those with fetch failures are committed.

    max_share: `run.max_reject_share`. A chunk without a fetch failure never passes through here to wait: only its
    counts do. A chunk with one is held until WINDOW_ROWS more rows have come without an outage, or none is left.
    """

    max_share: float
    _recent: deque[tuple[int, int]] = field(default_factory=deque)
    _held: deque[tuple[int, dict[str, Any]]] = field(default_factory=deque)
    _seen: int = 0

    def add(self, outcome: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Take in one outcome of the hand-over; yields held ones that may be committed now.

        Raises OutageError once more than max_share of the last WINDOW_ROWS rows could not be fetched.
        """
        self._seen += outcome["rows"]
        self._recent.append((outcome["rows"], outcome["retriable"]))
        while sum(rows for rows, _ in self._recent) - self._recent[0][0] >= WINDOW_ROWS:
            self._recent.popleft()
        if outcome["outcome"] == "held":
            self._held.append((self._seen, outcome))
        self._judge()
        while self._held and self._seen - self._held[0][0] >= WINDOW_ROWS:
            yield self._held.popleft()[1]

    def finish(self) -> Iterator[dict[str, Any]]:
        """No more outcomes come: all that is held may be committed."""
        while self._held:
            yield self._held.popleft()[1]

    @property
    def held_rows(self) -> int:
        """Rows of chunks that are done but not committed."""
        return sum(outcome["rows"] for _, outcome in self._held)

    def _judge(self) -> None:
        rows = sum(rows for rows, _ in self._recent)
        retriable = sum(retriable for _, retriable in self._recent)
        if rows >= WINDOW_ROWS and retriable > self.max_share * rows:
            raise OutageError(
                f"{retriable} of the last {rows} images could not be fetched, more than "
                f"run.max_reject_share={self.max_share:g}: the source seems to be away, and {self.held_rows} images "
                "were not committed. Run the same command again when it is back; "
                "if these images are really missing, add --set run.max_reject_share=1"
            )
