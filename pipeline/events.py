"""The event log of a run: `events/*.jsonl`, append-only, one writer for each file.

It holds what the committed chunks cannot: leases, attempts that died or lost, commits, the life of nodes and replicas.
"""

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

from pipeline.store import RunStore

_PREFIX = "events/"


class EventLog:
    """One writer's file. A line is on disk when `write` returns.

    session: the driver process that this belongs to; writer: what writes, such as "fleet".
    """

    def __init__(self, store: RunStore, session: str, writer: str) -> None:
        self._path = store.path(f"{_PREFIX}{session}-{writer}-{uuid.uuid4().hex[:8]}.jsonl")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a", encoding="utf-8", buffering=1)
        self._session = session

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; `at` is seconds since 1970."""
        record = {"at": round(time.time(), 3), "session": self._session, "event": event, **fields}
        self._file.write(json.dumps(record) + "\n")


def read_events(store: RunStore, session: str | None = None) -> Iterator[dict[str, Any]]:
    """All events of a run, or of one session, file by file in order of name.

    A last line that a killed writer left half-written is passed over.
    """
    for name in sorted(store.list(_PREFIX)):
        if session is not None and not name.startswith(f"{_PREFIX}{session}-"):
            continue
        for line in store.read(name).decode("utf-8", errors="replace").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)
