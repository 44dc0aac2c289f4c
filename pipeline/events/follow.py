"""The event log of a run as it grows, from its folder alone, on any machine."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.events.log import LOGS, parse_event
from pipeline.events.presence import AT_WORK_S
from pipeline.stores.run_store import Entry, RunStore

POLL_S = 2.0
"""How often a run that is followed is looked at; a bucket gets events within two seconds of their time."""


class EventTail:
    """What has been added to a run's log since it was last read, whoever wrote it."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._read: dict[str, int] = {}

    def new(self) -> list[dict[str, Any]]:
        """Events that were not there before, by time. A line that is not whole yet comes when it is."""
        events = [event for entry in self._store.entries(LOGS) for event in self._of(entry)]
        return sorted(events, key=lambda event: float(event["at"]))

    def _of(self, entry: Entry) -> Iterator[dict[str, Any]]:
        begin = self._read.get(entry.name, 0)
        if entry.size <= begin:
            return
        with self._store.open(entry.name) as file:
            file.seek(begin)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        self._read[entry.name] = begin + whole
        lines = data[:whole].decode("utf-8", "replace").split("\n")
        yield from filter(None, map(parse_event, lines))


def follow_events(
    store: RunStore, pause: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.time
) -> Iterator[dict[str, Any]]:
    """All events that there are, by time, and then new ones as they come, until no driver is at work on the run."""
    tail = EventTail(store)
    heard: dict[str, float] = {}
    ended: set[str] = set()
    while True:
        now, new = clock(), tail.new()
        for event in new:
            session = event["session"]
            heard[session] = max(heard.get(session, 0.0), float(event["at"]))
            if event["event"] == "driver_ended":
                ended.add(session)
            yield event
        if not new and all(session in ended or now - at > AT_WORK_S for session, at in heard.items()):
            return
        pause(POLL_S)
