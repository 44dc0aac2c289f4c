"""Large files over HTTP that survive any interruption: what has arrived is kept and never fetched again."""

import fcntl
import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

PART_SUFFIX = ".part"
Progress = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes of the whole file."""

_BLOCK = 1 << 20
_TIMEOUT_S = 60
_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.5
_GONE_FOR_GOOD = range(400, 500)


class DownloadError(Exception):
    """A file could not be fetched, or is not what was announced."""


@dataclass(frozen=True)
class Source:
    """Where a file is now (addresses of content networks expire), with the headers to ask with, and its size."""

    url: str
    size: int
    headers: Mapping[str, str] = field(default_factory=dict)


def download(locate: Callable[[], Source], target: Path, progress: Progress | None = None) -> None:
    """Fetch a file to `target`, whose name must stand for this content; it appears whole or not at all.

    locate: asked before every attempt. What a killed process left in `target` + ".part" is taken up by a Range
    request, and so is a connection that breaks; after 5 attempts in a row that brought nothing, or at an answer of
    4xx, `DownloadError` is raised and the part stays. One process at a time: a second one gets the same error.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART_SUFFIX)
    with part.open("ab") as file:
        _lock(file, part)
        if target.exists():  # another process was faster
            part.unlink()
            return
        _fill(locate, file, progress)
        file.flush()
        os.fsync(file.fileno())
        os.replace(part, target)


def sha256(path: Path) -> str:
    """The file's sha256, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lock(file: BinaryIO, part: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadError(f"another process is fetching it to {part}: wait for that one") from error


def _fill(locate: Callable[[], Source], file: BinaryIO, progress: Progress | None) -> None:
    """Append to the file until it has the announced size."""
    fruitless = 0
    while True:
        before = file.tell()
        try:
            source = locate()
            _append(source, file, progress)
            if file.tell() == source.size:
                return
            error: Exception = DownloadError(f"the connection ended at byte {file.tell()} of {source.size}")
        except (OSError, http.client.HTTPException) as failure:
            if isinstance(failure, urllib.error.HTTPError) and failure.code in _GONE_FOR_GOOD:
                raise DownloadError(f"{failure.url.split('?')[0]}: HTTP {failure.code} {failure.reason}") from failure
            error = failure
        fruitless = 0 if file.tell() > before else fruitless + 1
        if fruitless == _ATTEMPTS:
            raise DownloadError(str(error) or type(error).__name__) from error
        time.sleep(_FIRST_PAUSE_S * 2**fruitless)


def _append(source: Source, file: BinaryIO, progress: Progress | None) -> None:
    if file.tell() > source.size:  # of something else, whatever its name says
        _empty(file)
    if file.tell() == source.size:
        return
    headers = dict(source.headers) | ({"Range": f"bytes={file.tell()}-"} if file.tell() else {})
    with urllib.request.urlopen(urllib.request.Request(source.url, headers=headers), timeout=_TIMEOUT_S) as answer:
        if answer.status != http.HTTPStatus.PARTIAL_CONTENT:
            _empty(file)  # the server knows no ranges
        while block := answer.read1(_BLOCK):
            file.write(block)
            file.flush()
            if progress is not None:
                progress(file.tell(), source.size)


def _empty(file: BinaryIO) -> None:
    file.seek(0)  # truncate alone would leave tell() where it was
    file.truncate()
