"""Where INPUT lies, locally or remotely: the files that it stands for, and how each is opened."""

import os
import posixpath
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, Protocol
from urllib.parse import unquote_to_bytes

from pipeline.config import Config
from pipeline.errors import InputError
from pipeline.fetching.fetcher import Fetcher
from pipeline.fetching.outcome import FetchError
from pipeline.fetching.redaction import redacted
from pipeline.manifests.listing import glob_matches, is_glob, split_glob, storable, walk
from pipeline.manifests.permission import with_input, with_input_host
from pipeline.manifests.remote_listing import below, is_on_web, is_remote, is_remote_glob, joined, matching, path_part

_AWAY = frozenset({"not_found", "forbidden", "timeout", "connection", "dns", "http_5xx", "throttled"})


class Place(Protocol):
    """INPUT as a folder, a pattern or one file.

    label: INPUT for messages; folder: in front of all names, for relative uris; roots: where local images may lie.
    """

    label: str
    folder: str
    is_folder: bool
    is_pattern: bool
    roots: tuple[str, ...]

    def names(self) -> Iterator[str]:
        """Files below the folder, those that match, or the one, relative to `folder`."""

    def location(self, name: str) -> str:
        """The uri or path of a file that `names` gives, as a plan has it."""

    def open(self, name: str) -> Any:
        """The file, seekable. Raises OSError or FetchError."""

    def close(self) -> None:
        """Give up what was needed for reading."""


def place_of(uri: str, config: Config) -> Place:
    """INPUT, which must be there. Raises InputError."""
    return RemotePlace(uri, config) if is_remote(uri) else LocalPlace(uri, config)


def still_there(uri: str, config: Config) -> bool:
    """Whether INPUT can be reached now: its file, or its folder with anything in it.

    An empty folder counts as gone: it is what a mount leaves behind.
    """
    if is_remote(uri):
        return not _is_away(uri, config)
    path = local_input_path(uri)
    if is_glob(path) and not os.path.lexists(path):
        path = split_glob(path)[0]
    try:
        with os.scandir(path) as entries:
            return next(entries, None) is not None
    except NotADirectoryError:
        return True
    except OSError:
        return False


def for_fetching(config: Config, uri: str) -> Config:
    """The configuration for the processes that fetch the images of INPUT: what INPUT allows by itself is allowed."""
    path = None if is_remote(uri) else local_input_path(uri)
    return config.model_copy(update={"fetch": with_input(config.fetch, uri, path)})


def local_input_path(uri: str) -> str:
    """The absolute local path that a path or a file:// uri names."""
    scheme, separator, rest = uri.partition("://")
    if not uri:
        raise InputError("INPUT is empty; give a folder, a glob, a picture or a manifest")
    if not separator:
        return os.path.abspath(uri)
    host, _, path = rest.partition("/")
    if scheme.lower() != "file" or host not in ("", "localhost"):
        raise InputError(f"INPUT {redacted(uri)}: {scheme}:// is not read; copy or mount it, and give its local path")
    return os.path.abspath(os.fsdecode(unquote_to_bytes("/" + path)))


class LocalPlace:
    """INPUT on local disk."""

    def __init__(self, uri: str, config: Config) -> None:
        self.label = uri
        self._path = local_input_path(uri)
        self.is_folder = os.path.isdir(self._path)
        self.is_pattern = not os.path.exists(self._path) and is_glob(self._path)
        if not (self.is_folder or self.is_pattern):
            self._check_file()
        if self.is_pattern:
            self.folder = split_glob(self._path)[0]
        else:
            self.folder = self._path if self.is_folder else posixpath.dirname(self._path)
        self.roots = tuple(with_input(config.fetch, uri, self._path).allow_roots)

    def names(self) -> Iterator[str]:
        """As Place."""
        if self.is_pattern:
            return glob_matches(self._path)[1] if os.path.isdir(self.folder) else iter(())
        return walk(self._path) if self.is_folder else iter([posixpath.basename(self._path)])

    def location(self, name: str) -> str:
        """As Place."""
        return storable(posixpath.join(self.folder, name), uri=True)

    def open(self, name: str) -> Any:
        """As Place."""
        return open(posixpath.join(self.folder, name), "rb")

    def close(self) -> None:
        """Nothing to give up."""

    def _check_file(self) -> None:
        if not os.path.exists(self._path):
            raise InputError(f"INPUT {self.label}: there is no such file or folder; it was looked for at {self._path}")
        if not os.path.isfile(self._path):
            raise InputError(
                f"INPUT {self.label}: a pipe, socket or device, which cannot be read twice; give a file or a folder"
            )


