"""A remote object as a file that can be read and sought in."""

import io
from collections.abc import Callable

from pipeline.fetching.outcome import FetchError, Span

READ_AHEAD = 4 << 20
"""Bytes of one request while a file is read from front to back."""


class RangeFile(io.RawIOBase):
    """Reads by byte ranges.

    read_span: (first byte, end) → bytes; its errors come out of `read`. size: of the object in bytes. A FetchError is
    kept in `failure`, as libraries in between may put an error of their own in its place.
    """

    def __init__(self, read_span: Callable[[Span], bytes], size: int) -> None:
        super().__init__()
        self._read_span, self._size = read_span, size
        self._at = 0
        self._ahead, self._ahead_from = b"", 0
        self.failure: FetchError | None = None

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: "memoryview | bytearray") -> int:  # type: ignore[override]
        """Fill the buffer as far as the object goes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes, fewer only at the end of the object."""
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        start = self._at - self._ahead_from
        if not 0 <= start <= start + wanted <= len(self._ahead):
            end = min(self._size, self._at + max(wanted, READ_AHEAD))
            self._ahead, self._ahead_from, start = self._request((self._at, end)), self._at, 0
        data = self._ahead[start : start + wanted]
        self._at += len(data)
        return data

    def _request(self, span: Span) -> bytes:
        if span[0] >= span[1]:
            return b""
        try:
            return self._read_span(span)
        except FetchError as error:
            self.failure = error
            raise
