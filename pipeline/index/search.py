"""An open index: queries in, images out."""

from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, NamedTuple

from pipeline.index.backend import Reader
from pipeline.index.documents import Found
from pipeline.index.expression import THOUSAND
from pipeline.index.kinds import open_reader
from pipeline.index.names import Names
from pipeline.index.query import QueryError, parse

MOST_HITS = 10_000
"""Of one page."""


class TagScore(NamedTuple):
    """A tag of an image. score: 0 … 1, in whole thousandths, rounded down."""

    tag: str
    tag_zh: str
    score: float


@dataclass(frozen=True)
class Hit:
    """An image that was found. score: the sum of its scores of the tags that were asked for; tags: the surest first."""

    image_id: str
    uri: str
    width: int | None
    height: int | None
    caption: str | None
    score: float
    tags: list[TagScore]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "tags": [tag._asdict() for tag in self.tags]}


@dataclass(frozen=True)
class Facet:
    """A tag, and how many images of the result have it."""

    tag: str
    tag_zh: str
    images: int


@dataclass(frozen=True)
class Result:
    """A page of a result. total: images in all; facets: the most frequent tags of all these, empty if not asked for."""

    query: str
    total: int
    offset: int
    hits: list[Hit]
    facets: list[Facet]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        lists = {"hits": [hit.as_dict() for hit in self.hits], "facets": [asdict(facet) for facet in self.facets]}
        return {**vars(self), **lists}


class Index:
    """A search index that is open for reading; use as a context manager, or close it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._reader: Reader
        self.names: Names
        self._reader, self.names, self.about = open_reader(path)

    def search(self, query: str, limit: int = 20, offset: int = 0, facets: int = 0) -> Result:
        """Images that a query of docs/how-to/search.md means, the highest score first.

        limit, offset: the page; facets: so many of the most frequent tags of the whole result.
        Raises QueryError for a query that cannot be read or names unknown tags, and for numbers out of range.
        """
        for name, value, most in (("limit", limit, MOST_HITS), ("offset", offset, None), ("facets", facets, None)):
            if value < 0 or (most is not None and value > most):
                raise QueryError(f"{name}={value}: give a number from 0{'' if most is None else f' to {most:,}'}")
        asked = parse(query, self.names)
        total, found = self._reader.find(asked, limit, offset)
        counts = self._reader.facets(asked, len(self.names.tags)) if facets and total else {}
        frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:facets]
        return Result(
            query,
            total,
            offset,
            [self._hit(each) for each in found],
            [Facet(*self.names.shown(tag), images) for tag, images in frequent],
        )

    def close(self) -> None:
        """Let go of files and connections."""
        self._reader.close()

    def __enter__(self) -> "Index":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hit(self, found: Found) -> Hit:
        surest = sorted(found.tags, key=lambda pair: (-pair[1], pair[0]))
        tags = [TagScore(*self.names.shown(tag), score / THOUSAND) for tag, score in surest]
        about = (found.image_id, found.uri, found.width, found.height, found.caption)
        return Hit(*about, found.rank / THOUSAND, tags)
