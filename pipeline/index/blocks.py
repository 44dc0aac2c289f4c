"""Postings in blocks of 262,144 documents: packed for storage, and expressions evaluated on them with numpy."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.index.expression import And, Expression, Has, Not, Or, holds_for_none

BLOCK_BITS = 18
BLOCK_DOCS = 1 << BLOCK_BITS
EVERY = -1
"""In the place of a tag: the postings of all documents there are, without scores."""
_FEW = 1 / 256
"""Part of a block's documents that takes less time to look at alone than the block."""
_SCORE_BITS = 10
_SCORE_MASK = (1 << _SCORE_BITS) - 1


def pack(docs: NDArray[np.int64], thousandths: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Postings of one block, uint32 [n], which sort as the documents do."""
    return (((docs & (BLOCK_DOCS - 1)) << _SCORE_BITS) | thousandths).astype(np.uint32)


def stored(postings: NDArray[np.uint32]) -> bytes:
    """As bytes, little-endian on every machine."""
    return postings.astype("<u4", copy=False).tobytes()


def read(data: bytes) -> NDArray[np.uint32]:
    """What `stored` gave."""
    return np.frombuffer(data, "<u4")


def places(postings: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Of the documents within the block."""
    return (postings >> _SCORE_BITS).astype(np.int64)


def scores(postings: NDArray[np.uint32]) -> NDArray[np.int32]:
    """In thousandths."""
    return (postings & _SCORE_MASK).astype(np.int32)


def by_list(
    tags: NDArray[np.int64], docs: NDArray[np.int64], thousandths: NDArray[np.int64]
) -> Iterator[tuple[int, int, NDArray[np.uint32]]]:
    """(tag, block, postings) of n postings, int64 [n] each: tags with their blocks in rising order, each once."""
    order = np.lexsort((docs, tags))
    tags, docs = tags[order], docs[order]
    packed, blocks = pack(docs, thousandths[order]), docs >> BLOCK_BITS
    begins = np.flatnonzero((np.diff(tags, prepend=EVERY - 1) != 0) | (np.diff(blocks, prepend=-1) != 0))
    for begin, end in pairwise([*begins.tolist(), len(tags)]):
        yield int(tags[begin]), int(blocks[begin]), packed[begin:end]


def without(postings: NDArray[np.uint32], gone: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """The postings of all other documents. gone: of documents, whatever the score."""
    return postings[~np.isin(places(postings), places(gone))]


def united(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Both, of different documents, in order."""
    return np.sort(np.concatenate([first, second]))


class Block:
    """The postings that a query needs of one block. data: as stored, by tag; a tag without any is not in it."""

    def __init__(self, number: int, data: Mapping[int, bytes]) -> None:
        self._first = number << BLOCK_BITS
        self._postings = {tag: (places(read(each)), scores(read(each))) for tag, each in data.items()}
        self._named = np.arange(0)
        self._size = BLOCK_DOCS
        if sum(len(docs) for docs, _ in self._postings.values()) < BLOCK_DOCS * _FEW:
            self._number_anew()

    def _number_anew(self) -> None:
        """Of a few documents, only these are looked at, in the place of all numbers of the block."""
        self._named = np.unique(np.concatenate([docs for docs, _ in self._postings.values()]))
        self._size = len(self._named)
        for tag, (docs, reached) in self._postings.items():
            self._postings[tag] = np.searchsorted(self._named, docs), reached

    def matching(self, expression: Expression, wanted: Mapping[int, int]) -> "Matches":
        """The documents for which the expression holds. wanted: what they are ranked by, as `Query.wanted`."""
        holds = self._holds(expression)
        if holds_for_none(expression):  # numbers that no document has hold, too
            holds &= self._holds(Has((EVERY,)))
        found = np.flatnonzero(holds)
        docs = found if self._size == BLOCK_DOCS else self._named[found]
        return Matches(self._first + docs, self._ranks(wanted, holds, found))

    def _ranks(
        self, wanted: Mapping[int, int], holds: NDArray[np.bool_], found: NDArray[np.int64]
    ) -> NDArray[np.int32]:
        ranks = np.zeros(len(found), np.int32)
        at_places: NDArray[np.int32] | None = None
        for tag, at_least in wanted.items():
            docs, reached = self._reaching(tag, at_least)
            among = holds[docs]
            if np.count_nonzero(among) == len(found):  # all of them have it
                ranks += reached[among]
                continue
            at_places = np.zeros(self._size, np.int32) if at_places is None else at_places
            at_places[docs] += reached
        return ranks if at_places is None else ranks + at_places[found]

    def _holds(self, expression: Expression) -> NDArray[np.bool_]:
        """bool [self._size], whether or not there is a document."""
        if isinstance(expression, Has):
            holds = np.zeros(self._size, np.bool_)
            for tag in expression.ids:
                holds[self._reaching(tag, expression.at_least)[0]] = True
            return holds
        if isinstance(expression, Not):
            return ~self._holds(expression.part)
        if isinstance(expression, And | Or):
            combine = np.logical_and if isinstance(expression, And) else np.logical_or
            holds = self._holds(expression.parts[0])
            for part in expression.parts[1:]:
                combine(holds, self._holds(part), out=holds)
            return holds
        return np.ones(self._size, np.bool_)

    def _reaching(self, tag: int, at_least: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Places and scores, of postings with this score at least."""
        docs, reached = self._postings.get(tag, _NONE)
        if not at_least:
            return docs, reached
        chosen = reached >= at_least
        return docs[chosen], reached[chosen]


@dataclass(frozen=True)
class Matches:
    """Documents that were found, ascending, int64 [n], and the rank of each, int32 [n]."""

    docs: NDArray[np.int64]
    ranks: NDArray[np.int32]

    def best(self, most: int) -> "Matches":
        """At most so many, the highest rank first, equal ones by number."""
        if 0 < most < len(self.docs):
            last = np.partition(self.ranks, -most)[-most]
            over = np.flatnonzero(self.ranks > last)
            level = np.flatnonzero(self.ranks == last)[: most - len(over)]
            return self._take(np.concatenate([over, level])).best(most)
        return self._take(np.lexsort((self.docs, -self.ranks))[:most])

    def and_then(self, others: "Matches") -> "Matches":
        """These and others, with no document in common."""
        return Matches(np.concatenate([self.docs, others.docs]), np.concatenate([self.ranks, others.ranks]))

    def _take(self, places: NDArray[np.int64]) -> "Matches":
        return Matches(self.docs[places], self.ranks[places])


class Ranking:
    """The best of all blocks. most: so many are kept; total: so many there were."""

    def __init__(self, most: int) -> None:
        self.total = 0
        self._most = most
        self._best = Matches(np.empty(0, np.int64), np.empty(0, np.int32))

    def add(self, found: Matches) -> None:
        """Those of the next block."""
        self.total += len(found.docs)
        # Those before have lower numbers, and `best` takes the first of equals: in the order of their numbers.
        self._best = self._best.and_then(found.best(self._most)).best(self._most)

    def page(self, offset: int) -> list[tuple[int, int]]:
        """(document, rank) from `offset` on."""
        best = self._best
        return list(zip(best.docs[offset:].tolist(), best.ranks[offset:].tolist(), strict=True))


_NONE = np.empty(0, np.int64), np.empty(0, np.int32)
