"""What the page asks of a run, as plain values for JSON."""

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import FetchConfig, StorageConfig
from pipeline.errors import InputError, RunError
from pipeline.explore.committed import GROWING, is_complete_now, new_chunks, open_run
from pipeline.explore.look import MOST_BYTES, Looker
from pipeline.explore.scores import ScoreTable, Stored
from pipeline.explore.thumbnails import MOST_THUMBNAIL_BYTES, Thumbnails
from pipeline.fetching.redaction import redacted
from pipeline.finished_run import FinishedRun
from pipeline.index import Index
from pipeline.model_record import recorded_bundle, vocabulary_name, vocabulary_of
from pipeline.redecide import stored_from
from pipeline.report.rejects import RejectKind, gather_rejects
from ramcore.vocabulary import Vocabulary

_NEIGHBOUR_TAGS = 8
_NEIGHBOUR_IMAGES = 20_000
"""Images that are ranked for it, unless the rarest tag alone has more."""
_FACETS_KEPT = 64
_BINS = 50
_QUOTES = frozenset('"“”')
"""Which no query can hold within a name."""


class UnknownError(RunError):
    """The run has no such image, tag or kind of reject."""

    exit_code = 2


@dataclass(frozen=True)
class BrowserSettings:
    """All that does not depend on the run.

    folder: where thumbnails and the turned-round scores are kept; fetch, storage: how pictures are read; model: folder
    of the bundle that pictures are tagged by, None for the run's own; device: as for `ramcore.load`; most_bytes: of
    thumbnails that are kept.
    """

    folder: Path
    fetch: FetchConfig = field(default_factory=FetchConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    model: Path | None = None
    device: str = "auto"
    most_bytes: int = MOST_THUMBNAIL_BYTES


@dataclass(frozen=True)
class _State:
    """What is shown of a run: of one that still grows, as it was when last looked at."""

    run: FinishedRun
    scores: ScoreTable
    rejects: list[RejectKind]


class Browser:
    """A run, its index and its stored scores, open for reading by many threads.

    for_facets: the same index, opened again; renew: brings the index up to date with a run that grows. Raises
    InputError for an index of another run.
    """

    def __init__(
        self,
        run: FinishedRun,
        index: Index,
        settings: BrowserSettings,
        *,
        for_facets: Index | None = None,
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        _check_same_run(run, index)
        self._index, self._folder, self._renew = index, settings.folder, renew
        self._for_facets = index if for_facets is None else for_facets
        self._one_at_a_time, self._one_renewal = threading.Lock(), threading.Lock()
        self._one_count = self._one_at_a_time if for_facets is None else threading.Lock()
        self._facets: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._vocabulary = run.vocabulary()
        pinned = run.document["pinned"]
        self._stored_from = stored_from(_planned(run, self._vocabulary).thresholds, pinned["output.score_floor"])
        self._state = self._look_at(run)
        self._thumbnails = Thumbnails(settings.folder, settings.fetch, settings.storage, settings.most_bytes)
        bundle = partial(_bundle, settings.model, run)
        self._looker = Looker(bundle, settings.device, self._vocabulary, pinned.get("decode.mode", "fast"))

    def __enter__(self) -> "Browser":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thumbnails.__exit__(None, None, None)
        self._let_go(self._state)

    def about(self) -> dict[str, Any]:
        """What the run is."""
        run = self._state.run
        kept = {name: run.document[name] for name in ("status", "finalized_at", "demo", "counts", "model")}
        shown = {"run": run.root, "index": self._index.about.get("kind"), "most_bytes": MOST_BYTES}
        return {**shown, "images": self._state.scores.images, **kept}

    def news(self) -> dict[str, Any]:
        """chunks: how many were committed since they were looked at; complete: whether the run has become so since."""
        run = self._state.run
        return {"chunks": new_chunks(run), "complete": is_complete_now(run)}

    def renew(self) -> dict[str, Any]:
        """Take in what was committed since; `about` then. Who reads meanwhile sees the state before."""
        with self._one_renewal:
            before = self._state
            if any(self.news().values()):
                # Listed before the index is fed: what is committed meanwhile is news again.
                now = open_run(before.run.store, before.run)
                self._renew()
                self._state = self._look_at(now)
                self._let_go(before)
                self._facets = {}
        return self.about()

    def _look_at(self, run: FinishedRun) -> _State:
        return _State(run, ScoreTable(run, self._folder), gather_rejects(run))

    @staticmethod
    def _let_go(state: _State) -> None:
        """The scores of a moment are of no use later."""
        if state.run.document["status"] == GROWING:
            state.scores.discard()

    def search(self, query: str, limit: int, offset: int) -> dict[str, Any]:
        """As `Index.search`, without facets. Raises QueryError."""
        with self._one_at_a_time:
            return self._index.search(query, limit, offset).as_dict()

    def facets(self, query: str, limit: int) -> list[dict[str, Any]]:
        """The most frequent tags of all images of a result. Raises QueryError."""
        kept = self._facets
        if (query, limit) not in kept:
            # By an index of their own: they take longer than pages, which do not wait for them.
            with self._one_count:
                found = [asdict(facet) for facet in self._for_facets.search(query, 0, 0, limit).facets]
            if len(kept) >= _FACETS_KEPT:
                kept = self._facets = {}
            kept[query, limit] = found
        return kept[query, limit]

    def completions(self, start: str, limit: int) -> list[dict[str, Any]]:
        """Names that go on from what was typed: {name, tags: [{tag_id, tag, tag_zh}]}."""
        found = self._index.names.completions(start, limit)
        return [
            {"name": name, "tags": [self._tag(tag) for tag in tags[:3]], "more": len(tags) > 3} for name, tags in found
        ]

    def image(self, image_id: str) -> dict[str, Any]:
        """An image with all its stored scores, and what decided on them."""
        table = self._state.scores
        row = self._row(table, image_id)
        scores = [
            {**self._tag(tag), "score": score, "threshold": self._threshold(tag), "fired": fired}
            for tag, score, fired in table.scores_of(row)
        ]
        return {**table.shown(row), "scores": scores}

    def neighbours(self, image_id: str, limit: int) -> list[dict[str, Any]]:
        """Images with the most of this one's tags: of its rarest tags, the highest sums of scores."""
        table = self._state.scores
        tags = [tag for tag, _, fired in table.scores_of(self._row(table, image_id)) if fired]
        return self._sharing(table, tags, limit, image_id)

    def look(self, data: bytes, limit: int) -> dict[str, Any]:
        """A picture that was handed in, as `Looker.look`, and images of the run that share its tags."""
        seen = self._looker.look(data)
        tags = [score["tag_id"] for score in seen["scores"] if score["fired"]] if seen["same_tags"] else []
        return {**seen, "neighbours": self._sharing(self._state.scores, tags, limit)}

    def _sharing(self, table: ScoreTable, tags: list[int], limit: int, without: str = "") -> list[dict[str, Any]]:
        rarest = _rarest(table, [tag for tag in tags if not _QUOTES & set(self._vocabulary.tags[tag])])
        if not rarest:
            return []
        query = " OR ".join(f'"{self._vocabulary.tags[tag]}"' for tag in rarest)
        with self._one_at_a_time:
            found = self._index.search(query, limit + 1).hits
        return [hit.as_dict() for hit in found if hit.image_id != without][:limit]

    def thumbnail(self, image_id: str) -> bytes:
        """A JPEG. Raises NoPictureError, UnknownError."""
        table = self._state.scores
        shown = table.shown(self._row(table, image_id))
        return self._thumbnails.jpeg(shown["uri"], shown["sha256"] or "")

    def reject_kinds(self) -> list[dict[str, Any]]:
        """The kinds of rejects, the most frequent first."""
        names = ("kind", "images", "cause", "remedy", "retriable")
        return [{name: getattr(kind, name) for name in names} for kind in self._state.rejects]

    def rejects(self, kind: str, limit: int, offset: int) -> dict[str, Any]:
        """A page of the rejects of a kind. Raises UnknownError."""
        state = self._state
        known = {each.kind: each.images for each in state.rejects}
        if kind not in known:
            raise UnknownError(f"kind={kind!r}: the run has no such rejects; kinds are {', '.join(known) or 'none'}")
        columns = ("image_id", "uri", "error_kind", "error_detail", "attempts")
        rows: list[dict[str, Any]] = []
        skipped = 0
        for batch in state.run.batches("rejects", columns):
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
        table, pinned = self._state.scores, self._state.run.document["pinned"]
        under, all_scores = table.split(tag, threshold), table.count(tag)
        bins = np.searchsorted(table.of_tag(tag), np.linspace(0, 1, _BINS + 1, dtype=np.float32)[1:-1])
        edges = np.concatenate([[0], bins, [all_scores]])
        cap = pinned["output.top_k"]
        return {
            **self._tag(tag),
            "threshold": threshold,
            "images": all_scores - under,
            "run_threshold": self._threshold(tag),
            "run_images": all_scores - table.split(tag, self._threshold(tag)),
            "lowest": float(self._stored_from[tag]),
            # Scores over a threshold begin at the next number.
            "below_stored": bool(np.nextafter(np.float32(threshold), np.float32(2)) < self._stored_from[tag]),
            "capped": bool(cap and table.fullest >= cap and threshold < self._threshold(tag)),
            "histogram": np.diff(edges).tolist(),
            "over": [_beside(table, stored) for stored in table.at(tag, under, under + limit)],
            "under": [_beside(table, stored) for stored in reversed(table.at(tag, under - limit, under))],
        }

    def _row(self, table: ScoreTable, image_id: str) -> int:
        row = table.row_of(image_id)
        if row is None:
            raise UnknownError(f"id={image_id!r}: no tagged image of {self._state.run.root} has it")
        return row

    def _tag(self, tag: int) -> dict[str, Any]:
        name, name_zh = self._vocabulary.tags[tag], self._vocabulary.tags_zh[tag]
        return {"tag_id": tag, "tag": name, "tag_zh": name_zh}

    def _threshold(self, tag: int) -> float:
        return float(self._vocabulary.thresholds[tag])


def _check_same_run(run: FinishedRun, index: Index) -> None:
    if index.about["plan_hash"] != run.document["plan_hash"]:
        raise InputError(
            f"the index {redacted(index.path)} holds another run, {index.about['run']}: name one of {run.root} "
            "with --index"
        )


def _bundle(model: Path | None, run: FinishedRun) -> Path:
    """Folder of the model that was given, or else of the run's own."""
    return model if model is not None else recorded_bundle(run.store, run.document["pinned"]["bundle"])


def _rarest(table: ScoreTable, tags: list[int]) -> list[int]:
    """A few tags of an image that are on few others."""
    found: list[int] = []
    images = 0
    for tag in sorted((tag for tag in tags if table.count(tag)), key=table.count)[:_NEIGHBOUR_TAGS]:
        images += table.count(tag)
        if found and images > _NEIGHBOUR_IMAGES:
            break
        found.append(tag)
    return found


def _beside(table: ScoreTable, stored: Stored) -> dict[str, Any]:
    shown = table.shown(stored.row)
    return {"image_id": shown["image_id"], "uri": shown["uri"], "score": stored.score}


def _planned(run: FinishedRun, own: Vocabulary) -> Vocabulary:
    """The vocabulary that decided which scores were stored; own: of the run as it is now."""
    name = vocabulary_name(run.document["pinned"]["bundle"])
    if not run.store.exists(name):
        return own
    return vocabulary_of(pq.read_table(pa.BufferReader(run.store.read(name))))
