"""Search indexes of made-up documents, and what a query means, said once more without the project's parser."""

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from numpy.typing import NDArray

import pipeline.index
from pipeline.index import Index
from pipeline.index.documents import Documents
from pipeline.index.feed import Fed, feed
from pipeline.index.kinds import open_writer
from pipeline.index.opensearch_index import push
from pipeline.index.source import Source, Unit
from pipeline.stores.local_store import LocalStore
from ramcore.vocabulary import Vocabulary

TAGS = ("dog", "hot dog", "doll", "beach", "sea", "close-up", "person", "crane", "crane", "3D glasses")
TAGS_ZH = ("狗", "热狗", "玩偶/洋娃娃", "海滩", "海", "特写", "人", "鹤", "起重机", "")
VOCABULARY = Vocabulary(TAGS, TAGS_ZH, np.full(len(TAGS), 0.68, np.float32))

NAMED = {
    "dog": {0},
    "DOG": {0},
    "ｄｏｇ": {0},
    "狗": {0},
    '"hot dog"': {1},
    "“hot dog”": {1},
    "hot_dog": {1},
    "do*": {0, 2},
    '"hot d"*': {1},
    "洋娃娃": {2},
    "beach": {3},
    "海*": {3, 4},
    "close-up": {5},
    "person": {6},
    "crane": {7, 8},
    "鹤": {7},
    '"3d glasses"': {9},
}
"""What a tag of a query means, by hand."""

Images = Mapping[str, Mapping[int, int]]
"""Thousandths by tag, by image."""
Scores = NDArray[np.int16]
"""Thousandths, [tags, images]; MISSING where an image has not the tag."""
MISSING = -1

_BINDING = ("scored", "or", "and", "not")
"""The later ones bind closer: they need no brackets within those before them."""


@dataclass(frozen=True)
class Asked:
    """A query and its meaning. kind: tag, all, and, or, not, scored.

    text: what stands between the parts or before them, of `scored` where the score stands; brackets: around parts,
    "" where none are needed; score: thousandths; tags: that a tag of a query means.
    """

    kind: str
    text: str = ""
    parts: tuple["Asked", ...] = ()
    brackets: str = "()"
    score: int = 0
    tags: frozenset[int] = frozenset()

    def written(self) -> str:
        """The text of the query."""
        if self.kind == "scored":
            return self.text.format(self._within(self.parts[0]), self.score / 1000)
        inner = [self._within(part) for part in self.parts]
        return self.text + self.text.join(inner) if self.kind == "not" else self.text.join(inner) or self.text

    def _within(self, part: "Asked") -> str:
        if part.kind in ("tag", "all"):
            return part.written()
        closer = _BINDING.index(part.kind) > _BINDING.index(self.kind)
        opening, closing = self.brackets or ("" if closer else "()") or ("", "")
        return f"{opening}{part.written()}{closing}"

    def holds(self, scores: Scores, least: int = 0) -> NDArray[np.bool_]:
        """Which images are meant, where tags count from this score on."""
        if self.kind == "tag":
            return np.logical_or.reduce([scores[tag] >= least for tag in self.tags])
        if self.kind == "not":
            return ~self.parts[0].holds(scores, least)
        if self.kind == "scored":
            return self.parts[0].holds(scores, self.score)
        answers = [part.holds(scores, least) for part in self.parts]
        everything = np.ones(scores.shape[1], np.bool_)
        return np.logical_or.reduce(answers) if self.kind == "or" else np.logical_and.reduce([everything, *answers])

    def ranking(self, score: int = 0, asked: bool = True) -> Iterator[tuple[int, int]]:
        """(tag, least score) of tags that are not excluded."""
        if self.kind == "tag" and asked:
            yield from ((tag, score) for tag in self.tags)
        for part in self.parts:
            yield from part.ranking(self.score or score, asked != (self.kind == "not"))

    def ranks(self, scores: Scores) -> NDArray[np.int64]:
        """The rank of each image, whether it is found or not."""
        least: dict[int, int] = {}
        for tag, score in self.ranking():
            least[tag] = min(score, least.get(tag, score))
        ranks = np.zeros(scores.shape[1], np.int64)
        for tag, score in least.items():
            ranks += np.where(scores[tag] >= score, scores[tag], 0)
        return ranks

    def answer(self, images: Images) -> dict[str, int]:
        """Rank by image: all that are found."""
        scores = np.full((len(TAGS), len(images)), MISSING, np.int16)
        for place, tags in enumerate(images.values()):
            for tag, score in tags.items():
                scores[tag, place] = score
        rows = zip(images, self.holds(scores).tolist(), self.ranks(scores).tolist(), strict=True)
        return {name: rank for name, found, rank in rows if found}


