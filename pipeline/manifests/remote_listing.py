"""What lies below a prefix of a bucket, or below a page of links on the web."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from urllib.parse import quote, unquote, urljoin

from fsspec.utils import glob_translate

from pipeline.fetching import buckets, web
from pipeline.fetching.buckets import split_bucket
from pipeline.fetching.fetcher import Fetcher
from pipeline.fetching.members import is_safe_name
from pipeline.manifests.listing import split_glob

_MOST_DEPTH = 32


class ListedName(str):
    """A name as a listing gives it. version: what the listing says of the content, a text that changes with it."""

    version: str

    def __new__(cls, name: str, version: str) -> "ListedName":  # noqa: D102 - the class says it
        listed = super().__new__(cls, name)
        listed.version = version
        return listed


def is_remote(uri: str) -> bool:
    """Whether a uri is one of a bucket or of the web."""
    scheme, separator, _ = uri.partition("://")
    return bool(separator) and scheme.lower() in (buckets.SCHEMES | web.SCHEMES)


def is_on_web(uri: str) -> bool:
    """Whether a uri is one of the web: its path ends at the query."""
    return uri.partition("://")[0].lower() in web.SCHEMES


def path_part(uri: str) -> str:
    """The uri without a query, to tell a file by its name."""
    return uri.partition("?")[0].partition("#")[0] if is_on_web(uri) else uri


def is_remote_glob(uri: str) -> bool:
    """Whether it is a pattern: ? is one in a bucket only, as it begins a query on the web."""
    return re.search(r"[*\[]" if is_on_web(uri) else r"[*?\[]", uri.partition("://")[2]) is not None


def below(fetcher: Fetcher, uri: str) -> Iterator[str]:
    """Names of all files below a prefix or listing, relative to it; of a bucket in its order, page by page.

    Names of which a part begins with a dot are passed over. Raises FetchError.
    """
    found = _linked(fetcher, uri, 0) if is_on_web(uri) else _keys(fetcher, uri)
    return (name for name in found if is_safe_name(name) and not re.search(r"(^|/)(\.|$)", name))


def matching(fetcher: Fetcher, uri: str) -> tuple[str, Iterator[str]]:
    """(the folder in front of a pattern's first magic part, the names of files below it that match), as `below`."""
    folder, pattern = split_glob(uri)
    matches = re.compile(glob_translate(pattern)).match
    return folder, (name for name in below(fetcher, folder + "/") if matches(name))


def joined(folder: str, name: str) -> str:
    """The uri of a file that `below` names."""
    return f"{folder.rstrip('/')}/{quote(name) if is_on_web(folder) else name}"


def _keys(fetcher: Fetcher, uri: str) -> Iterator[str]:
    prefix = split_bucket(uri)[2]
    start = len(prefix) if not prefix or prefix.endswith("/") else len(prefix) + 1
    for key, version in fetcher.buckets.objects(uri):
        yield ListedName(key[start:], version)


def _linked(fetcher: Fetcher, folder: str, depth: int) -> Iterator[str]:
    """Files that the folder's HTML page links to, then those of the folders that it links to, by name."""
    page = _Links()
    page.feed(fetcher.fetch(folder).decode(errors="replace"))
    base = path_part(folder)  # without a query, which is not for the files below it
    links = sorted({path_part(urljoin(folder, link)) for link in page.links})
    inside = [link[len(base) :] for link in links if link.startswith(base) and link != base]
    for name in inside:
        if "/" not in name:
            yield unquote(name)
        elif name.count("/") == 1 and name.endswith("/") and depth < _MOST_DEPTH:
            for deeper in _linked(fetcher, base + name, depth + 1):
                yield unquote(name) + deeper


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.links += [value for name, value in attributes if name == "href" and value]
