"""2,000 random queries over 50,000 images: every kind of index that can be asked finds what arrays say."""

import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from collection import TAGS, Collection, collection, drawn_queries, write_names
from indexes import LOCAL_KINDS, Asked, needs_package
from numpy.typing import NDArray

from pipeline.index import blocks
from pipeline.index.backend import Reader
from pipeline.index.documents import Documents
from pipeline.index.feed import feed
from pipeline.index.kinds import open_reader, open_writer
from pipeline.index.query import Query, parse
from pipeline.index.source import Source, Unit
from pipeline.stores.local_store import LocalStore

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1_200)]

IMAGES = 50_000
QUERIES = 2_000
PAGE = 100
DEEP_EVERY = 10
"""Every so many queries, a page from further down is compared too."""
_UNITS = 4
_SHOWN = 5
_BLOCK_BITS = 13
"""SQLite's postings: so that the images lie in seven blocks."""


@dataclass(frozen=True)
class Answer:
    """What a query means. ranks: of each image that is found, -1 of others; counts: by tag."""

    ranks: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, asked: Asked, made: Collection) -> "Answer":
        found = asked.holds(made.scores)
        return cls(np.where(found, asked.ranks(made.scores), -1), made.counts(found))

    @property
    def total(self) -> int:
        return int((self.ranks >= 0).sum())

    def page(self, offset: int) -> list[int]:
        """The ranks of a page."""
        return np.sort(self.ranks[self.ranks >= 0])[::-1][offset : offset + PAGE].tolist()  # type: ignore[no-any-return]


class Comparison:
    """An index beside the arrays."""

    def __init__(self, made: Collection, reader: Reader) -> None:
        self._made, self._reader = made, reader
        self._places = {name: place for place, name in enumerate(made.documents.image_ids)}

    def differences(self, query: Query, answer: Answer, deep: int | None) -> Iterator[str]:
        """What the index says otherwise. deep: a place further down whose page is compared."""
        for offset in (0,) if deep is None else (0, deep):
            yield from self._page(query, answer, offset)
        counts = self._reader.facets(query, len(self._made.vocabulary))
        if counts != {int(tag): int(answer.counts[tag]) for tag in np.flatnonzero(answer.counts)}:
            wrong = sorted(tag for tag in range(len(answer.counts)) if counts.get(tag, 0) != answer.counts[tag])
            images = sum(tag >= len(TAGS) for tag in wrong)
            yield f"{images} images and the counts of {len(wrong) - images} tags differ, the first of tag {wrong[:1]}"

    def _page(self, query: Query, answer: Answer, offset: int) -> Iterator[str]:
        total, hits = self._reader.find(query, PAGE, offset)
        if total != answer.total:
            yield f"{total} images instead of {answer.total}"
        ranks = [hit.rank for hit in hits]
        if ranks != answer.page(offset):
            yield f"from {offset} on the ranks are {ranks[:_SHOWN]}… instead of {answer.page(offset)[:_SHOWN]}…"
        places = [self._places[hit.image_id] for hit in hits]
        if len(set(places)) != len(places) or answer.ranks[places].tolist() != ranks:
            yield f"from {offset} on there are images of other ranks, or twice the same"


def _run(made: Collection, documents: list[Documents], plan_hash: str, base_hash: str | None) -> Source:
    units = [Unit(f"{plan_hash}/{n}", str(n), len(part)) for n, part in enumerate(documents)]
    contents = dict(zip((unit.key for unit in units), documents, strict=True))

    def read(chosen: list[Unit]) -> Iterator[tuple[Unit, Iterator[Documents]]]:
        return ((unit, iter([contents[unit.key]])) for unit in chosen)

    return Source(LocalStore(Path("run")), made.vocabulary, plan_hash, base_hash, units, read)


def disagreements(kind: str, out: str, folder: Path, asked: list[Asked]) -> list[str]:
    """Feed an index with an earlier run and then with the collection, and say where its answers differ."""
    made = collection(IMAGES)
    blocks.BLOCK_BITS, blocks.BLOCK_DOCS = _BLOCK_BITS, 1 << _BLOCK_BITS
    units = [made.documents.take(places) for places in np.array_split(np.arange(IMAGES), _UNITS)]
    runs = [_run(made, [made.before()], "before", None), _run(made, units, "now", "before")]
    for run in runs:
        with open_writer(kind, out) as writer:
            feed(run, writer, kind, *write_names(folder))
    reader, names, _ = open_reader(out)
    compared, random, wrong = Comparison(made, reader), np.random.default_rng(1), []
    for number, each in enumerate(asked):
        answer = Answer.of(each, made)
        deep = int(random.integers(PAGE, answer.total)) if number % DEEP_EVERY == 0 and answer.total > PAGE else None
        found = compared.differences(parse(each.written(), names), answer, deep)
        wrong += [f"{each.written()}: {difference}" for difference in found]
    reader.close()
    return wrong


@pytest.fixture(scope="module")
def asked() -> list[Asked]:
    return drawn_queries(QUERIES)


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Kinds are asked side by side, outside of this process: one of them cannot be had in a process that forks."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as executor:
        yield executor


@pytest.fixture(scope="module")
def local(
    pool: ProcessPoolExecutor, asked: list[Asked], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Future[list[str]]]:
    """What comes of the kinds that need no server."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in LOCAL_KINDS}
    return {
        kind: pool.submit(disagreements, kind, str(folder / "index"), folder, asked) for kind, folder in folders.items()
    }


def assert_none(found: list[str]) -> None:
    assert not found, f"{len(found)} differences, of the shortest query: {min(found, key=len)}"


def test_the_queries_are_of_every_sort(asked: list[Asked]) -> None:
    """They differ, in what they find too, and each part of the language is in many of them."""
    made = collection(IMAGES)
    texts = [each.written() for each in asked]
    assert len(set(texts)) == QUERIES
    for part in (" AND ", " OR ", "NOT ", "-", "*", '"', "“", "(", "（", "score:", "Score：", "[一-鿿]", "animal"):
        pattern = re.compile(part if part.startswith("[") else re.escape(part), re.IGNORECASE)
        assert sum(bool(pattern.search(text)) for text in texts) >= QUERIES // 50, part
    found = [each.holds(made.scores) for each in asked]
    assert len({answer.tobytes() for answer in found}) > QUERIES // 2
    assert sum(0 < answer.sum() < IMAGES for answer in found) > QUERIES // 2


def test_postgres_agrees(
    pool: ProcessPoolExecutor,
    asked: list[Asked],
    local: dict[str, Future[list[str]]],
    postgres_server: str,
    tmp_path: Path,
) -> None:
    """The images, their number, order and ranks, and the counts of tags."""
    needs_package("postgres")
    assert_none(pool.submit(disagreements, "postgres", f"{postgres_server}#agreement", tmp_path, asked).result())


@pytest.mark.parametrize("kind", LOCAL_KINDS)
def test_every_local_kind_agrees(kind: str, local: dict[str, Future[list[str]]]) -> None:
    """The images, their number, order and ranks, and the counts of tags."""
    needs_package(kind)
    assert_none(local[kind].result())
