"""Tars of images, as WebDataset has them: indexed once at planning, then read by byte range, member by member."""

import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.fetching.members import TarMember
from pipeline.fetching.outcome import FetchError

_BLOCK = tarfile.BLOCKSIZE
_LONGEST_HEADER = 1 << 20
"""More than this in one extended header (pax, GNU long names) is no name, but an attack or damage."""


class ArchiveError(Exception):
    """A tar cannot be indexed; the message says why."""


class _HeaderFile:
    """What tarfile reads headers from: no read may be larger than a header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell = file.tell
        self.seek = file.seek

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise ArchiveError(f"a header of {size} bytes")
        return self._file.read(size)


def index_tar(file: BinaryIO, container: str) -> Iterator[TarMember]:
    """All members that are no folders, in order; links and devices with their size as the header says.

    file: the tar, opened and seekable; container: its uri. Only headers are read. Raises ArchiveError for a file
    that is no tar, is compressed, or is damaged or cut.
    """
    reached = -1
    try:
        with tarfile.open(fileobj=_HeaderFile(file), mode="r:", errorlevel=0) as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members = []  # it would keep them all
                if member.offset <= reached or member.size < 0:
                    raise ArchiveError("its headers lead backwards")
                reached = member.offset
                if not member.isdir():
                    yield TarMember(container, member.offset_data, member.size, member.name)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, IndexError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise ArchiveError(f"no uncompressed tar, or a damaged or cut one ({reason})") from error


def member_span(member: TarMember, most: int) -> tuple[int, int]:
    """The bytes to read: the header in front of the content, and the content. Raises FetchError if none may be read."""
    if not member.is_safe:
        raise FetchError("blocked_path", "the member's name is absolute or leads out of the archive")
    if member.size > most:
        raise FetchError("too_large", f"{member.size} bytes, over fetch.max_image_bytes={most}")
    if member.offset < _BLOCK:
        raise FetchError("unsupported_uri", f"offset={member.offset} is within the first header of a tar")
    return member.offset - _BLOCK, member.offset + member.size


def member_content(member: TarMember, data: bytes) -> bytes:
    """The member's bytes out of what lies at `member_span`, once its header proves that they are still the same.

    Raises FetchError if the tar has changed since it was indexed, ends too early, or if the member is a link.
    """
    try:
        header = tarfile.TarInfo.frombuf(data[:_BLOCK], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError, OverflowError, IndexError) as error:
        raise FetchError("not_found", "there is no member at this place; index the tar again in a new run") from error
    if not header.isreg():
        raise FetchError("blocked_path", "the member is a link or a device; links are not followed")
    if header.size not in (member.size, 0) and header.size < 8**11 - 1:
        raise FetchError("not_found", "another member is at this place; index the tar again in a new run")
    content = data[_BLOCK:]
    if len(content) < member.size:
        raise FetchError("truncated", f"the tar ends after {len(content)} of the member's {member.size} bytes")
    return content
