"""Thumbnails of a run's images, made when they are first looked at and kept in a folder."""

import contextlib
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.config import FetchConfig, StorageConfig
from pipeline.fetching.fetcher import Fetcher
from pipeline.report.contact_sheet import NoPictureError, hasty, thumbnail

_AT_ONCE = 4
_TIMEOUT_S = 15.0
_WAIT_S = 5.0
"""For a turn: a thread that waits answers nothing else."""
_FAILED_S = 60.0
"""For which a picture that could not be shown is not tried again."""
_FAILED_KEPT = 10_000
MOST_THUMBNAIL_BYTES = 512 * 2**20
"""That are kept, unless another limit is given."""
_LEFT_SHARE = 0.9
"""Of the limit, after it was reached: so that not every further thumbnail makes room."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Thumbnails:
    """Reads images by the pipeline's own fetching and decoding; only what has the sha256 that was tagged is shown.

    most_bytes: of the folder; beyond it those go that were not looked at for the longest time.
    """

    def __init__(
        self, folder: Path, fetch: FetchConfig, storage: StorageConfig, most_bytes: int = MOST_THUMBNAIL_BYTES
    ) -> None:
        self._kept = _Kept(folder / "thumbnails", most_bytes)
        roots = ("/",) if fetch.allow_roots == "auto" else tuple(fetch.allow_roots)
        self._fetcher = Fetcher(hasty(fetch, _TIMEOUT_S), storage, roots)
        self._turns = threading.BoundedSemaphore(_AT_ONCE)
        self._failed: dict[tuple[str, str], tuple[float, str]] = {}

    def __enter__(self) -> "Thumbnails":
        self._fetcher.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._fetcher.__exit__(None, None, None)

    def jpeg(self, uri: str, sha256: str) -> bytes:
        """At most 192 pixels a side. Raises NoPictureError, for a minute without another attempt."""
        if not _SHA256.fullmatch(sha256):
            raise NoPictureError("has no sha256 in the run, so that what is there now cannot be compared with it")
        found = self._kept.get(sha256)
        if found is not None:
            return found
        until, why = self._failed.get((uri, sha256), (0.0, ""))
        if time.monotonic() < until:
            raise NoPictureError(why)
        made = self._made(uri, sha256)
        # A thumbnail that cannot be kept can be shown all the same.
        with contextlib.suppress(OSError):
            self._kept.put(sha256, made)
        return made

    def _made(self, uri: str, sha256: str) -> bytes:
        if not self._turns.acquire(timeout=_WAIT_S):
            raise NoPictureError("busy with other pictures: try again")
        try:
            return thumbnail(sha256, self._fetcher.begin(uri), time.monotonic() + _TIMEOUT_S, _TIMEOUT_S)
        except NoPictureError as error:
            if len(self._failed) >= _FAILED_KEPT:
                self._failed = {}
            self._failed[uri, sha256] = time.monotonic() + _FAILED_S, str(error)
            raise
        finally:
            self._turns.release()


class _Kept:
    """Files by name in a folder of bounded size, which several processes may share."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._lock = threading.Lock()
        self._bytes: int | None = None

    def get(self, name: str) -> bytes | None:
        path = self._path(name)
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            # Not there, or another process has just removed it.
            return None
        return data

    def put(self, name: str, data: bytes) -> None:
        """In one step, as another request may read it at the same time. Raises OSError."""
        if len(data) > self._most_bytes:
            return
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, work = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(work).replace(path)
        except OSError:
            Path(work).unlink(missing_ok=True)
            raise
        with self._lock:
            if self._bytes is None:
                self._bytes = sum(size for _, size, _ in self._files())
            else:
                self._bytes += len(data)
            if self._bytes > self._most_bytes:
                self._make_room()

    def _make_room(self) -> None:
        files = sorted(self._files(), key=lambda file: file[0])
        left = sum(size for _, size, _ in files)
        for _, size, path in files:
            if left <= _LEFT_SHARE * self._most_bytes:
                break
            path.unlink(missing_ok=True)
            left -= size
        self._bytes = left

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        """(last use in nanoseconds, bytes, path) of each."""
        for path in self._folder.glob("??/*"):
            with contextlib.suppress(FileNotFoundError):
                about = path.stat()
                yield about.st_mtime_ns, about.st_size, path

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / f"{name}.jpg"
