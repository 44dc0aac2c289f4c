"""The event log of a run: `events/*.jsonl`, append-only, one writer for each file.

It holds what the committed chunks cannot: leases, attempts that died or lost, commits, the life of nodes and replicas.
"""

import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pipeline.store import RunStore

_PREFIX = "events/"
_ALWAYS_THERE = {"at", "session", "event"}


class EventLog:
    """One writer's file. A line is with the operating system when `write` returns.

    The log is for accounts, not for results: if it cannot be written, that is said on standard error, and work goes on.

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
        try:
            self._file.write(json.dumps(record) + "\n")
        except OSError as error:
            print(f"event {event} is not in the log: {error}", file=sys.stderr)  # noqa: T201 - goes to the worker's log


def read_events(store: RunStore, session: str | None = None) -> Iterator[dict[str, Any]]:
    """All events of a run, or of one session, file by file in order of name.

    Lines that are not whole, such as a killed writer leaves behind, are passed over.
    """
    for name in sorted(store.list(_PREFIX)):
        if session is not None and not name.startswith(f"{_PREFIX}{session}-"):
            continue
        for line in store.read(name).decode("utf-8", errors="replace").splitlines():
            with suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict) and event.keys() >= _ALWAYS_THERE:
                    yield event
