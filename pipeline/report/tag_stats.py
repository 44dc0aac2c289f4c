"""What the tag table of a run says, gathered batch by batch: how often tags fire, and where the scores lie."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.finished_run import FinishedRun
from pipeline.redecide import Fired, fired_scores
from ramcore.vocabulary import Vocabulary

SCORE_BINS = 50
"""Bins of the score histograms, over 0 … 1."""
MOST_TAGS = 40
"""The last bin of images by their number of tags is for so many and more."""

_BATCH_ROWS = 16_384
_LISTS = ("tag_ids", "scores")

Counts = NDArray[np.int64]


@dataclass
class TagStats:
    """Of all tagged images.

    fired: images of each tag, [tags]; per_image: images by their number of tags, [MOST_TAGS + 1]; scores: stored
    scores by tag and bin, [tags, SCORE_BINS]; over: those that are tags, by bin, [SCORE_BINS]; samples: a few rows
    with `image_id`, `uri`, `sha256`, and `tags` as (tag, score), the highest first.
    """

    vocabulary: Vocabulary
    top_k: int = 0
    images: int = 0
    fired: Counts = field(init=False)
    per_image: Counts = field(init=False)
    scores: Counts = field(init=False)
    over: Counts = field(init=False)
    samples: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        tags = len(self.vocabulary)
        self.fired, self.per_image = np.zeros(tags, np.int64), np.zeros(MOST_TAGS + 1, np.int64)
        self.scores, self.over = np.zeros((tags, SCORE_BINS), np.int64), np.zeros(SCORE_BINS, np.int64)

    @property
    def never(self) -> Counts:
        """Ids of the tags that fired on no image although their threshold lets them."""
        return np.flatnonzero((self.fired == 0) & (self.vocabulary.thresholds < 1))

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in rows with `tag_ids` and `scores`."""
        stored, tags = stored_scores(batch), len(self.vocabulary)
        fired = fired_scores(stored, self.vocabulary.thresholds, self.top_k)
        self.images += batch.num_rows
        self.fired += np.bincount(fired.tag_ids, minlength=tags)
        self.over += np.bincount(_bins(fired.scores), minlength=SCORE_BINS)
        self.per_image += np.bincount(np.minimum(fired.counts, MOST_TAGS), minlength=MOST_TAGS + 1)
        cells = stored.tag_ids.astype(np.int64) * SCORE_BINS + _bins(stored.scores)
        self.scores += np.bincount(cells, minlength=tags * SCORE_BINS).reshape(tags, SCORE_BINS)

    def sample(self, row: dict[str, Any]) -> None:
        """Take in one row for people to look at."""
        ids, scores = np.array(row["tag_ids"], np.int32), np.array(row["scores"], np.float32)
        fired = fired_scores(Fired(np.array([len(ids)]), ids, scores), self.vocabulary.thresholds, self.top_k)
        # By id, as names may repeat.
        pairs = zip(fired.tag_ids.tolist(), fired.scores.tolist(), strict=True)
        tags = [(self.vocabulary.tags[tag], score) for tag, score in sorted(pairs, key=lambda pair: -pair[1])]
        self.samples.append({name: row[name] for name in ("image_id", "uri", "sha256")} | {"tags": tags})


def gather_tags(run: FinishedRun, samples: int) -> TagStats:
    """Read the tag table of a run; samples: so many rows, evenly spread over it."""
    stats = TagStats(run.vocabulary(), run.document.get("derived_from", {}).get("top_k", 0))
    for batch in run.batches("tags", _LISTS, _BATCH_ROWS):
        stats.add(batch)
    if stats.images and samples:
        places = np.linspace(0, stats.images - 1, min(samples, stats.images)).round().astype(np.int64)
        for row in _rows_at(run, np.unique(places)):
            stats.sample(row)
    return stats


def stored_scores(batch: pa.RecordBatch) -> Fired:
    """The score lists of a batch of the tag table."""
    ids, scores = (batch[name].flatten().to_numpy() for name in _LISTS)
    return Fired(np.diff(batch["tag_ids"].offsets.to_numpy()).astype(np.int64), ids, scores)


def _bins(scores: NDArray[np.float32]) -> Counts:
    return np.clip((scores * SCORE_BINS).astype(np.int64), 0, SCORE_BINS - 1)


def _rows_at(run: FinishedRun, wanted: Counts) -> list[dict[str, Any]]:
    """The rows at these positions of the tag table, in order."""
    found: list[dict[str, Any]] = []
    first = 0
    for batch in run.batches("tags", ("image_id", "uri", "sha256", *_LISTS), _BATCH_ROWS):
        here = wanted[(wanted >= first) & (wanted < first + batch.num_rows)] - first
        if here.size:
            found += batch.take(pa.array(here)).to_pylist()
        first += batch.num_rows
    return found
