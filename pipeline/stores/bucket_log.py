"""A growing log where objects cannot grow: numbered objects, the last of which is written again as it fills up."""

import atexit
import sys
import threading
from typing import TYPE_CHECKING

from pipeline.errors import StoreError

if TYPE_CHECKING:
    from pipeline.stores.run_store import RunStore

_FLUSH_S = 2.0
"""What a killed writer loses at most, while the store answers."""
_ROLL_BYTES = 256 << 10
_MOST_BYTES = 8 << 20
"""Kept while the store is away; what comes then is dropped, and counted."""


class BucketLog:
    """One writer's lines. They are in the store some seconds after `write`, or when `close` returns.

    A thread writes them, so that nobody waits for the store; it starts with the first line.
    """

    def __init__(self, store: "RunStore", name: str) -> None:
        self._store, self._name = store, name
        self._number = 0
        self._current: list[bytes] = []
        self._bytes = self._dropped = 0
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._closed = False
        self._thread: threading.Thread | None = None

    def write(self, line: str) -> None:
        """Take a line in."""
        data = line.encode()
        with self._lock:
            if self._bytes + len(data) > _MOST_BYTES:
                self._dropped += 1
                return
            self._current.append(data)
            self._bytes += len(data)
            if self._thread is None:
                self._thread = threading.Thread(target=self._flush_for_ever, name="log", daemon=True)
                self._thread.start()
                atexit.register(self.close)
        self._changed.set()

    def close(self) -> None:
        """Write what is left."""
        self._closed = True
        self._changed.set()
        self._flush()

    def _flush_for_ever(self) -> None:
        pause = threading.Event()
        while not self._closed:
            self._changed.wait()
            pause.wait(_FLUSH_S)
            self._flush()

    def _flush(self) -> None:
        with self._writing:
            self._changed.clear()
            with self._lock:
                lines = len(self._current)
                data = b"".join(self._current)
            if not lines:
                return
            try:
                self._store.replace(f"{self._name}.{self._number:06d}.jsonl", data)
            except StoreError as error:
                self._changed.set()
                print(f"{self._name}: not written yet: {error}", file=sys.stderr)  # noqa: T201 - goes to the worker's log
                return
            if len(data) >= _ROLL_BYTES:
                self._roll(lines, len(data))

    def _roll(self, lines: int, size: int) -> None:
        with self._lock:
            del self._current[:lines]
            self._bytes -= size
            self._number += 1
            if self._dropped:
                print(f"{self._name}: {self._dropped} lines were dropped", file=sys.stderr)  # noqa: T201
                self._dropped = 0
