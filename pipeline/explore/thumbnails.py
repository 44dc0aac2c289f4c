"""Thumbnails of a run's images, made when they are first looked at and kept in a folder."""

import os
import re
import tempfile
import threading
import time
from pathlib import Path

from pipeline.config import FetchConfig, StorageConfig
from pipeline.fetching.fetcher import Fetcher
from pipeline.report.contact_sheet import NoPictureError, hasty, thumbnail

_AT_ONCE = 4
_TIMEOUT_S = 15.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Thumbnails:
    """Reads images by the pipeline's own fetching and decoding; only what has the sha256 that was tagged is shown."""

    def __init__(self, folder: Path, fetch: FetchConfig, storage: StorageConfig) -> None:
        self._folder = folder / "thumbnails"
        roots = ("/",) if fetch.allow_roots == "auto" else tuple(fetch.allow_roots)
        self._fetcher = Fetcher(hasty(fetch, _TIMEOUT_S), storage, roots)
        self._turns = threading.BoundedSemaphore(_AT_ONCE)

    def __enter__(self) -> "Thumbnails":
        self._fetcher.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._fetcher.__exit__(None, None, None)

    def jpeg(self, uri: str, sha256: str) -> bytes:
        """At most 192 pixels a side. Raises NoPictureError."""
        if not _SHA256.fullmatch(sha256):
            raise NoPictureError("has no sha256 in the run, so that what is there now cannot be compared with it")
        kept = self._folder / sha256[:2] / f"{sha256}.jpg"
        if kept.is_file():
            return kept.read_bytes()
        with self._turns:
            made = thumbnail(sha256, self._fetcher.begin(uri), time.monotonic() + _TIMEOUT_S, _TIMEOUT_S)
        _keep(kept, made)
        return made


def _keep(path: Path, data: bytes) -> None:
    """In one step, as another request may read it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    Path(name).replace(path)
