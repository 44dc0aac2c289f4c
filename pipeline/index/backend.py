"""The contract of a back end: what takes documents in, and finds them again."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RunError
from pipeline.index.documents import Documents, Found
from pipeline.index.ledger import Ledger
from pipeline.index.names import Names
from pipeline.index.query import Query


class MissingPackageError(RunError):
    """A back end needs a package that is not installed."""

    exit_code = 2


@dataclass(frozen=True)
class Batch:
    """Documents to be taken in. docs: a number for each; replaces: whether the number is in the index already; packed:
    as `Documents.packed` gives them."""

    documents: Documents
    docs: NDArray[np.int64]
    replaces: NDArray[np.bool_]
    packed: list[bytes]


class Writer(ABC):
    """Takes documents in. `write` and `remove` may be repeated after a process was killed: the result is the same.

    ledger: what was fed; transactional: ledger and documents are one store, committed in one step.
    """

    ledger: Ledger
    transactional = False

    @abstractmethod
    def prepare(self, names: Names) -> None:
        """Make what is not there yet, and keep the names."""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Take documents in, in the place of those of the same numbers."""

    @abstractmethod
    def remove(self, docs: Sequence[int], image_ids: Sequence[str]) -> None:
        """Drop documents; some may be gone already."""

    @abstractmethod
    def commit(self) -> None:
        """All since the last commit is durable, and can be searched, when this returns."""

    @abstractmethod
    def finish(self) -> None:
        """Tidy up at the end of a feed."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; what was not committed is gone."""


class Reader(ABC):
    """Finds documents."""

    @abstractmethod
    def find(self, query: Query, limit: int, offset: int) -> tuple[int, list[Found]]:
        """How many documents there are, and those from `offset` on, at most `limit`, the highest rank first.

        Documents of equal rank have an order that stays the same until the index changes.
        """

    @abstractmethod
    def facets(self, query: Query, tags: int) -> dict[int, int]:
        """How many of the documents have each tag, whatever its score. tags: how many tags there are in all."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections."""


def package(name: str, extra: str, what: str | None = None) -> ModuleType:
    """A module of an optional package. what: needs it, an index of the kind `extra` if not given.

    Raises MissingPackageError, with what to install.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != name.split(".")[0]:
            raise
        raise MissingPackageError(
            f"{what or f'an index of the kind {extra}'} needs the package {name}, which is not installed: "
            f"pip install 'ramfleet[{extra}]'"
        ) from error
