"""What the page asks of a run, as plain values for JSON."""

import threading
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import FetchConfig, StorageConfig
from pipeline.errors import InputError, RunError
from pipeline.explore.scores import ScoreTable, Stored
from pipeline.explore.thumbnails import Thumbnails
from pipeline.finished_run import FinishedRun
from pipeline.index import Index
from pipeline.model_record import vocabulary_name, vocabulary_of
from pipeline.redecide import stored_from
from pipeline.report.rejects import gather_rejects
from ramcore.vocabulary import Vocabulary

_NEIGHBOUR_TAGS = 8
_BINS = 50


class UnknownError(RunError):
    """The run has no such image, tag or kind of reject."""

    exit_code = 2


class Browser:
    """A finished run, its index and its stored scores, open for reading by many threads.

    folder: where thumbnails and the turned-round scores are kept. Raises InputError for an index of another run.
    """

    def __init__(
        self, run: FinishedRun, index: Index, folder: Path, fetch: FetchConfig, storage: StorageConfig
    ) -> None:
        if index.about["plan_hash"] != run.document["plan_hash"]:
            raise InputError(f"the index holds another run, {index.about['run']}: name one of {run.root} with --index")
        self._run, self._index = run, index
        self._one_at_a_time = threading.Lock()
        self._vocabulary = run.vocabulary()
        self._scores = ScoreTable(run, folder)
        self._stored_from = stored_from(self._planned().thresholds, run.document["pinned"]["output.score_floor"])
        self._rejects = gather_rejects(run)
        self._thumbnails = Thumbnails(folder, fetch, storage)

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thumbnails.__exit__(None, None, None)

    def about(self) -> dict[str, Any]:
        """What the run is."""
        document = self._run.document
        kept = {name: document[name] for name in ("status", "finalized_at", "demo", "counts", "model")}
        return {"run": self._run.root, "index": self._index.about.get("kind"), **kept}

    def search(self, query: str, limit: int, offset: int, facets: int) -> dict[str, Any]:
        """As `Index.search`. Raises QueryError."""
        with self._one_at_a_time:
            return self._index.search(query, limit, offset, facets).as_dict()

    def completions(self, start: str, limit: int) -> list[dict[str, Any]]:
        """Names that go on from what was typed: {name, tags: [{tag_id, tag, tag_zh}]}."""
        found = self._index.names.completions(start, limit)
        return [
            {"name": name, "tags": [self._tag(tag) for tag in tags[:3]], "more": len(tags) > 3} for name, tags in found
        ]

    def image(self, image_id: str) -> dict[str, Any]:
        """An image with all its stored scores, and what decided on them."""
        row = self._row(image_id)
        scores = [
            {**self._tag(tag), "score": score, "threshold": self._threshold(tag), "fired": fired}
            for tag, score, fired in self._scores.scores_of(row)
        ]
        return {**self._scores.shown(row), "scores": scores}

    def neighbours(self, image_id: str, limit: int) -> list[dict[str, Any]]:
        """Images with the most of this one's tags: of its rarest tags, the highest sums of scores."""
        tags = [tag for tag, _, fired in self._scores.scores_of(self._row(image_id)) if fired]
        rarest = sorted(tags, key=self._scores.count)[:_NEIGHBOUR_TAGS]
        if not rarest:
            return []
        query = " OR ".join(f'"{self._vocabulary.tags[tag]}"' for tag in rarest)
        with self._one_at_a_time:
            found = self._index.search(query, limit + 1).hits
        return [asdict(hit) for hit in found if hit.image_id != image_id][:limit]

    def thumbnail(self, image_id: str) -> bytes:
        """A JPEG. Raises NoPictureError, UnknownError."""
        shown = self._scores.shown(self._row(image_id))
        return self._thumbnails.jpeg(shown["uri"], shown["sha256"] or "")

    def reject_kinds(self) -> list[dict[str, Any]]:
        """The kinds of rejects, the most frequent first."""
        names = ("kind", "images", "cause", "remedy", "retriable")
        return [{name: getattr(kind, name) for name in names} for kind in self._rejects]

    def rejects(self, kind: str, limit: int, offset: int) -> dict[str, Any]:
        """A page of the rejects of a kind. Raises UnknownError."""
        known = {each.kind: each.images for each in self._rejects}
        if kind not in known:
            raise UnknownError(f"kind={kind!r}: the run has no such rejects; kinds are {', '.join(known) or 'none'}")
        columns = ("image_id", "uri", "error_kind", "error_detail", "attempts")
        rows: list[dict[str, Any]] = []
        skipped = 0
        for batch in self._run.batches("rejects", columns):
            found = batch.filter(pc.equal(batch["error_kind"], kind))
            page = found.slice(max(offset - skipped, 0), limit - len(rows))
            rows += page.to_pylist()
            skipped += len(found)
            if len(rows) == limit:
                break
        return {"kind": kind, "total": known[kind], "offset": offset, "rows": rows}

    def tried(self, tag: int, threshold: float, limit: int) -> dict[str, Any]:
        """What a tag's threshold would decide, from stored scores: how many images have the tag, and those next to it.

        over, under: the images closest to the threshold on either side; lowest: scores up to it were not kept, so that
        nothing can be said of lower thresholds; capped: images may lack scores, as `output.top_k` cut them; histogram:
        stored scores in 50 steps of 0 … 1. Raises UnknownError.
        """
        if not 0 <= tag < len(self._vocabulary.tags):
            raise UnknownError(f"tag_id={tag}: the run has the tags 0 to {len(self._vocabulary.tags) - 1}")
        under, all_scores = self._scores.split(tag, threshold), self._scores.count(tag)
        bins = np.searchsorted(self._scores.of_tag(tag), np.linspace(0, 1, _BINS + 1, dtype=np.float32)[1:-1])
        edges = np.concatenate([[0], bins, [all_scores]])
        cap = self._run.document["pinned"]["output.top_k"]
        return {
            **self._tag(tag),
            "threshold": threshold,
            "images": all_scores - under,
            "run_threshold": self._threshold(tag),
            "run_images": all_scores - self._scores.split(tag, self._threshold(tag)),
            "lowest": float(self._stored_from[tag]),
            "below_stored": bool(np.float32(threshold) < self._stored_from[tag]),
            "capped": bool(cap and self._scores.fullest >= cap and threshold < self._threshold(tag)),
            "histogram": np.diff(edges).tolist(),
            "over": [self._beside(stored) for stored in self._scores.at(tag, under, under + limit)],
            "under": [self._beside(stored) for stored in reversed(self._scores.at(tag, under - limit, under))],
        }

    def _beside(self, stored: Stored) -> dict[str, Any]:
        shown = self._scores.shown(stored.row)
        return {"image_id": shown["image_id"], "uri": shown["uri"], "score": stored.score}

    def _row(self, image_id: str) -> int:
        row = self._scores.row_of(image_id)
        if row is None:
            raise UnknownError(f"id={image_id!r}: no tagged image of {self._run.root} has it")
        return row

    def _tag(self, tag: int) -> dict[str, Any]:
        name, name_zh = self._vocabulary.tags[tag], self._vocabulary.tags_zh[tag]
        return {"tag_id": tag, "tag": name, "tag_zh": name_zh}

    def _threshold(self, tag: int) -> float:
        return float(self._vocabulary.thresholds[tag])

    def _planned(self) -> Vocabulary:
        """The vocabulary that decided which scores were stored."""
        name = vocabulary_name(self._run.document["pinned"]["bundle"])
        if not self._run.store.exists(name):
            return self._vocabulary
        return vocabulary_of(pq.read_table(pa.BufferReader(self._run.store.read(name))))
