"""http(s): one GET with our own redirects, time-outs and address rules. Never retries: that is the Fetcher's."""

import asyncio
import re
import ssl
import zlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from yarl import URL

from pipeline.config import FetchConfig
from pipeline.fetching.addresses import (
    BlockedAddressError,
    Lookup,
    Resolver,
    guarded_socket,
    is_public,
    literal_address,
    system_lookup,
)
from pipeline.fetching.outcome import Content, FetchError, Span
from pipeline.fetching.robots import forbidden_by
from pipeline.fetching.threads import DaemonPool

SCHEMES = frozenset({"http", "https"})

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BLOCK_BYTES = 1 << 16
_LONGEST_URL = 16_384


class Web:
    """A client for one event loop, on which all of it must be made, used and closed.

    Two sessions: one reaches public addresses only, the other, for hosts of fetch.allow_hosts and for a proxy, any.
    """

    def __init__(self, config: FetchConfig, pool: DaemonPool, lookup: Lookup = system_lookup) -> None:
        self._config = config
        self._allowed = frozenset(host.lower().rstrip(".") for host in config.allow_hosts)
        self._guarded = self._session(pool, lookup, guarded=True)
        self._open = self._session(pool, lookup, guarded=False)

    async def close(self) -> None:
        """End all connections."""
        await self._guarded.close()
        await self._open.close()

    async def read(self, uri: str, span: Span | None, most: int) -> Content:
        """The body, or a span of it, `most` bytes at most. Raises FetchError."""
        with explained(self._config):
            async with self._response(uri, span) as response:
                total = _total_bytes(response, span)
                if span is None and total is not None and total > most:
                    raise FetchError("too_large", f"{total} bytes, over fetch.max_image_bytes={most}")
                limit = most if span is None else span[1] - span[0]
                blocks: list[bytes] = []
                async for block in self._body(response, limit, cut=span is not None):
                    blocks.append(block)
        data = b"".join(blocks)
        return Content(data, len(data) if span is None else total)

    async def blocks(self, uri: str) -> AsyncIterator[bytes]:
        """The whole body in blocks, as large as it is."""
        with explained(self._config):
            async with self._response(uri, None, robots=False) as response:
                async for block in self._body(response, None, cut=False):
                    yield block

    def _session(self, pool: DaemonPool, lookup: Lookup, guarded: bool) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            resolver=Resolver(lookup, pool, self._config.connect_timeout_s, all_addresses=not guarded),
            socket_factory=guarded_socket if guarded else None,
            ssl=ssl.create_default_context(),  # aiohttp's own is made once, before anybody can set SSL_CERT_FILE
            limit=0,  # how many are under way is the Fetcher's to decide
        )
        session = aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._config.connect_timeout_s, sock_read=self._config.read_timeout_s
            ),
            headers={"User-Agent": self._config.user_agent, "Accept": "image/*, */*;q=0.5"},
            skip_auto_headers=("Accept-Encoding",),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        # Else it makes a GET again by itself when a connection breaks early; there is no public way to say so.
        session._retry_connection = False
        return session

    @asynccontextmanager
    async def _response(
        self, uri: str, span: Span | None, robots: bool = True
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The final answer, of a good status, after all redirects."""
        url = parse_url(uri)
        headers = {"Accept-Encoding": "identity"}
        if span is not None:
            headers["Range"] = f"bytes={span[0]}-{span[1] - 1}"
        for _ in range(self._config.max_redirects + 1):
            session = self._session_for(url)
            async with session.get(url, headers=headers, allow_redirects=False, proxy=self._config.proxy) as response:
                if response.status not in _REDIRECTS:
                    _check_status(response, span)
                    if robots and self._config.robots:
                        _check_robots(response, self._config.user_agent)
                    yield response
                    return
                url = _redirected(url, response)
        raise FetchError("too_many_redirects", f"more than fetch.max_redirects={self._config.max_redirects}")

    def _session_for(self, url: URL) -> aiohttp.ClientSession:
        """The session that may reach this host. Raises FetchError if none may, as far as its name tells."""
        host = (url.host or "").lower().rstrip(".")
        if {host, f"{host}:{url.port}", literal_address(host)} & self._allowed:
            return self._open
        literal = literal_address(host)
        is_disguised = literal is not None and ":" not in literal and literal != host
        if literal is not None and (is_disguised or not is_public(literal)):
            raise FetchError("blocked_address", f"the host {host[:80]} is no public address, or hides one")
        return self._open if self._config.proxy else self._guarded

    async def _body(self, response: aiohttp.ClientResponse, most: int | None, cut: bool) -> AsyncIterator[bytes]:
        """The body without its Content-Encoding. Past `most` bytes it ends if `cut`, else it raises FetchError."""
        left = most
        async for block in _decompressed(response, self._config.max_image_bytes if most is None else most):
            if left is not None and len(block) > left:
                if not cut:
                    raise FetchError("too_large", f"more than fetch.max_image_bytes={most} bytes")
                yield block[:left]
                return
            left = None if left is None else left - len(block)
            yield block


def parse_url(uri: str) -> URL:
    """The uri as aiohttp takes it. Raises FetchError for one that is none."""
    if len(uri) > _LONGEST_URL:
        raise FetchError("unsupported_uri", f"longer than {_LONGEST_URL} characters")
    try:
        url = URL(uri)
        is_whole = url.scheme in SCHEMES and bool(url.host) and url.port is not None
    except ValueError as error:
        raise FetchError("unsupported_uri", "this is no URL") from error
    if not is_whole:
        raise FetchError("unsupported_uri", "this URL names no host")
    if re.search(r"[\x00-\x20\x7f]", uri.partition("://")[2].partition("/")[0]):
        raise FetchError("unsupported_uri", "blanks or control characters in the host")
    return url.with_fragment(None)


@contextmanager
def explained(config: FetchConfig) -> Iterator[None]:
    """Faults of aiohttp as FetchError; their own texts are left out where they may hold the URL."""
    try:
        yield
    except aiohttp.ClientConnectorDNSError as error:
        if isinstance(error.os_error, BlockedAddressError):
            raise FetchError("blocked_address", str(error.os_error)) from error
        raise FetchError("dns", f"{error.host[:80]}: {error.os_error.strerror or 'no address'}") from error
    except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError, ssl.SSLError) as error:
        raise FetchError("tls", _tls_reason(error)) from error
    except aiohttp.ClientConnectorError as error:
        if isinstance(error.os_error, BlockedAddressError):
            raise FetchError("blocked_address", str(error.os_error)) from error
        raise FetchError("connection", error.os_error.strerror or "no connection to the host") from error
    except aiohttp.ConnectionTimeoutError as error:
        raise FetchError(
            "timeout", f"no connection within fetch.connect_timeout_s={config.connect_timeout_s:g}"
        ) from error
    except aiohttp.SocketTimeoutError as error:
        raise FetchError("timeout", f"no byte within fetch.read_timeout_s={config.read_timeout_s:g}") from error
    except (aiohttp.ClientPayloadError, zlib.error) as error:
        raise FetchError("connection", "the body ended before its end, or is damaged") from error
    except aiohttp.ClientResponseError as error:
        raise FetchError("bad_response", f"not HTTP: {type(error).__name__}") from error
    except (aiohttp.InvalidURL, ValueError) as error:  # also UnicodeError
        raise FetchError("unsupported_uri", "this is no URL that can be asked for") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise FetchError("connection", f"the connection broke: {type(error).__name__}") from error


def _tls_reason(error: BaseException) -> str:
    said = str(error)
    found = re.search(r"certificate verify failed[^(\]]*", said) or re.search(r"[A-Z][A-Z0-9_]{5,}", said)
    return found[0].strip()[:150] if found else "no trusted, encrypted connection"


def _redirected(url: URL, response: aiohttp.ClientResponse) -> URL:
    location = response.headers.get("Location")
    if not location:
        raise FetchError("bad_response", f"status {response.status} without a Location")
    try:
        return parse_url(str(url.join(URL(location))))
    except ValueError as error:
        raise FetchError("bad_response", f"status {response.status} with a Location that is no URL") from error
    except FetchError as error:
        raise FetchError("bad_response", f"status {response.status} leads to what is no http(s) URL") from error


def _check_status(response: aiohttp.ClientResponse, span: Span | None) -> None:
    status = response.status
    if status == 206 and span is not None:
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if not start or int(start[1]) != span[0]:
            raise FetchError("bad_response", "another range than was asked for")
        return
    if status == 200:
        if span is not None and span[0] > 0:
            raise FetchError("bad_response", "this server cannot send parts of a file; copy the file", repeated=False)
        return
    detail = f"status {status}"
    if status in (404, 410):
        raise FetchError("not_found", detail)
    if status in (401, 403, 407, 451):
        raise FetchError("forbidden", detail)
    if status == 416:
        raise FetchError("not_found", "the object is shorter than it was")
    if status in (408, 425):
        raise FetchError("timeout", detail, _retry_after(response))
    if status == 429:
        raise FetchError("throttled", detail, _retry_after(response))
    if 500 <= status < 600:
        raise FetchError("http_5xx", detail, _retry_after(response))
    if 400 <= status < 500:
        raise FetchError("http_4xx", detail)
    raise FetchError("bad_response", detail)


def _check_robots(response: aiohttp.ClientResponse, user_agent: str) -> None:
    directive = forbidden_by(response.headers.getall("X-Robots-Tag", []), user_agent)
    if directive:
        raise FetchError("robots", f"X-Robots-Tag: {directive}")


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    """Seconds that the server asks to wait, given as such or as a date."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, TypeError):
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _total_bytes(response: aiohttp.ClientResponse, span: Span | None) -> int | None:
    """Bytes of the whole object, as far as the server says."""
    if span is not None and response.status == 206:
        found = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", "").strip())
        return int(found[1]) if found else None
    return None if response.headers.get("Content-Encoding") else response.content_length


async def _decompressed(response: aiohttp.ClientResponse, step: int) -> AsyncIterator[bytes]:
    """The body in blocks of `step` bytes and some at most, so that a small one cannot become a large one unseen."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    blocks = response.content.iter_chunked(_BLOCK_BYTES)
    if encoding in ("", "identity"):
        async for block in blocks:
            yield block
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise FetchError(
            "bad_response", f"Content-Encoding {encoding[:20]!r}, though none was asked for", repeated=False
        )
    unpacker = zlib.decompressobj(wbits=47 if encoding != "deflate" else 15)
    async for block in blocks:
        while block:
            yield unpacker.decompress(block, min(step + 1, _BLOCK_BYTES * 16))
            block = unpacker.unconsumed_tail
            await asyncio.sleep(0)
    yield unpacker.flush()
    if not unpacker.eof:
        raise FetchError("connection", "the compressed body ended before its end")
