"""Local files: which may be read, and their bytes."""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from pipeline.fetching.outcome import Content, FetchError, Span


class Roots:
    """Folders that files may be read from, with all links resolved. A root that is a file allows that file alone."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._given = tuple(os.path.abspath(folder) for folder in folders)
        self._real = tuple(os.path.realpath(folder) for folder in self._given)

    def __str__(self) -> str:
        return ", ".join(self._given) or "none"

    def named(self, path: str) -> bool:
        """Whether a path lies within a root as it is written, `..` taken away; links are not looked at."""
        lexical = os.path.normpath(path)
        return any(_within(lexical, root) for root in (*self._given, *self._real))

    def holds(self, path: str) -> bool:
        """Whether a path lies within a root once its links are resolved. Raises ValueError for an impossible name."""
        return self.holds_real(os.path.realpath(path))

    def holds_real(self, path: str) -> bool:
        """As `holds`, of a path that has no links."""
        return any(_within(path, root) for root in self._real)


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def local_path(uri: str) -> Path:
    """The file that a path or a file:// uri names. Raises FetchError for an empty uri and for other schemes."""
    if not uri:
        raise FetchError("not_found", "the manifest has no uri in this row")
    if "://" not in uri:
        return Path(uri)
    scheme, rest = uri.split("://", 1)
    if scheme.lower() != "file":
        raise FetchError("unsupported_uri", f"uris of scheme {scheme.lower()[:20]}:// cannot be read")
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise FetchError(
            "unsupported_uri", f"file:// names the host {host[:80]!r}; write file:///path for a local file"
        )
    return Path(os.fsdecode(unquote_to_bytes("/" + path)))


def read_file(uri: str, roots: Roots, span: Span | None, most: int) -> Content:
    """The bytes of a regular file within the roots, or a span of them, `most` at most.

    Blocks for as long as the file system does. Raises FetchError.
    """
    try:
        path = os.path.join(os.getcwd(), local_path(uri))
        if not roots.named(path) and not roots.holds(path):
            raise _outside(roots)
        with open(path, "rb", opener=_open_at_once) as file:
            # Asked of the open file itself: no link can be exchanged in between.
            if not roots.holds_real(os.readlink(f"/proc/self/fd/{file.fileno()}")):
                raise _outside(roots)
            return _read(file, span, most)
    except FileNotFoundError as error:
        raise FetchError("not_found", "there is no such file") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise FetchError("not_found", "this is no file") from error
    except PermissionError as error:
        raise FetchError("forbidden", "this process may not read the file") from error
    except ValueError as error:  # a name with a null byte in it, or that is no text of this system
        raise FetchError("not_found", f"no file can have this name: {error}") from error
    except OSError as error:
        if error.errno in _NO_CONTENT:
            raise FetchError("not_found", _NOT_REGULAR) from error
        kind = "not_found" if error.errno in _BAD_NAME else "connection"
        raise FetchError(kind, error.strerror or type(error).__name__) from error


def _outside(roots: Roots) -> FetchError:
    return FetchError("blocked_path", f"it lies outside of the folders that may be read: {roots}")


def _open_at_once(path: str, flags: int) -> int:
    """Opened without waiting for a pipe's writer, or taking a terminal."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _read(file: BinaryIO, span: Span | None, most: int) -> Content:
    """The content of a regular file of `most` bytes at most, even where it grows or states no size, as in /proc."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise FetchError("not_found", _NOT_REGULAR)
    if span is not None:
        file.seek(span[0])
        return Content(file.read(min(span[1] - span[0], most)), status.st_size)
    if status.st_size > most:
        raise FetchError("too_large", f"{status.st_size} bytes, over fetch.max_image_bytes={most}")
    data = file.read(status.st_size + 1) or b""  # None where a file of the kernel has nothing to say now
    if len(data) <= status.st_size:
        return Content(data, status.st_size)
    blocks, left = [data], most + 1 - len(data)
    while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
        blocks.append(block)
        left -= len(block)
    if left <= 0:
        raise FetchError("too_large", f"grew while it was read, over fetch.max_image_bytes={most}")
    data = b"".join(blocks)
    return Content(data, len(data))


_BLOCK_BYTES = 1 << 20
_NOT_REGULAR = "this is no regular file"
_NO_CONTENT = (errno.ENXIO, errno.ENODEV)
"""Of sockets, and of devices without hardware."""
_BAD_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
"""ENAMETOOLONG and ELOOP: such a file cannot exist, which is no fault of the storage."""
