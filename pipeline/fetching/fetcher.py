"""The Fetcher: uris in, bytes or the kind of the fault out, many at a time, from a thread of its own."""

import asyncio
import posixpath
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa
from obstore.exceptions import BaseError

from pipeline.config import FetchConfig, StorageConfig
from pipeline.errors import ConfigError
from pipeline.fetching import buckets, web
from pipeline.fetching.addresses import Lookup, system_lookup
from pipeline.fetching.archives import member_content, member_span
from pipeline.fetching.buckets import Buckets
from pipeline.fetching.files import Roots, read_file
from pipeline.fetching.image_tables import ImageTables
from pipeline.fetching.members import Cell, TarMember, parse_member
from pipeline.fetching.outcome import Content, Fetched, FetchError, Span
from pipeline.fetching.pace import Pace
from pipeline.fetching.range_file import RangeFile
from pipeline.fetching.threads import DaemonPool
from pipeline.fetching.web import Web

T = TypeVar("T")

_MOST_LEFT_BEHIND = 256
"""Reads of files that hang for ever, beyond which no further file is tried."""
_CLOSING_S = 5.0


class Fetcher:
    """Fetches images until it is closed; every method may be called from any thread.

    All waiting is done on one event loop in a thread of its own, reading of local files and of Parquet in daemon
    threads that may hang without holding anything up. Every row gets fetch.retries further attempts, and no library
    below adds any.

    roots: folders of local images; none by default = those of fetch.allow_roots, which "auto" leaves empty here.
    lookup: the name service, for tests.
    """

    def __init__(
        self,
        config: FetchConfig,
        storage: StorageConfig | None = None,
        roots: tuple[str, ...] | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        self._config = config
        given = () if config.allow_roots == "auto" else config.allow_roots
        self._roots = Roots(given if roots is None else roots)
        self._buckets = Buckets(config, storage or StorageConfig())
        self._pool = DaemonPool(max(config.concurrency, 4), _MOST_LEFT_BEHIND, "fetch-file")
        self._tables = ImageTables(self._open_table)
        self._lookup = lookup
        self._lock = threading.Lock()
        self._queued: list[tuple[Future[Fetched], str]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="fetch-loop", daemon=True)
        self._thread.start()
        self._pace, self._web = self._call(self._prepare())

    def __enter__(self) -> "Fetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, uri: str) -> "Future[Fetched]":
        """Queue one image; its future never raises, but holds a FetchError in the result."""
        future: Future[Fetched] = Future()
        with self._lock:
            self._queued.append((future, uri))
            is_first = len(self._queued) == 1
        if is_first:  # else the loop has been woken already
            self._loop.call_soon_threadsafe(self._start_queued)
        return future

    def fetch(self, uri: str) -> bytes:
        """One image's bytes. Raises FetchError, whose `attempts` says how many there were."""
        fetched = self.begin(uri).result()
        if fetched.data is None:
            raise fetched.error or FetchError("connection", "no bytes came")
        return fetched.data

    def read_span(self, uri: str, span: Span) -> bytes:
        """So many bytes of a file, retried like an image. Raises FetchError if it ends before."""
        content: Content = self._call(self._repeat(uri, lambda: self._content(uri, span, span[1] - span[0])))[0]
        if len(content.data) < span[1] - span[0]:
            raise FetchError("truncated", f"ends after {span[0] + len(content.data)} bytes")
        return content.data

    def size(self, uri: str) -> int:
        """Bytes of a bucket's object or of a web server's file that can be read by ranges. Raises FetchError."""
        return int(self._call(self._repeat(uri, lambda: self._size(uri)))[0])

    def open(self, uri: str) -> RangeFile:
        """A remote file, to be read and sought in. Raises FetchError."""
        return RangeFile(lambda span: self.read_span(uri, span), self.size(uri))

    def save(self, uri: str, path: str) -> None:
        """Copy a remote file, however large, to a local path; starts again after a failure. Raises FetchError."""
        self._call(self._repeat(uri, lambda: self._save(uri, path), timeout_s=None))

    @property
    def buckets(self) -> Buckets:
        """For listing."""
        return self._buckets

    def close(self) -> None:
        """Give up what is under way, end all connections and the thread. May be called again."""
        if not self._thread.is_alive():
            return
        closing = asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        try:
            closing.result(_CLOSING_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_CLOSING_S)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _prepare(self) -> tuple[Pace, Web]:
        return Pace(self._config), Web(self._config, self._pool, self._lookup)

    async def _shut(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._web.close()

    def _start_queued(self) -> None:
        with self._lock:
            queued, self._queued = self._queued, []
        for future, uri in queued:
            task = self._loop.create_task(self._deliver(future, uri))
            self._tasks.add(task)
            task.add_done_callback(partial(self._finished, future))

    async def _deliver(self, future: "Future[Fetched]", uri: str) -> None:
        fetched = await self._fetched(uri)
        if future.set_running_or_notify_cancel():
            future.set_result(fetched)

    def _finished(self, future: "Future[Fetched]", task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            future.cancel()
        elif (error := task.exception()) is not None:
            future.set_exception(error)

    async def _fetched(self, uri: str) -> Fetched:
        spent = _Spent()
        try:
            data, attempts = await self._repeat(uri, lambda: self._image(uri), spent)
            return Fetched(data, spent.seconds, attempts)
        except FetchError as error:
            return Fetched(None, spent.seconds, error.attempts, error)

    async def _repeat(
        self, uri: str, attempt: Any, spent: "_Spent | None" = None, timeout_s: float | None = -1.0
    ) -> tuple[Any, int]:
        """The one retry layer: (result of an attempt, how many it took). Raises FetchError."""
        spent = spent or _Spent()
        limit = self._config.total_timeout_s if timeout_s == -1.0 else timeout_s
        host = _host(uri)
        number = 0
        while True:
            number += 1
            async with self._pace.turn(host):
                start = time.perf_counter()
                try:
                    return await _attempted(attempt(), limit), number
                except FetchError as error:
                    fault = error
                finally:
                    spent.seconds += time.perf_counter() - start
            fault.attempts = number
            if fault.kind == "timeout" and _in_threads(uri):
                fault.repeated = False  # a reading that hangs keeps a thread for as long as it does
            wait = self._pace.wait_s(host, number, fault)
            if wait is None:
                raise fault
            await asyncio.sleep(wait)

    async def _image(self, uri: str) -> bytes:
        if not uri.startswith(("tar+", "parquet+")):
            return (await self._content(uri, None, self._config.max_image_bytes)).data
        member = parse_member(uri)
        if isinstance(member, Cell):
            return await self._cell(member)
        return await self._member(member)

    async def _member(self, member: TarMember) -> bytes:
        span = member_span(member, self._config.max_image_bytes)
        content = await self._content(member.container, span, span[1] - span[0])
        return member_content(member, content.data)

    async def _cell(self, cell: Cell) -> bytes:
        _scheme(cell.container)
        try:
            data, path = await self._pool.run(
                self._config.total_timeout_s, self._tables.read, cell, self._config.max_image_bytes
            )
        except (TimeoutError, asyncio.CancelledError):
            self._tables.forget(cell)
            raise
        if data is not None:
            return data
        if path is None:
            raise FetchError("empty", "the cell is null")
        if path.startswith(("tar+", "parquet+")):
            raise FetchError("unsupported_uri", "a cell that leads to another archive")
        folder = posixpath.dirname(cell.container)
        uri = path if "://" in path or path.startswith("/") else f"{folder}/{path}"
        return (await self._content(uri, None, self._config.max_image_bytes)).data

    async def _content(self, uri: str, span: Span | None, most: int) -> Content:
        scheme = _scheme(uri)
        if scheme in web.SCHEMES:
            return await self._web.read(uri, span, most)
        if scheme in buckets.SCHEMES:
            return await self._buckets.read(uri, span, most)
        return await self._pool.run(self._config.total_timeout_s, read_file, uri, self._roots, span, most)

    async def _size(self, uri: str) -> int:
        if _scheme(uri) in buckets.SCHEMES:
            return await self._buckets.size(uri)
        total = (await self._web.read(uri, (0, 1), 1)).total_bytes
        if total is None:
            raise FetchError("bad_response", "this server cannot send parts of a file; copy the file", repeated=False)
        return total

    async def _save(self, uri: str, path: str) -> None:
        source = self._web if _scheme(uri) in web.SCHEMES else self._buckets
        with open(path, "wb") as file:
            async for block in source.blocks(uri):
                file.write(block)

    def _open_table(self, uri: str) -> Any:
        """A Parquet file for the threads that read it; not retried, as the row that asked is."""
        if _scheme(uri) in ("", "file"):
            return _LocalFile(uri, self._roots)
        size = self._call(_attempted(self._size(uri), self._config.total_timeout_s))

        def read_span(span: Span) -> bytes:
            reading = self._content(uri, span, span[1] - span[0])
            return self._call(_attempted(reading, self._config.total_timeout_s)).data

        return RangeFile(read_span, size)


class _Spent:
    """Seconds of the attempts of a row so far."""

    seconds = 0.0


class _LocalFile(RangeFile):
    """A local file under the same rules as images, read by spans."""

    def __init__(self, uri: str, roots: Roots) -> None:
        size = read_file(uri, roots, (0, 0), 0).total_bytes or 0
        super().__init__(lambda span: read_file(uri, roots, span, span[1] - span[0]).data, size)


async def _attempted(attempt: Coroutine[Any, Any, T], limit_s: float | None) -> T:
    """One attempt within its time. Raises FetchError, and nothing else for a bad uri or source."""
    try:
        async with asyncio.timeout(limit_s):
            return await attempt
    except TimeoutError as error:
        earlier = f" ({error})" if str(error) else ""
        raise FetchError("timeout", f"no end within fetch.total_timeout_s={limit_s or 0:g}{earlier}") from error
    except ConfigError as error:
        raise FetchError("forbidden", str(error)) from error
    except (BaseError, OSError, ValueError, LookupError, pa.ArrowException) as error:
        raise FetchError("bad_response", f"not understood: {type(error).__name__}", repeated=False) from error


def _scheme(uri: str) -> str:
    """The uri's scheme; "" for a path. Raises FetchError for one that nothing here reads."""
    scheme = uri.partition("://")[0].lower() if "://" in uri else ""
    if scheme not in _SCHEMES:
        if "/" in scheme:
            return ""  # a path that has :// in it
        raise FetchError("unsupported_uri", f"uris of scheme {scheme[:20]}:// cannot be read")
    return scheme


_SCHEMES = frozenset({"", "file"}) | web.SCHEMES | buckets.SCHEMES


def _in_threads(uri: str) -> bool:
    """Whether it is read in a thread: local files, members of local tars, all cells."""
    return uri.startswith("parquet+") or "://" not in uri or uri.lower().startswith(("file:", "tar+file:"))


def _host(uri: str) -> str | None:
    """Host and port of an http(s) uri or of the archive that it points into, as far as they can be told."""
    start = uri.partition("+")[2] if uri.startswith(("tar+", "parquet+")) else uri
    scheme, separator, rest = start.partition("://")
    if not separator or scheme.lower() not in web.SCHEMES:
        return None
    return rest.partition("/")[0].rpartition("@")[2].lower()[:300]
