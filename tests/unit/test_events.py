"""The event log as it is read: in order, block by block, whatever the number of logs."""

import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from pipeline.events import log as events
from pipeline.events.log import EventLog, events_in_order, read_events
from pipeline.stores.local_store import LocalStore

SESSION = "20260101T000000-abcdef"
LOGS = 100


class _Counting(LocalStore):
    """Knows how many of its files were open at once, whatever the number of threads that read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.opened: list[BinaryIO] = []
        self.most = 0
        self._lock = threading.Lock()

    def open(self, name: str) -> BinaryIO:
        """As of `LocalStore`."""
        file = super().open(name)
        with self._lock:
            self.opened = [other for other in self.opened if not other.closed] + [file]
            self.most = max(self.most, len(self.opened))
        return file


def _written(store: LocalStore, logs: int, lines: int) -> int:
    """Lines in turn to each of the logs."""
    writers = [EventLog(store, SESSION, f"w{number}") for number in range(logs)]
    for line in range(lines):
        for number, writer in enumerate(writers):
            writer.write("spilled", bytes=line, writer=number, name="ä" * (line % 7))
    for writer in writers:
        writer.close()
    return logs * lines


@pytest.mark.parametrize("block_bytes", [1, 50, 97, 1 << 20])
def test_lines_across_blocks_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    """Wherever a block ends, also within a character."""
    store = LocalStore(tmp_path)
    _written(store, 2, 10)
    monkeypatch.setattr(events, "_BLOCK_BYTES", block_bytes)
    found = list(read_events(store))
    assert sorted((event["writer"], event["bytes"]) for event in found) == [(w, n) for w in (0, 1) for n in range(10)]
    assert all(event["name"] == "ä" * (event["bytes"] % 7) for event in found)


def test_a_log_that_fills_its_block_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing after it."""
    store = LocalStore(tmp_path)
    _written(store, 1, 3)
    monkeypatch.setattr(events, "_BLOCK_BYTES", next(store.entries("events/")).size)
    assert [event["bytes"] for event in events_in_order(store)] == [0, 1, 2]


def test_many_logs_need_few_open_files(tmp_path: Path) -> None:
    """Each process of a large fleet has one, and most processes may open 1,024."""
    store = _Counting(tmp_path)
    written = _written(store, LOGS, 3)
    found = list(events_in_order(store))
    assert len(found) == written
    assert [event["at"] for event in found] == sorted(event["at"] for event in found)
    assert store.most < LOGS / 2


def test_one_session_of_several(tmp_path: Path) -> None:
    """The others are passed over."""
    store = LocalStore(tmp_path)
    for session in (SESSION, "20260102T000000-abcdef"):
        log = EventLog(store, session, "driver")
        log.write("driver_ended")
        log.close()
    assert [event["session"] for event in events_in_order(store, SESSION)] == [SESSION]
