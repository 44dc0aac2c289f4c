"""A run as a store of immutable objects: a local folder, or a prefix of a bucket. `create` is a run's commit point."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

BUCKET_SCHEMES = ("s3", "gs", "az")
"""Schemes of runs on object storage."""

TEMPORARY = ".tmp-"
"""Names that begin so are nobody's objects: they are not listed."""


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it. modified_at: seconds since 1970, by the store's clock; size: bytes."""

    name: str
    size: int
    modified_at: float


class LineLog(Protocol):
    """A log that only grows, with one writer."""

    def write(self, line: str) -> None:
        """Append a line, which ends in a newline. Raises OSError or StoreError if it is lost."""

    def close(self) -> None:
        """Everything is in the store when this returns."""


class RunStore(ABC):
    """Objects below one folder or prefix, each created whole or not at all. Names have forward slashes.

    root: absolute path, or URL without credentials. Instances are small and can be sent to other processes; what
    they need to reach their bucket travels with them, and is neither shown nor written anywhere.
    Methods raise StoreError if the store refuses, and StoreAwayError, which is resumable, if it does not answer.
    """

    root: str

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.root!r})"

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Write an object if there is none of this name; False if there was one already. Atomic: one winner."""

    @abstractmethod
    def upload(self, name: str, local_path: str | Path) -> bool:
        """Write the content of a local file, for names that say what the content is; False if it was there already.

        Two uploads of one name may both succeed: they write the same.
        """

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Write an object, or put it in the place of the one of this name, in one atomic step."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """The object as a seekable file; no more of it is held in memory than is read. Raises FileNotFoundError."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether there is an object of this name."""

    @abstractmethod
    def entries(self, prefix: str) -> Iterator[Entry]:
        """The objects in the folder `prefix`, which ends in a slash, or is "" for the top; unsorted, not opened."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove the object if it is there."""

    @abstractmethod
    def append_log(self, name: str) -> LineLog:
        """A log of this writer alone. name: without extension; where objects cannot grow, several are numbered."""

    @abstractmethod
    def alone(self, name: str) -> AbstractContextManager[None]:
        """Within: no other process is within `alone(name)` of this store. Waits for its turn."""

    @abstractmethod
    def probe(self, single_writer: bool = False) -> None:
        """Prove that this store creates an object only if absent. Raises StoreError if it does not.

        single_writer: go on nevertheless, as the operator vouches that no two commands ever work on the run at once.
        """

    def list(self, prefix: str) -> Iterator[str]:
        """Names of the objects in a folder, as `entries`."""
        return (entry.name for entry in self.entries(prefix))

    @abstractmethod
    def is_empty(self) -> bool:
        """Whether there is nothing at all."""


def age_s(entry: Entry) -> float:
    """Seconds since the object was written, as far as the two clocks agree."""
    return max(0.0, time.time() - entry.modified_at)
