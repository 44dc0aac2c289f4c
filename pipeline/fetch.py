"""Image bytes from where the uri says. Local files for now."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote_to_bytes

from pipeline.config import FetchConfig


class FetchError(Exception):
    """The bytes of an image cannot be had. kind: an error kind of the stage "fetch"."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}"


def fetch(uri: str, config: FetchConfig) -> bytes:
    """The object's bytes. Raises FetchError with the kind of the fault, never anything else for a bad uri."""
    try:
        with open(local_path(uri), "rb", opener=_open_at_once) as file:
            return _read(file, config.max_image_bytes)
    except FileNotFoundError as error:
        raise FetchError("not_found", "there is no such file") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise FetchError("not_found", "this is no file") from error
    except PermissionError as error:
        raise FetchError("forbidden", "this process may not read the file") from error
    except ValueError as error:  # a name with a null byte in it
        raise FetchError("not_found", f"no file can have this name: {error}") from error
    except OSError as error:
        if error.errno in _NO_CONTENT:
            raise FetchError("not_found", _NOT_REGULAR) from error
        kind = "not_found" if error.errno in _BAD_NAME else "connection"
        raise FetchError(kind, error.strerror or str(error)) from error


def local_path(uri: str) -> Path:
    """The file that a path or a file:// uri names. Raises FetchError for an empty uri and for other schemes."""
    if not uri:
        raise FetchError("not_found", "the manifest has no uri in this row")
    if "://" not in uri:
        return Path(uri)
    scheme, rest = uri.split("://", 1)
    if scheme.lower() != "file":
        raise FetchError("unsupported_uri", f"uris of scheme {scheme.lower()}:// cannot be read yet")
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise FetchError("unsupported_uri", f"file:// names the host {host!r}; write file:///path for a local file")
    return Path(os.fsdecode(unquote_to_bytes("/" + path)))


def _open_at_once(path: str, flags: int) -> int:
    """Opened without waiting for a pipe's writer, or taking a terminal."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _read(file: BinaryIO, most: int) -> bytes:
    """The content of a regular file of `most` bytes at most, even where it grows or states no size, as in /proc."""
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise FetchError("not_found", _NOT_REGULAR)
    if status.st_size > most:
        raise FetchError("too_large", f"{status.st_size} bytes, over fetch.max_image_bytes={most}")
    data = file.read(status.st_size + 1) or b""  # None where a file of the kernel has nothing to say now
    if len(data) <= status.st_size:
        return data
    blocks, left = [data], most + 1 - len(data)
    while left > 0 and (block := file.read(min(left, _BLOCK_BYTES))):
        blocks.append(block)
        left -= len(block)
    if left <= 0:
        raise FetchError("too_large", f"grew while it was read, over fetch.max_image_bytes={most}")
    return b"".join(blocks)


_BLOCK_BYTES = 1 << 20
_NOT_REGULAR = "this is no regular file"
_NO_CONTENT = (errno.ENXIO, errno.ENODEV)
"""Of sockets, and of devices without hardware."""
_BAD_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
"""ENAMETOOLONG and ELOOP: such a file cannot exist, which is no fault of the storage."""