class RemotePlace:
    """INPUT in a bucket or on the web, read with the policy of fetch.*, but without asking robots rules.

    Parquet files and tars are read in place, others are copied first, so that every pass reads the same.
    """

    def __init__(self, uri: str, config: Config) -> None:
        self.label = redacted(uri)
        self._uri = uri
        self._scratch: str | None = None
        self.roots = tuple(with_input(config.fetch, uri, None).allow_roots)
        self._fetcher = _fetcher(uri, config)
        try:
            self.is_pattern = is_remote_glob(uri) and not self._is_object()
            self.is_folder = not self.is_pattern and self._is_prefix()
        except FetchError as error:
            self.close()
            raise InputError(f"INPUT {self.label}: {error}") from error
        path = path_part(uri)
        if self.is_pattern:
            self.folder = split_glob(path)[0]
        else:
            self.folder = path.rstrip("/") if self.is_folder else path.rsplit("/", 1)[0]

    def names(self) -> Iterator[str]:
        """As Place."""
        if self.is_pattern:
            return matching(self._fetcher, path_part(self._uri))[1]
        return below(self._fetcher, self._uri) if self.is_folder else iter([path_part(self._uri).rsplit("/", 1)[1]])

    def location(self, name: str) -> str:
        """As Place."""
        return joined(self.folder, name) if self.is_folder or self.is_pattern else self._uri

    def open(self, name: str) -> Any:
        """As Place."""
        uri = self.location(name)
        if name.lower().endswith((".tar", ".parquet")):
            return self._fetcher.open(uri)
        if self._scratch is None:
            self._scratch = tempfile.mkdtemp(prefix="ramfleet-input-")
        copy = os.path.join(self._scratch, re.sub(r"[^A-Za-z0-9._-]", "_", name)[-100:])
        if not os.path.exists(copy):
            self._fetcher.save(uri, copy + ".part")
            os.replace(copy + ".part", copy)
        return open(copy, "rb")

    def close(self) -> None:
        """As Place."""
        self._fetcher.close()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _is_object(self) -> bool:
        if is_on_web(self._uri):
            return False
        try:
            self._fetcher.size(self._uri)
        except FetchError as error:
            if error.kind != "not_found":
                raise
            return False
        return True

    def _is_prefix(self) -> bool:
        if is_on_web(self._uri):
            return path_part(self._uri).endswith("/")
        if self._is_object():
            return False
        if next(self._fetcher.buckets.objects(self._uri), None) is None:
            raise FetchError("not_found", "there is no such object, and none below it")
        return True


def _fetcher(uri: str, config: Config) -> Fetcher:
    reading = with_input_host(config.fetch, uri).model_copy(update={"robots": False})
    return Fetcher(reading, config.storage, roots=())


def _is_away(uri: str, config: Config) -> bool:
    folder = split_glob(uri)[0] if is_remote_glob(uri) else uri
    with _fetcher(uri, config) as fetcher:
        try:
            if is_on_web(uri):
                fetcher.read_span(folder, (0, 1))
            elif next(fetcher.buckets.objects(folder), None) is None:
                fetcher.size(uri)
        except FetchError as error:
            return error.kind in _AWAY
        return False
