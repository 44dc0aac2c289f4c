"""Where images may come from without being named in the configuration: what INPUT itself says."""

import os
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import FetchConfig
from pipeline.errors import InputError
from pipeline.fetching import web
from pipeline.fetching.files import Roots, local_path
from pipeline.fetching.outcome import FetchError
from pipeline.manifests.listing import is_glob, split_glob
from pipeline.manifests.readers import manifest_extension

_MOST_RESOLVED = 10_000
"""Folders whose links are resolved while a run is planned; those of further rows are when they are read."""


def with_input(config: FetchConfig, uri: str, path: str | None) -> FetchConfig:
    """The configuration with fetch.allow_roots and fetch.allow_hosts as INPUT resolves and extends them.

    uri: INPUT as given; path: its absolute local path, or None if it is remote. A folder, glob, picture, archive or
    listing allows itself. A manifest allows only its own folder, if it is local and allow_roots is auto.
    """
    given = () if config.allow_roots == "auto" else config.allow_roots
    if path is not None:
        return config.model_copy(update={"allow_roots": (*given, *_own_roots(path, config.allow_roots == "auto"))})
    hosts = config.allow_hosts
    # A Parquet file may hold images itself.
    if manifest_extension(uri.partition("?")[0]) in (None, ".parquet") and (host := _host(uri)):
        hosts = (*hosts, host)
    return config.model_copy(update={"allow_roots": given, "allow_hosts": hosts})


def with_input_host(config: FetchConfig, uri: str) -> FetchConfig:
    """For reading INPUT itself: whoever starts a run may name any host."""
    host = _host(uri)
    return config.model_copy(update={"allow_hosts": (*config.allow_hosts, host)}) if host else config


def _own_roots(path: str, auto: bool) -> tuple[str, ...]:
    if is_glob(path) and not os.path.lexists(path):
        return (split_glob(path)[0],)
    extension = None if os.path.isdir(path) else manifest_extension(path)
    if auto and extension:
        return (os.path.dirname(path),)
    # Of a manifest that is not one of images itself, nothing is fetched.
    return () if extension and extension != ".parquet" else (path,)


def _host(uri: str) -> str | None:
    if uri.partition("://")[0].lower() not in web.SCHEMES:
        return None
    try:
        url = web.parse_url(uri)
    except FetchError:
        return None
    return f"{url.host}:{url.port}".lower()


def checked(batches: Iterator[pa.RecordBatch], roots: Sequence[str], label: str) -> Iterator[pa.RecordBatch]:
    """The batches of rows, as long as their local files lie below the roots.

    Raises InputError that names fetch.allow_roots. Work and memory are bounded: links are resolved for folders only,
    and for so many of them; each file is looked at again when it is read.
    """
    check = _RootCheck(Roots(roots), label)
    for batch in batches:
        check.look(batch["uri"])
        yield batch


class _RootCheck:
    def __init__(self, roots: Roots, label: str) -> None:
        self._roots, self._label = roots, label
        self._seen: set[str] = set()

    def look(self, uris: pa.Array) -> None:
        is_local = pc.or_(
            pc.match_substring_regex(uris, r"^((tar|parquet)\+)?(?i:file)://"),
            pc.and_(pc.invert(pc.match_substring(uris, "://")), pc.not_equal(uris, "")),
        )
        local = uris.filter(is_local)
        if not len(local):
            return
        places = pc.replace_substring_regex(local, r"^(tar|parquet)\+([^#]*)(#.*)?$", r"\2")
        is_member = pc.match_substring_regex(local, r"^(tar|parquet)\+")
        folders = pc.if_else(is_member, places, pc.replace_substring_regex(local, r"[^/]*$", ""))
        for place in pc.unique(folders).to_pylist():
            self._look_at(place)

    def _look_at(self, place: str) -> None:
        if place in self._seen:
            return
        try:
            path = os.path.abspath(local_path(place or "."))
            is_within = self._roots.named(path) if len(self._seen) >= _MOST_RESOLVED else self._roots.holds(path)
        except (FetchError, ValueError):
            return  # such a row is rejected when it is read
        if not is_within:
            raise InputError(
                f"INPUT {self._label}: it leads to {path}, outside of the folders that local images may come from "
                f"({self._roots}); if that is meant, add --set 'fetch.allow_roots=[{path}]' with all folders needed"
            )
        if len(self._seen) < _MOST_RESOLVED:
            self._seen.add(place)
