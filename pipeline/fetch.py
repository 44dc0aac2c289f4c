"""Image bytes from where the uri says. Local files for now."""

import errno
import os
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

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
        path = local_path(uri)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > config.max_image_bytes:
                raise FetchError("too_large", f"{size} bytes, over fetch.max_image_bytes={config.max_image_bytes}")
            return file.read()
    except FileNotFoundError as error:
        raise FetchError("not_found", "there is no such file") from error
    except (NotADirectoryError, IsADirectoryError) as error:
        raise FetchError("not_found", "this is no file") from error
    except PermissionError as error:
        raise FetchError("forbidden", "this process may not read the file") from error
    except ValueError as error:  # a name with a null byte in it
        raise FetchError("not_found", f"no file can have this name: {error}") from error
    except OSError as error:
        kind = "not_found" if error.errno in _BAD_NAME else "connection"
        raise FetchError(kind, error.strerror or str(error)) from error


def local_path(uri: str) -> Path:
    """The file that a path or a file:// uri names. Raises FetchError for an empty uri and for other schemes."""
    if not uri:
        raise FetchError("not_found", "the manifest has no uri in this row")
    if "://" not in uri:
        return Path(uri)
    scheme = uri.split("://", 1)[0].lower()
    if scheme != "file":
        raise FetchError("unsupported_uri", f"uris of scheme {scheme}:// cannot be read yet")
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(uri).path)))


_BAD_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
"""ENAMETOOLONG and ELOOP: such a file cannot exist, which is no fault of the storage."""