ALL = Asked("all", "*")


def one_tag(text: str, named: Mapping[str, Iterable[int]] = NAMED) -> Asked:
    """A query of a tag alone."""
    return Asked("tag", text, tags=frozenset(named[text]))


def queries(
    leaves: st.SearchStrategy[Asked] | None = None, scores: Sequence[int] = (1, 500, 700, 701, 900, 1000)
) -> st.SearchStrategy[Asked]:
    """Queries of any shape. leaves: what they are made of, the tags of NAMED and `*` if not given."""
    brackets = st.sampled_from(("()", "（）", ""))

    def nested(parts: st.SearchStrategy[Asked]) -> st.SearchStrategy[Asked]:
        several = st.lists(parts, min_size=2, max_size=3).map(tuple)
        scored = st.sampled_from(("{} score:{}", "score:{1} {0}", "{} Score：{}"))
        return st.one_of(
            st.builds(Asked, st.just("and"), st.sampled_from((" AND ", " ")), several, brackets),
            st.builds(Asked, st.just("or"), st.just(" OR "), several, brackets),
            st.builds(Asked, st.just("not"), st.sampled_from(("-", "NOT ")), st.tuples(parts), brackets),
            st.builds(Asked, st.just("scored"), scored, st.tuples(parts), brackets, st.sampled_from(scores)),
        )

    every = st.sampled_from([*map(one_tag, sorted(NAMED)), ALL])
    return st.recursive(every if leaves is None else leaves, nested, max_leaves=8)


def image_sets() -> st.SearchStrategy[Images]:
    """Some images with tags."""
    tags = st.dictionaries(
        st.integers(0, len(TAGS) - 1), st.sampled_from((680, 699, 700, 701, 899, 900, 1000)), max_size=6
    )
    return st.dictionaries(st.sampled_from([f"i {n}/ü'\"%.jpg" for n in range(24)]), tags, max_size=24)


def documents(images: Images) -> Documents:
    """As a back end is given them."""
    counts = [len(tags) for tags in images.values()]
    pairs = [pair for tags in images.values() for pair in sorted(tags.items())]
    number = len(images)
    return Documents(
        list(images),
        [f"/pictures/{name}" for name in images],
        [640] * number,
        [None] * number,
        [None if n % 2 else f"picture {n}\nof\tmany" for n in range(number)],
        np.concatenate([[0], np.cumsum(np.array(counts, np.int64))]),
        np.array([tag for tag, _ in pairs], np.int32),
        np.array([score for _, score in pairs], np.int32),
    )


def source(
    folder: Path, units: Sequence[Images], plan_hash: str = "a", base_hash: str | None = None, broken_after: int = 99
) -> Source:
    """A run of these units. broken_after: reading fails after so many."""
    keys = [hashlib.sha256(repr(sorted(unit.items())).encode()).hexdigest() for unit in units]
    content = dict(zip(keys, units, strict=True))

    def read(chosen: list[Unit]) -> Iterator[tuple[Unit, Iterator[Documents]]]:
        for number, unit in enumerate(chosen):
            if number >= broken_after:
                raise OSError("the store is away")
            yield unit, iter([documents(content[unit.key])])

    listed = [Unit(key, key, len(content[key])) for key in keys]
    return Source(LocalStore(folder / "run"), VOCABULARY, plan_hash, base_hash, listed, read)


@dataclass(frozen=True)
class MadeIndex:
    """An index of a test. push: where an OpenSearch index is sent to."""

    kind: str
    out: str
    push: str | None = None

    def feed(self, run: Source) -> Fed:
        """Bring it in line with a run."""
        with open_writer(self.kind, self.out) as writer:
            fed = feed(run, writer, self.kind)
            if self.push is not None:
                push(Path(self.out), self.push, writer.ledger)
        return fed

    def open(self) -> Index:
        """For queries."""
        return pipeline.index.open(self.out)


NewIndex = Callable[[], MadeIndex]


LOCAL_KINDS = ("sqlite", "duckdb", "tantivy", "lance")
"""Kinds that need no server."""
_PACKAGES = {
    "duckdb": "duckdb",
    "tantivy": "tantivy",
    "lance": "lance",
    "postgres": "psycopg",
    "opensearch": "opensearchpy",
}


def needs_package(kind: str) -> None:
    """Skip the test where the kind's package is not installed, which is a failure in CI."""
    package = _PACKAGES.get(kind)
    if package is not None and importlib.util.find_spec(package) is None:
        message = f"needs the package {package}: pip install -e '.[{kind}]'"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
