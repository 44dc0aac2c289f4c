"""The stored scores of a run, turned round: from a tag to its scores in order, from an image's id to its row."""

import hashlib
import json
import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.explore.cache import writing
from pipeline.finished_run import FinishedRun, RowGroup
from pipeline.redecide import Fired, fired_scores

_FORMAT = 1
_GROUPS = 32
"""Row groups that are kept in memory; their columns are those of `_SHOWN`."""
_SHOWN = ("image_id", "uri", "width", "height", "caption", "sha256")
_ROW_TYPE = np.int64


@dataclass(frozen=True)
class Stored:
    """A stored score. row: of the tag table; score: 0 … 1."""

    row: int
    score: float


class ScoreTable:
    """Files of a folder, memory-mapped: memory is bounded whatever the size of the run.

    starts: int64 [tags + 1], where each tag's scores begin; scores: float32, ascending within a tag; rows: int64
    beside them; hashes: uint64 [images], ascending, of image ids; hashed: int64 [images], their rows.
    """

    def __init__(self, run: FinishedRun, folder: Path) -> None:
        self._run = run
        self._thresholds = run.vocabulary().thresholds
        self._top_k = int(run.document.get("derived_from", {}).get("top_k", 0) or 0)
        self._groups = run.row_groups("tags")
        self._firsts = np.array([group.first for group in self._groups], _ROW_TYPE)
        self.images = sum(group.rows for group in self._groups)
        made_of = {
            "format": _FORMAT,
            "parts": run.document["parts"]["tags"],
            "finalized_at": run.document["finalized_at"],
        }
        digest = hashlib.sha256(json.dumps([made_of, run.root, run.document["plan_hash"]]).encode()).hexdigest()
        self._folder = folder / f"scores-{digest[:16]}"
        if not self._folder.is_dir():
            self._make()
        self._remove_older()
        self._starts = np.load(self._folder / "starts.npy")
        self._scores, self._rows, self._hashes, self._hashed = (
            np.load(self._folder / f"{name}.npy", mmap_mode="r") if self._size(name) else np.empty(0, kind)
            for name, kind in (
                ("scores", np.float32),
                ("rows", _ROW_TYPE),
                ("hashes", np.uint64),
                ("hashed", _ROW_TYPE),
            )
        )
        self._columns = lru_cache(_GROUPS)(self._read_columns)
        self.fullest = int(json.loads((self._folder / "about.json").read_text())["fullest"])

    def discard(self) -> None:
        """Remove the files; they can be read on until this is gone."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def of_tag(self, tag: int) -> NDArray[np.float32]:
        """All stored scores of a tag, ascending."""
        scores: Any = self._scores[self._starts[tag] : self._starts[tag + 1]]
        return np.asarray(scores, np.float32)

    def count(self, tag: int) -> int:
        """How many there are."""
        return int(self._starts[tag + 1] - self._starts[tag])

    def split(self, tag: int, threshold: float) -> int:
        """How many scores of a tag are not over a threshold, compared in float32 as the run compares them."""
        return int(np.searchsorted(self.of_tag(tag), np.float32(threshold), side="right"))

    def at(self, tag: int, begin: int, end: int) -> list[Stored]:
        """Scores of a tag by their place in ascending order."""
        first, last = int(self._starts[tag]), int(self._starts[tag + 1])
        part = slice(min(first + max(begin, 0), last), min(first + max(end, 0), last))
        pairs = zip(self._rows[part].tolist(), self._scores[part].tolist(), strict=True)
        return [Stored(row, score) for row, score in pairs]

    def row_of(self, image_id: str) -> int | None:
        """The row of an image, None for an id that the run does not have."""
        hashed = _hash(image_id)
        place = int(np.searchsorted(self._hashes, hashed))
        while place < len(self._hashes) and self._hashes[place] == hashed:
            row = int(self._hashed[place])
            if self.shown(row)["image_id"] == image_id:
                return row
            place += 1
        return None

    def shown(self, row: int) -> dict[str, Any]:
        """image_id, uri, width, height, caption and sha256 of a row."""
        number = self._group(row)
        table = self._columns(number)
        found: dict[str, Any] = table.slice(row - self._groups[number].first, 1).to_pylist()[0]
        return found

    def scores_of(self, row: int) -> list[tuple[int, float, bool]]:
        """(tag, score, whether it is a tag of the image) of all stored scores of a row, the highest first."""
        group: RowGroup = self._groups[self._group(row)]
        table = self._run.row_group(group, ("tag_ids", "scores")).slice(row - group.first, 1)
        tags, scores = (np.array(table[name][0].as_py()) for name in ("tag_ids", "scores"))
        stored = Fired(np.array([len(tags)]), tags.astype(np.int32), scores.astype(np.float32))
        fired = set(fired_scores(stored, self._thresholds, self._top_k).tag_ids.tolist())
        rows = zip(stored.tag_ids.tolist(), stored.scores.tolist(), strict=True)
        return sorted(((tag, score, tag in fired) for tag, score in rows), key=lambda entry: (-entry[1], entry[0]))

    def _group(self, row: int) -> int:
        # Of groups that begin at the same row all but the last are empty.
        return int(np.searchsorted(self._firsts, row, side="right")) - 1

    def _read_columns(self, number: int) -> pa.Table:
        return self._run.row_group(self._groups[number], _SHOWN)

    def _size(self, name: str) -> int:
        about: dict[str, int] = json.loads((self._folder / "about.json").read_text())
        return about["scores"] if name in ("scores", "rows") else about["images"]

    def _make(self) -> None:
        """In a folder of its own, which then appears whole."""
        with writing(self._folder.parent):
            work = Path(tempfile.mkdtemp(prefix=".scores-", dir=self._folder.parent))
        try:
            _Maker(self._run, len(self._thresholds), self.images, work).make()
            with writing(self._folder.parent):
                try:
                    work.rename(self._folder)
                except OSError:
                    # Another process was faster: what it made is the same.
                    if not self._folder.is_dir():
                        raise
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _remove_older(self) -> None:
        """What was made of the run as it was before; who has it open can read on."""
        for other in self._folder.parent.glob("scores-*"):
            # It may be of an earlier version, damaged, or just removed by another process.
            with suppress(OSError, ValueError):
                about = json.loads((other / "about.json").read_text())
                if other != self._folder and about.get("run") == self._run.root:
                    shutil.rmtree(other, ignore_errors=True)


class _Maker:
    """Two passes over the tag table: how many scores each tag has, then where each goes."""

    def __init__(self, run: FinishedRun, tags: int, images: int, folder: Path) -> None:
        self._run, self._tags, self._images, self._folder = run, tags, images, folder

    def make(self) -> None:
        counts, fullest = self._count()
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._save("starts", starts)
        self._place(starts)
        about = {"run": self._run.root, "scores": int(starts[-1]), "images": self._images, "fullest": fullest}
        with writing(self._folder.parent):
            (self._folder / "about.json").write_text(json.dumps(about))

    def _count(self) -> tuple[NDArray[np.int64], int]:
        """Scores of each tag, and the most that one image has."""
        counts, fullest = np.zeros(self._tags, np.int64), 0
        for batch in self._run.batches("tags", ("tag_ids",)):
            ids = batch.column("tag_ids")
            counts += np.bincount(ids.flatten().to_numpy(), minlength=self._tags)
            if len(ids):
                fullest = max(fullest, int(ids.value_lengths().to_numpy(zero_copy_only=False).max()))
        return counts, fullest

    def _place(self, starts: NDArray[np.int64]) -> None:
        scores = self._new("scores", np.float32, int(starts[-1]))
        rows = self._new("rows", _ROW_TYPE, int(starts[-1]))
        hashes = np.empty(self._images, np.uint64)
        free, first = starts[:-1].copy(), 0
        for batch in self._run.batches("tags", ("image_id", "tag_ids", "scores")):
            lists = batch.column("tag_ids")
            ids = lists.flatten().to_numpy()
            lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
            order = np.argsort(ids, kind="stable")
            counts = np.bincount(ids, minlength=self._tags)
            begins = np.cumsum(counts) - counts
            places = np.arange(len(ids)) + (free - begins)[ids[order]]
            scores[places] = batch.column("scores").flatten().to_numpy()[order]
            rows[places] = (first + np.repeat(np.arange(len(lists)), lengths))[order]
            hashes[first : first + len(lists)] = [_hash(name) for name in batch.column("image_id").to_pylist()]
            free += counts
            first += len(lists)
        for begin, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            ascending = np.argsort(scores[begin:end], kind="stable")
            scores[begin:end] = scores[begin:end][ascending]
            rows[begin:end] = rows[begin:end][ascending]
        by_hash = np.argsort(hashes, kind="stable")
        self._save("hashes", hashes[by_hash])
        self._save("hashed", by_hash.astype(_ROW_TYPE))

    def _save(self, name: str, numbers: NDArray[Any]) -> None:
        with writing(self._folder.parent):
            np.save(self._folder / f"{name}.npy", numbers)

    def _new(self, name: str, kind: type, size: int) -> NDArray[Any]:
        """A file of so many numbers; an empty file cannot be mapped."""
        if not size:
            return np.empty(0, kind)
        path = self._folder / f"{name}.npy"
        with writing(self._folder.parent):
            mapped: NDArray[Any] = np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=(size,))
            # To write to a mapped file that the disk has no room for kills the process.
            if hasattr(os, "posix_fallocate"):
                with path.open("r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return mapped


def _hash(image_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest())
