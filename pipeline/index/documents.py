"""Documents: tagged images as an index takes them in, and as it gives them back."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.index.expression import THOUSAND
from pipeline.redecide import Fired, fired_scores

COLUMNS = ("image_id", "uri", "width", "height", "tag_ids", "scores", "caption")
"""Columns of the tag table that an index reads."""

_LISTS = ("image_ids", "uris", "widths", "heights", "captions")
PAIR_BYTES = 4
"""Of one tag with its score, see `Documents.packed`."""
_PAIR_BITS = 10
_PAIR_MASK = (1 << _PAIR_BITS) - 1


@dataclass(frozen=True)
class Documents:
    """n documents, a list for each column.

    starts: int64 [n + 1], where each document's tags begin; tags: int32, ascending within a document; scores: int32
    beside tags, thousandths.
    """

    image_ids: list[str]
    uris: list[str]
    widths: list[int | None]
    heights: list[int | None]
    captions: list[str | None]
    starts: NDArray[np.int64]
    tags: NDArray[np.int32]
    scores: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def counts(self) -> NDArray[np.int64]:
        """Tags of each document, int64 [n]."""
        return np.diff(self.starts)

    def packed(self) -> list[bytes]:
        """The tags and scores of each document as bytes, see `unpack`."""
        data = ((self.tags.astype("<u4") << _PAIR_BITS) | self.scores.astype("<u4")).tobytes()
        ends = (PAIR_BYTES * self.starts).tolist()
        return [data[begin:end] for begin, end in itertools.pairwise(ends)]

    def hashes(self, packed: list[bytes]) -> list[int]:
        """What differs where a document's content does: 63 bits of BLAKE2. packed: as given by `packed`."""
        rows = zip(self.uris, self.widths, self.heights, self.captions, packed, strict=True)
        digest = hashlib.blake2b
        return [
            int.from_bytes(digest(f"{uri}\0{width}\0{height}\0{caption}\0".encode() + tags, digest_size=8).digest())
            >> 1
            for uri, width, height, caption, tags in rows
        ]

    def take(self, places: NDArray[np.int64]) -> "Documents":
        """These documents only. places: ascending, each once."""
        if len(places) == len(self):
            return self
        counts = self.counts[places]
        starts = np.concatenate([[0], np.cumsum(counts)])
        among = np.repeat(self.starts[places] - starts[:-1], counts) + np.arange(starts[-1])
        listed = places.tolist()
        columns: dict[str, list[Any]] = {name: [getattr(self, name)[place] for place in listed] for name in _LISTS}
        return Documents(**columns, starts=starts, tags=self.tags[among], scores=self.scores[among])


def documents_of(rows: pa.Table, thresholds: NDArray[np.float32], top_k: int = 0) -> Documents:
    """Rows of a tag table with COLUMNS, none of them rejected, as documents: the tags over their thresholds.

    top_k: at most so many tags of an image, as a run that was thresholded anew has them; 0 = all.
    """
    ids, scores = (rows[name].combine_chunks() for name in ("tag_ids", "scores"))
    counts = ids.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    stored = Fired(counts, ids.flatten().to_numpy(), scores.flatten().to_numpy())
    fired = fired_scores(stored, thresholds, top_k)
    values = (rows[name].to_pylist() for name in ("image_id", "uri", "width", "height", "caption"))
    columns: dict[str, list[Any]] = dict(zip(_LISTS, values, strict=True))
    starts = np.concatenate([[0], np.cumsum(fired.counts)])
    # In float32 0.7 is a little less than 7/10: multiplied in float32 it is 700 again.
    thousandths = np.floor(fired.scores * np.float32(THOUSAND)).clip(0, THOUSAND).astype(np.int32)
    # Ascending also where a run's lists are not, so that equal documents are equal bytes.
    order = np.lexsort((fired.tag_ids, fired.rows))
    tags = fired.tag_ids[order].astype(np.int32)
    return Documents(**columns, starts=starts, tags=tags, scores=thousandths[order])


def joined(parts: Sequence[Documents]) -> Documents:
    """The documents of all parts, one after the other."""
    columns: dict[str, list[Any]] = {
        name: [value for part in parts for value in getattr(part, name)] for name in _LISTS
    }
    starts = np.concatenate([[0], np.cumsum(np.concatenate([part.counts for part in parts]))])
    tags, scores = (np.concatenate([getattr(part, name) for part in parts]) for name in ("tags", "scores"))
    return Documents(**columns, starts=starts, tags=tags, scores=scores)


def unpack(data: bytes) -> list[tuple[int, int]]:
    """(tag, thousandths) pairs in what `Documents.packed` gave for one document, or for several in a row."""
    tags, scores = pairs_in(data)
    return list(zip(tags.tolist(), scores.tolist(), strict=True))


def pairs_in(data: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The same as arrays, int64 [n] each."""
    pairs = np.frombuffer(data, "<u4").astype(np.int64)
    return pairs >> _PAIR_BITS, pairs & _PAIR_MASK


def tags_in(data: bytes) -> NDArray[np.int64]:
    """The tags alone."""
    return pairs_in(data)[0]


@dataclass(frozen=True)
class Found:
    """A document in a result. rank: sum of thousandths of the tags that were asked for; tags: (tag, thousandths)."""

    image_id: str
    uri: str
    width: int | None
    height: int | None
    caption: str | None
    rank: int
    tags: list[tuple[int, int]]

    @classmethod
    def of(cls, shown: Sequence[Any], rank: int, tags: list[tuple[int, int]]) -> "Found":
        """shown: image_id, uri, width, height, caption."""
        image_id, uri, width, height, caption = shown
        return cls(image_id, uri, width, height, caption, rank, tags)
