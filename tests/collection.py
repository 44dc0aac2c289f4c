"""A large made-up collection: tags in two languages, some frequent and most rare, further names, images with scores.

What a name means is said here once more, by the words that the names are made of, without the project's own reading.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st
from indexes import ALL, MISSING, Asked, Scores, queries
from numpy.typing import NDArray

from pipeline.index.documents import Documents
from ramcore.vocabulary import Vocabulary

THINGS = {
    "person": "人", "sky": "天空", "table": "桌子", "road": "道路", "water": "水", "car": "汽车/轿车", "lamp": "灯",
    "close-up": "特写", "glasses": "眼镜", "sea": "海", "tree": "树", "dog": "狗", "crane": "鹤（鸟）", "boat": "船",
    "doll": "玩偶/洋娃娃", "flower": "花", "Crane": "起重机/吊车", "cat": "猫", "train": "火车", "horse": "马",
    "bird": "鸟", "rose": "玫瑰", "dolphin": "海豚", "oak": "橡树", "poodle": "贵宾犬",
}  # fmt: skip
"""Two things are called alike in English."""
KINDS = {
    "red": "红", "blue": "蓝", "old": "旧", "small": "小", "wooden": "木", "white": "白", "black": "黑", "wet": "湿",
    "toy": "玩具", "broken": "破", "hot": "热", "wild": "野", "golden": "金", "3D": "3D", "striped": "条纹",
    "stone": "石", "round": "圆", "empty": "空", "painted": "彩绘", "sleeping": "睡", "light": "浅", "dark": "深",
    "paper": "纸", "sea": "海",
}  # fmt: skip
GROUPS = {
    "animal": ("dog", "cat", "horse", "bird", "dolphin"),
    "bird": ("鹤",),
    "dog": ("poodle",),
    "plant": ("tree", "flower"),
    "tree": ("oak",),
    "flower": ("rose",),
    "living thing": ("animal", "plant", "person"),
    "vehicle": ("car", "boat", "train"),
}
"""What is below what, beside "red dog" below "dog" for the first kinds of all things that are named here."""
_KINDS_BELOW = tuple(KINDS)[:4]
SYNONYMS = {
    "hound": ("dog",), "猎犬": ("dog",), "automobile": ("car",), "wagon": ("car", "train"), "crane bird": ("鹤",),
    "spectacles": ("glasses",), "specs": ("glasses", "lamp"), "轮船": ("船",), "steed": ("horse",),
    "sea water": ("sea",),
}  # fmt: skip

_SEED = 20_261_122
_TAGS_EACH = 9.0
_LEAST = 681
_ASKED_SCORES = (1, 680, 681, 700, 701, 735, 736, 767, 768, 769, 800, 832, 850, 900, 959, 960, 999, 1000)
"""Some are multiples of 32, and what is beside them: some kinds write scores to that base."""
_OF_ANY_SHAPE = 20
"""One query of so many has no tag that must be there, and may find most images."""


def _tag_names() -> list[tuple[str, str, str, str]]:
    """(name, Chinese name, kind, thing) of each tag."""
    named = [(thing.lower(), chinese, "", thing) for thing, chinese in THINGS.items()]
    for kind, before in KINDS.items():
        for thing, chinese in THINGS.items():
            written = "/".join(before + part for part in chinese.split("/"))
            named.append((f"{kind} {thing.lower()}", written, kind, thing))
    return named


TAGS = _tag_names()


def _own() -> dict[str, set[int]]:
    """Tags by each of their names, and by synonyms, in small letters."""
    own: dict[str, set[int]] = {}
    for tag, (name, chinese, _, _) in enumerate(TAGS):
        for each in (name, chinese, *chinese.split("/"), chinese.split("（")[0]):
            own.setdefault(each.lower(), set()).add(tag)
    for name, meant in SYNONYMS.items():
        own[name] = own.get(name, set()).union(*(own[each] for each in meant))
    return own


_OWN = _own()
_WITH_KINDS = {child for children in GROUPS.values() for child in children if child in THINGS}


def _meaning(name: str) -> set[int]:
    """The tags that a name in small letters means, with what is below them."""
    meant = set().union(*(_with_below(tag) for tag in _OWN.get(name, ())))
    return meant if _OWN.get(name) else meant.union(*(_meaning(child) for child in GROUPS[name]))


def _with_below(tag: int) -> set[int]:
    _, _, kind, thing = TAGS[tag]
    if kind:
        return {tag}
    below = _KINDS_BELOW if thing in _WITH_KINDS else ()
    of_kinds = {other for other, row in enumerate(TAGS) if row[3] == thing and row[2] in below}
    return {tag}.union(of_kinds, *(_meaning(child) for child in GROUPS.get(thing, ())))


MEANING = {name: _meaning(name) for name in {*_OWN, *GROUPS}}


def _ways(name: str) -> Iterable[str]:
    """A name as it may stand in a query."""
    wide = "".join(chr(ord(letter) + 0xFEE0) if "a" <= letter <= "z" else letter for letter in name)
    written = {name, name.upper(), wide, name.replace(" ", "_"), name.replace(" ", "-"), name.replace("-", " ")}
    for each in sorted(written):
        yield from (f'"{each}"', f"“{each}”") if set(each) & set(" （") else (each,)


def _prefix(start: str) -> Asked:
    tags = set().union(*(tags for name, tags in MEANING.items() if name.startswith(start)))
    return Asked("tag", f'"{start}"*' if " " in start else f"{start}*", tags=frozenset(tags))


def _leaves() -> st.SearchStrategy[Asked]:
    """What queries of this collection are made of: names of things and groups, of kinds of things, beginnings; `*`."""
    by_kind = {name for tag, row in enumerate(TAGS) if row[2] for name, own in _OWN.items() if tag in own}
    starts = {name[:length] for name in MEANING for length in (3, 5, 8) if name[:length].strip() == name[:length]}
    plain, of_kinds = (
        [Asked("tag", text, tags=frozenset(MEANING[name])) for name in names for text in _ways(name)]
        for names in (sorted({*MEANING} - by_kind), sorted(by_kind))
    )
    prefixes = [_prefix(start) for start in sorted(starts) if "（" not in start]
    return st.one_of(*map(_one_of, ([*plain, ALL], of_kinds, prefixes)))


def _one_of(some: list[Asked]) -> st.SearchStrategy[Asked]:
    """As `st.sampled_from`, which writes all of them out when it is nested."""
    return st.sampled_from(range(len(some))).map(lambda place: some[place])


def asked() -> st.SearchStrategy[Asked]:
    """Queries of any shape; most of them name a tag that has to be there, as those do who look for something."""
    leaves = _leaves()
    shapes = queries(leaves, _ASKED_SCORES)
    both = st.builds(Asked, st.just("and"), st.just(" "), st.tuples(leaves, shapes))
    return st.sampled_from(range(1, _OF_ANY_SHAPE + 1)).flatmap(lambda turn: shapes if turn == _OF_ANY_SHAPE else both)


def drawn_queries(number: int) -> list[Asked]:
    """So many queries of different texts, always the same ones, none of which says the same twice."""
    drawn: dict[str, Asked] = {}

    @seed(_SEED)
    @settings(max_examples=4 * number, database=None, deadline=None, phases=[Phase.generate])
    @given(queried=asked())
    def draw(queried: Asked) -> None:
        said = list(_said(queried))
        if len({*said}) == len(said):
            drawn[queried.written()] = queried

    draw()
    return list(drawn.values())[:number]


def _said(queried: Asked) -> Iterator[frozenset[int]]:
    """What the tags of a query mean."""
    if not queried.parts:
        yield queried.tags
    for part in queried.parts:
        yield from _said(part)


@dataclass(frozen=True)
class Collection:
    """Images with tags. scores: of the tags of TAGS; documents: of the images, each of which also has a tag that no
    other image has, len(TAGS) + its place: so that counts of tags tell all images of a result."""

    vocabulary: Vocabulary
    scores: Scores
    documents: Documents

    def counts(self, found: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many of these images have each tag."""
        documents = self.documents
        tags = documents.tags[np.repeat(found, documents.counts)]
        return np.bincount(tags, minlength=len(self.vocabulary))

    def before(self) -> Documents:
        """An earlier state of it: a quarter of its images, some with the tags of others, and some that it lost."""
        number = self.scores.shape[1] // 4
        ids = self.documents.image_ids[:number]
        kept, other, gone = np.array_split(np.arange(number), 3)
        scores = self.scores[:, np.concatenate([kept, other + 1, gone])]
        return _documents(scores, [*ids[: len(kept) + len(other)], *(f"gone/{name}" for name in ids[-len(gone) :])])


