"""The event log of a run: `events/*.jsonl`, append-only, one writer for each object.

It holds what the committed chunks cannot: leases, attempts that died or lost, commits, the life of nodes and replicas.
"""

import heapq
import json
import re
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from pipeline.errors import StoreError
from pipeline.events.shapes import is_event
from pipeline.stores.read_ahead import read_ahead
from pipeline.stores.run_store import RunStore

LOGS = "events/"
"""Folder of a run that holds its log."""
_ROLLED = re.compile(r"(\.\d+)?\.jsonl$")
"""End of a log's name; on object storage a log is several numbered objects."""
_BLOCK_BYTES = 1 << 16
"""Read of a log at a time. Then it is closed: a large fleet has thousands, and many systems stop at 1,024 files."""


class EventLog:
    """One writer's log. On local disk a line is with the operating system when `write` returns; a bucket gets it
    within seconds.

    The log is for accounts, not for results: if it cannot be written, that is said on standard error, and work goes on.

    session: the driver process that this belongs to; writer: what writes, such as "fleet"; heard: told of each event.
    """

    def __init__(
        self,
        store: RunStore,
        session: str,
        writer: str,
        heard: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._log = store.append_log(f"{LOGS}{session}-{writer}-{uuid.uuid4().hex[:8]}")
        self._session = session
        self._heard = heard

    def write(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append one event of docs/events.md; the whole of it, where `at` is seconds since 1970."""
        record = {"at": round(time.time(), 3), "session": self._session, "event": event, **fields}
        try:
            self._log.write(json.dumps(record) + "\n")
        except (OSError, StoreError) as error:
            print(f"event {event} is not in the log: {error}", file=sys.stderr)  # noqa: T201 - goes to the worker's log
        if self._heard is not None:
            self._heard(record)
        return record

    def close(self) -> None:
        """The whole log is in the store when this returns, if the store answers."""
        self._log.close()


def read_events(store: RunStore, session: str | None = None) -> Iterator[dict[str, Any]]:
    """All events of a run, or of one session, log by log in order of name.

    Lines that are not whole, such as a killed writer leaves behind, or are damaged, are passed over.
    """
    for name in _logs(store, session):
        yield from _read(store, name, _block(store, name, 0))


def events_in_order(store: RunStore, session: str | None = None) -> Iterator[dict[str, Any]]:
    """All events of a run, or of one session: one session after the other, in each by time.

    Memory does not grow with their number.
    """
    for _, of_session in groupby(_logs(store, session), key=lambda name: name.removeprefix(LOGS).split("-", 1)[0]):
        logs = [list(log) for _, log in groupby(of_session, key=lambda name: _ROLLED.sub("", name))]
        # The merge wants the first event of every log before it gives one: in a bucket that is an answer for each.
        first = read_ahead(lambda log: _block(store, log[0], 0), logs)
        streams = [_chained(store, log, block) for log, block in zip(logs, first, strict=True)]
        yield from heapq.merge(*streams, key=lambda event: float(event["at"]))


def _logs(store: RunStore, session: str | None) -> list[str]:
    return sorted(name for name in store.list(LOGS) if session is None or name.startswith(f"{LOGS}{session}-"))


def _chained(store: RunStore, names: list[str], first: bytes) -> Iterator[dict[str, Any]]:
    """The events of a log; first: its first block."""
    yield from _read(store, names[0], first)
    for name in names[1:]:
        yield from _read(store, name, _block(store, name, 0))


def _read(store: RunStore, name: str, block: bytes) -> Iterator[dict[str, Any]]:
    """The events of an object; block: its first."""
    begin, rest = 0, b""
    while block:
        begin += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from _parsed(lines)
        block = _block(store, name, begin) if len(block) == _BLOCK_BYTES else b""
    yield from _parsed([rest])


def _parsed(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    return filter(None, (parse_event(line.decode("utf-8", "replace")) for line in lines))


def _block(store: RunStore, name: str, begin: int) -> bytes:
    with store.open(name) as file:
        file.seek(begin)
        return file.read(_BLOCK_BYTES)


def parse_event(line: str) -> dict[str, Any] | None:
    """The event of a line; None for one that is not whole, or is not as docs/events.md says."""
    try:
        event = json.loads(line)
        if "\\ud" in line:  # halves of a character, as names that are not UTF-8 have them: no output can show these
            event = json.loads(json.dumps(event, ensure_ascii=False).encode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return event if is_event(event) else None
