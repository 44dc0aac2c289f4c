"""Files below a folder in a fixed order, without holding more than one folder's names at a time."""

import os
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from fsspec.utils import glob_translate

IMAGE_EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".bmp", ".dib", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".heic", ".heif", ".jxl",
})  # fmt: skip
"""Names that end so are images. The last three cannot be decoded yet: they become rejects, which says so."""

_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class _Entry:
    name: str
    is_folder: bool
    is_file: bool
    identity: tuple[int, int] | None
    """Device and inode of a local folder: a link back to a folder above it would never end."""


def is_image_name(name: str) -> bool:
    """Whether the extension is that of an image, in any case of letters."""
    return posixpath.splitext(name)[1].lower() in IMAGE_EXTENSIONS


def is_glob(path: str) -> bool:
    """Whether a path holds any of `* ? [`."""
    return _MAGIC.search(path) is not None


def split_glob(pattern: str) -> tuple[str, str]:
    """A pattern as (the folder in front of its first part with magic, the rest)."""
    parts = pattern.split("/")
    first = next(index for index, part in enumerate(parts) if is_glob(part))
    return "/".join(parts[:first]) or "/", "/".join(parts[first:])


def walk(root: str, max_depth: int | None = None) -> Iterator[str]:
    """Paths of all files below `root`, relative to it, by name within each folder, folders in their place.

    Names that begin with a dot are passed over. Links to folders are followed, but not in circles. A link to
    nothing, to itself or to where this process may not look counts as a file, so that it is reported when it is
    read; devices and pipes do not.
    max_depth: parts of a path at most; None = no limit. Raises OSError when a folder cannot be listed.
    """
    stack = [("", iter(_entries(root)), frozenset({_identity(os.stat(root))}))]
    while stack:
        folder, entries, above = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
        elif entry.is_file:
            yield folder + entry.name
        elif entry.is_folder and (max_depth is None or len(stack) < max_depth) and entry.identity not in above:
            path = folder + entry.name
            seen = above | {entry.identity} if entry.identity else above
            stack.append((path + "/", iter(_entries(posixpath.join(root, path))), seen))


def glob_matches(pattern: str) -> tuple[str, Iterator[str]]:
    """The folder in front of the pattern's first magic part, and the matching files relative to it, as `walk`.

    `*` and `?` match within a name, `[..]` a set of characters, `**` any number of folders.
    """
    root, rest = split_glob(pattern)
    matches = re.compile(glob_translate(rest)).match
    max_depth = None if "**" in rest.split("/") else rest.count("/") + 1
    return root, (path for path in walk(root, max_depth) if matches(path))


def storable(path: str, uri: bool = False) -> str:
    """A local path as text that can be stored: names that are not UTF-8 are percent-encoded, as uri or not."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return ("file://" if uri else "") + quote(os.fsencode(path))
    return path


def _entries(folder: str) -> list[_Entry]:
    with os.scandir(folder) as entries:
        listed = [_local_entry(entry) for entry in entries if not entry.name.startswith(".")]
    return sorted(listed, key=lambda entry: entry.name)


def _local_entry(entry: os.DirEntry[str]) -> _Entry:
    """A link that cannot be followed is a file."""
    try:
        return _followed(entry)
    except OSError:
        if not entry.is_symlink():
            raise
        return _Entry(entry.name, False, True, None)


def _followed(entry: os.DirEntry[str]) -> _Entry:
    if entry.is_dir():
        return _Entry(entry.name, True, False, _identity(entry.stat()))
    is_lost_link = entry.is_symlink() and not os.path.exists(entry.path)
    return _Entry(entry.name, False, entry.is_file() or is_lost_link, None)


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
