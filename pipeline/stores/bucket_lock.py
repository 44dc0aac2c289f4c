"""A lock in a bucket, made of conditional writes alone, without trust in anybody's clock.

A lock is an object `PREFIX0000007`; the highest number counts. To take it, one creates the next number, which only one
can. Its holder rewrites it every few seconds; whoever waits takes a lock that has not changed for as long as it has
watched, by its own clock, to be that of a dead holder. What a holder that slept for longer still does is harmless, as
parts are named by their content; at worst they are written once more.
"""

import re
import threading
import time
import uuid
from types import TracebackType
from typing import TYPE_CHECKING

from pipeline.errors import StoreError

if TYPE_CHECKING:
    from pipeline.stores.run_store import RunStore

RENEW_S = 2.0
STALE_S = 15.0
_LOOK_S = 0.5
_FREE = b"free"


class BucketLock:
    """Use as a context manager; entering waits."""

    def __init__(self, store: "RunStore", prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self._folder = prefix.rsplit("/", 1)[0] + "/"
        self._owner = uuid.uuid4().hex
        self._number = 0
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lock", daemon=True)

    def __enter__(self) -> "BucketLock":
        seen, since = b"", time.monotonic()
        while True:
            number, content = self._highest()
            if content != seen:
                seen, since = content, time.monotonic()
            if (content == _FREE or time.monotonic() - since > STALE_S) and self._take(number + 1):
                break
            time.sleep(_LOOK_S)
        self._renewer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._renewer.join()
        try:
            self._store.replace(self._name(self._number), _FREE)
        except StoreError:
            if error is None:  # else it is the same outage, which is told already
                raise

    def _take(self, number: int) -> bool:
        created = self._store.create(self._name(number), self._content(0))
        # A repeated request may have lost against itself.
        if not created and self._store.read(self._name(number)) != self._content(0):
            return False
        self._number = number
        for name in list(self._store.list(self._folder)):
            if (old := self._number_of(name)) is not None and old < number:
                self._store.delete(name)
        return True

    def _highest(self) -> tuple[int, bytes]:
        numbers = [self._number_of(name) for name in self._store.list(self._folder)]
        number = max((number for number in numbers if number is not None), default=-1)
        if number < 0:
            return -1, _FREE
        try:
            return number, self._store.read(self._name(number))
        except FileNotFoundError:  # a higher one has come meanwhile
            return number, b""

    def _renew(self) -> None:
        beat = 0
        while not self._done.wait(RENEW_S):
            beat += 1
            try:
                self._store.replace(self._name(self._number), self._content(beat))
            except StoreError:
                continue  # the work that the lock is for meets the same outage, and tells

    def _content(self, beat: int) -> bytes:
        return f"{self._owner} {beat}".encode()

    def _name(self, number: int) -> str:
        return f"{self._prefix}{number:07d}"

    def _number_of(self, name: str) -> int | None:
        found = re.fullmatch(re.escape(self._prefix) + r"(\d{7,})", name)
        return int(found[1]) if found else None
