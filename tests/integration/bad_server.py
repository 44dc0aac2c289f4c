"""An HTTP server on loopback that misbehaves on purpose, one way for each path."""

import gzip
import io
import re
import socket
import ssl
import struct
import tarfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PICTURE = (Path(__file__).parents[2] / "ramcore/demo/pictures/scene_00.jpg").read_bytes()
BIG_BYTES = 100 << 20


class BadServer:
    """Threads on real sockets. requests: how often each path was asked for; sent: bytes of the largest body."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.requests: Counter[str] = Counter()
        self.sent = 0
        self.ranges: dict[socket.socket, re.Match[bytes] | None] = {}
        self._context = context
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port = self._listener.getsockname()[1]
        self.ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def close(self) -> None:
        self.ended.set()
        self._listener.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request:
                block = connection.recv(65536)
                if not block:
                    return
                request += block
                if request.startswith(b"\x16"):  # TLS is spoken to one who does not
                    respond(connection, b"", "400 Bad Request")
                    return
            path = request.split(b" ", 2)[1].decode()
            self.requests[path] += 1
            self.ranges[connection] = re.search(rb"(?i)\r\nrange: bytes=(\d+)-(\d+)", request)
            BEHAVIOURS[path.split("?")[0].split("/")[1]](self, connection, path)
        with suppress(OSError):
            connection.close()


def respond(connection: socket.socket, body: bytes = b"", status: str = "200 OK", *headers: str) -> None:
    """A proper answer, unless the headers say otherwise."""
    lines = list(headers)
    if not any(line.startswith(("Content-Length", "Transfer-Encoding")) for line in lines):
        lines.append(f"Content-Length: {len(body)}")
    connection.sendall("\r\n".join([f"HTTP/1.1 {status}", *lines, "Connection: close", "", ""]).encode() + body)


def _hang(server: BadServer, connection: socket.socket, path: str) -> None:
    server.ended.wait(30)


def _slow(server: BadServer, connection: socket.socket, path: str) -> None:
    server.ended.wait(0.2)
    respond(connection, PICTURE)


def _hang_in_body(server: BadServer, connection: socket.socket, path: str) -> None:
    respond(connection, PICTURE[:100], "200 OK", f"Content-Length: {len(PICTURE)}")
    server.ended.wait(30)


def _drip(server: BadServer, connection: socket.socket, path: str) -> None:
    respond(connection, b"", "200 OK", f"Content-Length: {len(PICTURE)}")
    for byte in PICTURE:
        connection.sendall(bytes([byte]))
        if server.ended.wait(0.1):
            return


def _reset(server: BadServer, connection: socket.socket, path: str) -> None:
    respond(connection, PICTURE[:100], "200 OK", f"Content-Length: {len(PICTURE)}")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _too_many(server: BadServer, connection: socket.socket, path: str) -> None:
    if server.requests[path] == 1:
        respond(connection, b"", "429 Too Many Requests", "Retry-After: 1")
    else:
        respond(connection, PICTURE)


def _twice(server: BadServer, connection: socket.socket, path: str) -> None:
    if server.requests[path] <= 2:
        respond(connection, b"", "503 Service Unavailable")
    else:
        respond(connection, PICTURE)


def _redirect(location: str) -> Callable[[BadServer, socket.socket, str], None]:
    return lambda server, connection, path: respond(connection, b"", "302 Found", f"Location: {location}")


def _answer(body: bytes, status: str = "200 OK", *headers: str) -> Callable[[BadServer, socket.socket, str], None]:
    return lambda server, connection, path: respond(connection, body, status, *headers)


def _pour(server: BadServer, connection: socket.socket, path: str) -> None:
    """100 MB, in chunks that do not say how many there will be."""
    respond(connection, b"", "200 OK", "Transfer-Encoding: chunked")
    block, server.sent = bytes(1 << 20), 0
    while server.sent < BIG_BYTES:
        connection.sendall(b"100000\r\n" + block + b"\r\n")
        server.sent += len(block)
    connection.sendall(b"0\r\n\r\n")


def _status(server: BadServer, connection: socket.socket, path: str) -> None:
    respond(connection, b"", f"{path.split('?')[0].split('/')[2]} Whatever")


def _files(server: BadServer, connection: socket.socket, path: str) -> None:
    """A well-behaved folder of files, which knows ranges."""
    data = _FILES.get(path.split("?")[0].removeprefix("/files/"))
    if data is None:
        respond(connection, b"", "404 Not Found")
    elif (asked := server.ranges[connection]) is None:
        respond(connection, data)
    else:
        start, last = (int(number) for number in asked.groups())
        part = data[start : last + 1]
        where = f"Content-Range: bytes {start}-{start + len(part) - 1}/{len(data)}"
        respond(connection, part, "206 Partial Content", where)


def _raw(data: bytes) -> Callable[[BadServer, socket.socket, str], None]:
    return lambda server, connection, path: connection.sendall(data)


_BOMB = gzip.compress(bytes(1 << 28), 1)
"""A quarter of a gigabyte in about a megabyte."""


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = len(PICTURE)
        tar.addfile(info, io.BytesIO(PICTURE))
    return buffer.getvalue()


def _parquet() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image_bytes": [PICTURE]}), buffer)
    return buffer.getvalue()


_FILES = {
    "": b'<a href="../">up</a><a href="fine.jpg">1</a><a href="sub/">2</a><a href="/else">3</a><a href="http://h/x">4</a>',
    "sub/": b'<a href="../">up</a><a href="b.jpg">1</a>',
    "fine.jpg": PICTURE,
    "sub/b.jpg": PICTURE,
    "list.txt": b"fine.jpg\nsub/b.jpg\n",
    "x.tar": _tar(),
    "x.parquet": _parquet(),
}

BEHAVIOURS: dict[str, Callable[[BadServer, socket.socket, str], None]] = {
    "fine": _answer(PICTURE),
    "slow": _slow,
    "hang": _hang,
    "hang-in-body": _hang_in_body,
    "drip": _drip,
    "reset": _reset,
    "429": _too_many,
    "429-for-long": _answer(b"", "429 Too Many Requests", "Retry-After: 3600"),
    "503-twice": _twice,
    "loop": _redirect("/loop"),
    "redirect": _redirect("/fine"),
    "to-private": _redirect("http://10.0.0.1/x.jpg"),
    "to-metadata": _redirect("http://169.254.169.254/latest/meta-data/"),
    "to-decimal": _redirect("http://2852039166/latest/meta-data/"),
    "to-file": _redirect("file:///etc/passwd"),
    "to-nowhere": _answer(b"", "302 Found"),
    "short": _answer(PICTURE[:200], "200 OK", f"Content-Length: {len(PICTURE)}"),
    "long": _answer(PICTURE, "200 OK", "Content-Length: 400"),
    "html": _answer(b"<!doctype html><html><body>No such picture</body></html>", "200 OK", "Content-Type: image/jpeg"),
    "empty": _answer(b""),
    "pour": _pour,
    "says-big": _answer(b"", "200 OK", f"Content-Length: {BIG_BYTES}"),
    "bomb": _answer(_BOMB, "200 OK", "Content-Encoding: gzip"),
    "gzip": _answer(gzip.compress(PICTURE), "200 OK", "Content-Encoding: gzip"),
    "gzip-cut": _answer(gzip.compress(PICTURE)[:-20], "200 OK", "Content-Encoding: gzip"),
    "brotli": _answer(PICTURE, "200 OK", "Content-Encoding: br"),
    "noai": _answer(PICTURE, "200 OK", "X-Robots-Tag: noarchive, NoAI"),
    "for-others": _answer(PICTURE, "200 OK", "X-Robots-Tag: otherbot: noindex"),
    "status": _status,
    "files": _files,
    "garbage": _raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"),
    "nothing": _raw(b""),
    "endless-header": lambda server, connection, path: connection.sendall(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 300_000),
}


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[BadServer]:
    """A server for as long as the block lasts."""
    server = BadServer(context)
    try:
        yield server
    finally:
        server.close()
