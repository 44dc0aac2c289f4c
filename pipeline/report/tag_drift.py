"""How the tags of one run differ from those of another: which appeared, vanished or changed rate, and on which images.

All images are compared, in bounded memory: both tag tables are split by a hash of the image's id into temporary files,
and what belongs together meets in one pair of these.
"""

import heapq
import tempfile
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pandas.util import hash_array

from pipeline.finished_run import FinishedRun
from pipeline.redecide import fired_scores
from pipeline.report.intervals import Limits, of_paired, of_unpaired, quantile
from pipeline.report.tag_stats import stored_scores
from ramcore.vocabulary import Vocabulary

Kind = Literal["appeared", "vanished", "changed", "same"]
Counts = NDArray[np.int64]

ERROR = 0.05
"""Of an interval; and of all marks together."""
MOST_CHANGED = 100
"""Images that are named."""

_PART_ROWS = 65_536
_MOST_PARTS = 256
"""Files that are open at a time; runs of more than 16 million images have larger ones."""
_BATCH_ROWS = 16_384
_SPOOLED = pa.schema(
    [
        ("image_id", pa.string()),
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("codes", pa.list_(pa.int32())),
        ("scores", pa.list_(pa.float32())),
        ("fired", pa.list_(pa.bool_())),
    ]
)


@dataclass(frozen=True)
class TagShift:
    """One tag in both runs.

    kind: appeared = on no image of A; vanished = on none of B; known: whose vocabulary has it, "ab", "a" or "b".
    share_a, share_b: of the images that are compared; gained, lost: images in both runs that have it in B only, in A
    only. low, high: limits of share_b - share_a, each interval misses in one of 20 cases; marked: still not 0 when the
    error is shared among all tags (Bonferroni), so that one case of 20 has any wrong mark.
    """

    tag: str
    tag_zh: str
    kind: Kind
    known: str
    share_a: float
    share_b: float
    gained: int
    lost: int
    low: float
    high: float
    marked: bool

    @property
    def change(self) -> float:
        """Of the share, from A to B."""
        return self.share_b - self.share_a


@dataclass(frozen=True)
class ChangedImage:
    """An image in both runs whose tags differ. score_change: sum of |score in B - score in A| over the tags that both
    runs stored; uri, sha256: as in B."""

    image_id: str
    uri: str
    sha256: str | None
    gained: list[str]
    lost: list[str]
    score_change: float

    @property
    def rank(self) -> tuple[int, float, str]:
        """The most changed image has the highest."""
        return len(self.gained) + len(self.lost), self.score_change, self.image_id


@dataclass
class Agreement:
    """Images that both runs tagged. same: with the same tags; overlap: sum over images of tags in both / in either."""

    images: int = 0
    same: int = 0
    overlap: float = 0.0

    @property
    def mean_overlap(self) -> float | None:
        """Tags in both / tags in either, on average over images (Jaccard's index); None without images."""
        return self.overlap / self.images if self.images else None


@dataclass(frozen=True)
class Drift:
    """paired: whether shares are those of the images in both runs, as at least half of either run's are; else of all
    images of each run, as independent samples. tested: tags that the marks share their error among."""

    paired: bool
    images_a: int
    images_b: int
    tested: int
    shifts: list[TagShift]
    agreement: Agreement
    changed: list[ChangedImage]

    def of_kind(self, kind: Kind) -> list[TagShift]:
        """The tags of a kind, marked ones first, then by how much the share changed."""
        return [shift for shift in self.shifts if shift.kind == kind]