def collection(images: int) -> Collection:
    """So many images, always the same ones."""
    random = np.random.default_rng(_SEED)
    scores = _drawn(random, images)
    names = (*(name for name, *_ in TAGS), *(f"number {number}" for number in range(images)))
    names_zh = (*(chinese for _, chinese, *_ in TAGS), *[""] * images)
    vocabulary = Vocabulary(names, names_zh, np.full(len(names), 0.68, np.float32))
    ids = [f"album {number % 97}/ü {number:05d}.jpg" for number in range(images)]
    return Collection(vocabulary, scores, _documents(scores, ids))


def _drawn(random: np.random.Generator, images: int) -> Scores:
    """The first tags are on a third of all images, the last on few; a few images have none of them."""
    weights = 1 / (5 + np.arange(len(TAGS)))
    counts = random.poisson(_TAGS_EACH, images)
    tags = random.choice(len(TAGS), counts.sum(), p=weights / weights.sum())
    drawn = np.clip(random.normal(820, 85, counts.sum()), _LEAST, 1000)
    scores = np.full((len(TAGS), images), MISSING, np.int16)
    scores[tags, np.repeat(np.arange(images), counts)] = drawn.astype(np.int16)
    return scores


def _documents(scores: Scores, image_ids: list[str]) -> Documents:
    """As a back end is given them; each with one more tag, of its place."""
    number = len(image_ids)
    own = np.arange(number)
    images, tags = np.nonzero(scores.T >= 0)
    every = np.concatenate([images, own])
    order = np.argsort(every, kind="stable")
    return Documents(
        image_ids,
        [f"/pictures/{name}" for name in image_ids],
        [640] * number,
        [None] * number,
        [None if n % 2 else f"picture {n}\nof\tmany" for n in range(number)],
        np.concatenate([[0], np.cumsum(np.bincount(every, minlength=number))]),
        np.concatenate([tags, len(TAGS) + own]).astype(np.int32)[order],
        np.concatenate([scores[tags, images], np.full(number, 1000)]).astype(np.int32)[order],
    )


def write_names(folder: Path) -> tuple[Path, Path]:
    """Files for --synonyms and --hierarchy."""
    synonyms, hierarchy = folder / "synonyms.csv", folder / "hierarchy.csv"
    pairs = [f"{name},{tag}" for name, tags in SYNONYMS.items() for tag in tags]
    edges = [f"{child},{group}" for group, children in GROUPS.items() for child in children]
    edges += [f"{kind} {thing},{thing}" for thing in sorted(_WITH_KINDS) for kind in _KINDS_BELOW]
    synonyms.write_text("\n".join(["name,tag", *pairs]) + "\n", encoding="utf-8")
    hierarchy.write_text("\n".join(["tag,parent", *edges]) + "\n", encoding="utf-8")
    return synonyms, hierarchy