@dataclass(frozen=True)
class _Names:
    """Tags of both runs by name. codes_a, codes_b: the place in `tags` of each tag of a vocabulary."""

    tags: list[str]
    tags_zh: list[str]
    codes_a: NDArray[np.int32]
    codes_b: NDArray[np.int32]

    @classmethod
    def of(cls, a: Vocabulary, b: Vocabulary) -> "_Names":
        places: dict[str, int] = {}
        zh: list[str] = []
        for vocabulary in (a, b):
            for tag, tag_zh in zip(vocabulary.tags, vocabulary.tags_zh, strict=True):
                if places.setdefault(tag, len(places)) == len(zh):
                    zh.append(tag_zh)
        codes = (np.array([places[tag] for tag in vocabulary.tags], np.int32) for vocabulary in (a, b))
        return cls(list(places), zh, *codes)


@dataclass
class _Counted:
    """Images by tag: of all, [2, tags]; of those in both runs, in both, in B only, in A only."""

    of_all: Counts
    both: Counts
    gained: Counts
    lost: Counts
    images: list[int] = field(default_factory=lambda: [0, 0])


def tag_drift(a: FinishedRun, b: FinishedRun, most_changed: int = MOST_CHANGED) -> Drift:
    """Compare the tags of two runs. Tags are told apart by name. most_changed: images that are named."""
    names = _Names.of(a.vocabulary(), b.vocabulary())
    counted = _Counted(*(np.zeros(shape, np.int64) for shape in ((2, len(names.tags)), *[len(names.tags)] * 3)))
    agreement = Agreement()
    changed: list[tuple[tuple[int, float, str], ChangedImage]] = []
    parts = min(max(1, -(-max(a.rows("tags"), b.rows("tags")) // _PART_ROWS)), _MOST_PARTS)
    with tempfile.TemporaryDirectory(prefix="ramfleet-compare-") as folder:
        for side, (run, codes) in enumerate(((a, names.codes_a), (b, names.codes_b))):
            _spool(run, codes, side, Path(folder), parts, counted)
        for part in range(parts):
            found = _met(Path(folder), part, names, counted, agreement, most_changed)
            changed = heapq.nlargest(most_changed, [*changed, *((image.rank, image) for image in found)])
    return _judged(names, counted, agreement, [image for _, image in changed])


def _spool(run: FinishedRun, codes: NDArray[np.int32], side: int, folder: Path, parts: int, counted: _Counted) -> None:
    """The tag table of a run into files by the hash of the id, and its images counted by tag."""
    thresholds = run.vocabulary().thresholds
    top_k = run.document.get("derived_from", {}).get("top_k", 0)
    files = [pa.OSFile(str(_file(folder, side, part)), "wb") for part in range(parts)]
    writers = [pa.ipc.new_stream(file, _SPOOLED) for file in files]
    for batch in run.batches("tags", ("image_id", "uri", "sha256", "tag_ids", "scores"), _BATCH_ROWS):
        rows = _by_name(batch, codes, thresholds, top_k)
        counted.images[side] += len(rows)
        fired = rows["codes"].combine_chunks().flatten().filter(rows["fired"].combine_chunks().flatten())
        counted.of_all[side] += np.bincount(fired.to_numpy(), minlength=counted.of_all.shape[1])
        place = hash_array(batch["image_id"].to_numpy(zero_copy_only=False), categorize=False) % np.uint64(parts)
        order = np.argsort(place, kind="stable")
        bounds = np.searchsorted(place[order], np.arange(parts + 1))
        for part, (begin, end) in enumerate(pairwise(bounds.tolist())):
            if end > begin:
                writers[part].write_table(rows.take(pa.array(order[begin:end])))
    for writer, file in zip(writers, files, strict=True):
        writer.close()
        file.close()


def _by_name(batch: pa.RecordBatch, codes: NDArray[np.int32], thresholds: NDArray[np.float32], top_k: int) -> pa.Table:
    """Rows of _SPOOLED; of tags with one name the one with the highest score stands for all."""
    stored = stored_scores(batch)
    fired = fired_scores(stored, thresholds, top_k)
    tags = len(codes)
    is_tag = np.isin(stored.rows * tags + stored.tag_ids, fired.rows * tags + fired.tag_ids)
    named = codes[stored.tag_ids]
    order = np.lexsort((-stored.scores, ~is_tag, named, stored.rows))
    key = stored.rows[order] * np.int64(tags + int(codes.max(initial=0)) + 1) + named[order]
    kept = order[np.concatenate([[True], key[1:] != key[:-1]])] if len(order) else order
    counts = np.bincount(stored.rows[kept], minlength=len(stored.counts))
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    lists = (pa.ListArray.from_arrays(offsets, pa.array(of[kept])) for of in (named, stored.scores, is_tag))
    return pa.table([*(batch[name] for name in ("image_id", "uri", "sha256")), *lists], schema=_SPOOLED)


@dataclass(frozen=True)
class _Pairs:
    """Scores of common images of one run, ascending by key = image * tags + code."""

    keys: Counts
    scores: NDArray[np.float32]
    fired: NDArray[np.bool_]

    @property
    def tags(self) -> Counts:
        """Keys of what is a tag."""
        return self.keys[self.fired]


def _met(
    folder: Path, part: int, names: _Names, counted: _Counted, agreement: Agreement, most: int
) -> list[ChangedImage]:
    """Images of one part that are in both runs: counted, and those that changed most."""
    tables = [_read(_file(folder, side, part)) for side in (0, 1)]
    ids = [table["image_id"].to_numpy() for table in tables]
    place = pd.Index(ids[1]).get_indexer(pd.Index(ids[0]))
    rows_a = np.flatnonzero(place >= 0)
    rows = (rows_a, place[rows_a])
    images, tags = len(rows_a), len(names.tags)
    if not images:
        return []
    before, after = (_pairs(table, row, tags) for table, row in zip(tables, rows, strict=True))
    gained = np.setdiff1d(after.tags, before.tags, assume_unique=True)
    lost = np.setdiff1d(before.tags, after.tags, assume_unique=True)
    both = np.intersect1d(before.tags, after.tags, assume_unique=True)
    for total, keys in ((counted.gained, gained), (counted.lost, lost), (counted.both, both)):
        total += np.bincount(keys % tags, minlength=tags)
    n_gained, n_lost, n_both = (np.bincount(keys // tags, minlength=images) for keys in (gained, lost, both))
    either = n_gained + n_lost + n_both
    agreement.images += images
    agreement.same += int((n_gained + n_lost == 0).sum())
    agreement.overlap += float(np.divide(n_both, either, out=np.ones(images), where=either > 0).sum())
    _, at_a, at_b = np.intersect1d(before.keys, after.keys, assume_unique=True, return_indices=True)
    shift = np.abs(after.scores[at_b].astype(np.float64) - before.scores[at_a])
    moved = np.bincount(before.keys[at_a] // tags, shift, minlength=images).astype(np.float64)
    return [
        _changed(tables[1].slice(int(rows[1][image]), 1), image, gained, lost, float(moved[image]), names)
        for image in _most(n_gained + n_lost, moved, ids[0][rows_a], most)
    ]


def _most(changes: Counts, moved: NDArray[np.float64], ids: NDArray[np.object_], most: int) -> list[int]:
    """The images with the highest `ChangedImage.rank`, with one changed tag at least."""
    some = np.flatnonzero(changes).tolist()
    return heapq.nlargest(most, some, key=lambda image: (changes[image], moved[image], ids[image]))


def _changed(row: pa.Table, image: int, gained: Counts, lost: Counts, moved: float, names: _Names) -> ChangedImage:
    tags = len(names.tags)
    [about] = row.select(["image_id", "uri", "sha256"]).to_pylist()

    def named(keys: Counts) -> list[str]:
        begin, end = np.searchsorted(keys, [image * tags, (image + 1) * tags])
        return [names.tags[code] for code in keys[begin:end] % tags]

    return ChangedImage(**about, gained=named(gained), lost=named(lost), score_change=moved)


def _pairs(table: pa.Table, rows: Counts, tags: int) -> _Pairs:
    """Of these rows, which are numbered from 0 on in this order."""
    lists = [table[name].combine_chunks().take(pa.array(rows)) for name in ("codes", "scores", "fired")]
    codes, scores, fired = (each.flatten().to_numpy(zero_copy_only=False) for each in lists)
    images = np.repeat(np.arange(len(rows)), lists[0].value_lengths().to_numpy())
    keys = images.astype(np.int64) * tags + codes
    order = np.argsort(keys)
    return _Pairs(keys[order], scores[order], fired[order].astype(np.bool_))


def _read(file: Path) -> pa.Table:
    with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as reader:
        return reader.read_all()


def _file(folder: Path, side: int, part: int) -> Path:
    return folder / f"{side}-{part}.arrow"


@dataclass(frozen=True)
class _Shares:
    """What shares are taken of, for A and for B. images: that are compared; hits: of these, by tag; paired: whether
    they are the same images."""

    paired: bool
    images: list[int]
    hits: list[Counts]

    @classmethod
    def of(cls, counted: _Counted, agreement: Agreement) -> "_Shares":
        if agreement.images > 0 and 2 * agreement.images >= max(counted.images):
            hits = [counted.both + counted.lost, counted.both + counted.gained]
            return cls(True, [agreement.images, agreement.images], hits)
        return cls(False, counted.images, [counted.of_all[0], counted.of_all[1]])

    @property
    def tested(self) -> int:
        """Tags that any of the images has."""
        return int(((self.hits[0] > 0) | (self.hits[1] > 0)).sum())


def _judged(names: _Names, counted: _Counted, agreement: Agreement, changed: list[ChangedImage]) -> Drift:
    shares = _Shares.of(counted, agreement)
    (low, high), marked = _intervals(shares, counted)
    known = _known(names)
    (images_a, images_b), (hits_a, hits_b) = shares.images, shares.hits
    shifts = [
        TagShift(
            names.tags[code],
            names.tags_zh[code],
            _kind(int(hits_a[code]), int(hits_b[code]), int(counted.gained[code]), int(counted.lost[code])),
            known[code],
            int(hits_a[code]) / max(1, images_a),
            int(hits_b[code]) / max(1, images_b),
            int(counted.gained[code]),
            int(counted.lost[code]),
            float(low[code]),
            float(high[code]),
            bool(marked[code]),
        )
        for code in range(len(names.tags))
    ]
    shifts.sort(key=lambda shift: (not shift.marked, -abs(shift.change), -(shift.gained + shift.lost), shift.tag))
    return Drift(shares.paired, images_a, images_b, shares.tested, shifts, agreement, changed)


def _intervals(shares: _Shares, counted: _Counted) -> tuple[Limits, NDArray[np.bool_]]:
    """Limits of each tag's share_b - share_a, and whether it is marked, see `TagShift`."""
    if not all(shares.images):
        nothing = np.zeros(len(counted.both))
        return (nothing - 1, nothing + 1), nothing > 0
    strict_low, strict_high = _limits(shares, counted, ERROR / max(1, shares.tested))
    return _limits(shares, counted, ERROR), (strict_low > 0) | (strict_high < 0)


def _limits(shares: _Shares, counted: _Counted, error: float) -> Limits:
    z = quantile(error)
    if shares.paired:
        return of_paired(counted.both, counted.lost, counted.gained, shares.images[0], z)
    return of_unpaired(shares.hits[0], shares.images[0], shares.hits[1], shares.images[1], z)


def _kind(hits_a: int, hits_b: int, gained: int, lost: int) -> Kind:
    if not hits_a and hits_b:
        return "appeared"
    if hits_a and not hits_b:
        return "vanished"
    return "changed" if hits_a != hits_b or gained or lost else "same"


def _known(names: _Names) -> list[str]:
    known = [""] * len(names.tags)
    for side, codes in (("a", names.codes_a), ("b", names.codes_b)):
        for code in np.unique(codes).tolist():
            known[code] += side
    return known
