"""A run into an index: what is new or changed is written, what the run no longer has is removed, the rest stays."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import InputError
from pipeline.index.backend import Batch, Writer
from pipeline.index.documents import Documents, joined
from pipeline.index.ledger import FORMAT_VERSION
from pipeline.index.names import Names
from pipeline.index.source import Source, Unit, described

COMMIT_ROWS = 65_536
"""Documents that are held in memory, and lost at most when the process is killed."""


@dataclass
class Fed:
    """What came of it. seen: images that were read; documents: what the index holds now."""

    seen: int = 0
    new: int = 0
    changed: int = 0
    removed: int = 0
    documents: int = 0


@dataclass
class _Waiting:
    """Documents that are not committed yet, with the unit of each; ended: units of which these are the last."""

    parts: list[Documents] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    rows: int = 0
    ended: list[int] = field(default_factory=list)


def feed(
    source: Source,
    writer: Writer,
    kind: str,
    synonyms: Path | None = None,
    hierarchy: Path | None = None,
    replace: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Fed:
    """Bring an index in line with a run. Killed and run again, it goes on; the outcome is that of one go.

    kind: of the back end; synonyms, hierarchy: CSV files of names, None keeps what the index has; replace: also where
    the index holds another run; progress: is told images that are done, and all that are to be read.

    Raises InputError for an index that holds a run to which this one has no relation, or that has another vocabulary.
    """
    feeder = _Feeder(source, writer, progress)
    feeder.prepare(kind, synonyms, hierarchy, replace)
    feeder.take_in()
    feeder.sweep()
    writer.finish()
    feeder.fed.documents = writer.ledger.count()
    return feeder.fed


class _Feeder:
    def __init__(self, source: Source, writer: Writer, progress: Callable[[int, int], None]) -> None:
        self._source, self._writer, self._ledger, self._progress = source, writer, writer.ledger, progress
        self._numbers: dict[str, int] = {}
        self._next_doc = 1
        self._rows = 0
        self.fed = Fed()

    def prepare(self, kind: str, synonyms: Path | None, hierarchy: Path | None, replace: bool) -> None:
        """Check that run and index belong together, and note what is under way."""
        ledger = self._ledger
        ledger.begin()
        ledger.create()
        held = ledger.get("index")
        if held is not None:
            _check(held, self._source, kind, replace)
        names = _names(self._source, ledger.get("names"), synonyms, hierarchy)
        self._writer.prepare(names)
        ledger.recover()
        ledger.put("names", names.as_dict())
        # Until the end it is a mixture of both runs: either may be taken up again.
        runs = [] if held is None else held["holds"]
        own = self._source.plan_hash
        about = {"format_version": FORMAT_VERSION, "kind": kind, **described(self._source)}
        ledger.put("index", {**about, "holds": [*(run for run in runs if run != own), own]})
        ledger.commit()
        self._next_doc = ledger.next_doc()

    def take_in(self) -> None:
        """Write what is new or changed, in batches of bounded size."""
        waiting = _Waiting()
        for unit, parts in self._source.read(self._units_to_do()):
            number = self._numbers[unit.key]
            for documents in parts:
                waiting.parts.append(documents)
                waiting.units += [number] * len(documents)
                waiting.rows += len(documents)
                if waiting.rows >= COMMIT_ROWS:
                    self._commit(waiting)
                    waiting = _Waiting()
            waiting.ended.append(number)
        self._commit(waiting)

    def sweep(self) -> None:
        """Remove what the run does not have."""
        ledger = self._ledger
        ledger.begin()
        ledger.drop_units(self._numbers.values())
        ledger.commit()
        for rows in ledger.stale(COMMIT_ROWS):
            image_ids, docs = [row[0] for row in rows], [row[1] for row in rows]
            self._two_steps(rows, partial(self._writer.remove, docs, image_ids))
            ledger.forget(image_ids)
            self._end_step()
            self.fed.removed += len(rows)
        ledger.begin()
        ledger.put("index", {**ledger.get("index"), "holds": [self._source.plan_hash]})
        ledger.commit()

    def _units_to_do(self) -> list[Unit]:
        self._ledger.begin()
        to_do = []
        for unit in self._source.units:
            self._numbers[unit.key], done = self._ledger.unit(unit.key)
            if not done:
                to_do.append(unit)
                self._rows += unit.rows
        self._ledger.commit()
        return to_do

    def _commit(self, waiting: _Waiting) -> None:
        """One batch into the back end, and then into the ledger."""
        ledger = self._ledger
        documents = joined(waiting.parts) if waiting.parts else None
        if documents is not None and len(documents):
            self._write(documents, waiting.units)
            ledger.mark_done(waiting.ended)
            self._end_step()
        else:
            ledger.begin()
            ledger.mark_done(waiting.ended)
            ledger.commit()
        self.fed.seen += waiting.rows
        self._progress(self.fed.seen, self._rows)

    def _write(self, documents: Documents, units: list[int]) -> None:
        """Leaves the step open, for the units that end with it."""
        packed = documents.packed()
        hashes = documents.hashes(packed)
        known = self._ledger.known(documents.image_ids) if self._next_doc > 1 else {}
        old = [known.get(image_id) for image_id in documents.image_ids]
        differs = [state is None or state[1] != content for state, content in zip(old, hashes, strict=True)]
        places = np.flatnonzero(np.array(differs, np.bool_))
        docs = np.array([0 if state is None else state[0] for state in old], np.int64)[places]
        replaces = docs > 0
        docs[~replaces] = self._next_doc + np.arange((~replaces).sum())
        self._next_doc += int((~replaces).sum())
        chosen = documents.take(places)
        rows = list(zip(chosen.image_ids, docs.tolist(), strict=True))
        batch = Batch(chosen, docs, replaces, [packed[place] for place in places.tolist()])
        self._two_steps(rows, partial(self._writer.write, batch))
        contents = ((hashes[place], units[place]) for place in places.tolist())
        self._ledger.record((*row, *content) for row, content in zip(rows, contents, strict=True))
        moved = [(n, state[2]) for n, state in enumerate(old) if state is not None and state[2] != units[n]]
        self._ledger.move((units[n], documents.image_ids[n]) for n, _ in moved)
        self._ledger.mark_undone({unit for _, unit in moved})
        self._ledger.put("next_doc", self._next_doc)
        self.fed.new += int((~replaces).sum())
        self.fed.changed += int(replaces.sum())

    def _two_steps(self, rows: list[tuple[str, int]], work: Callable[[], None]) -> None:
        """The back end's work and the beginning of the ledger's; where these are two stores, one after the other."""
        ledger = self._ledger
        if rows and not self._writer.transactional:
            ledger.begin()
            ledger.expect(rows)
            ledger.put("next_doc", self._next_doc)
            ledger.commit()
            work()
            self._writer.commit()
            ledger.begin()
            return
        ledger.begin()
        if rows:
            work()

    def _end_step(self) -> None:
        if not self._writer.transactional:
            self._ledger.settle()
        self._ledger.commit()


def _names(source: Source, held: dict[str, Any] | None, synonyms: Path | None, hierarchy: Path | None) -> Names:
    kept = None if held is None else Names.from_dict(held)
    vocabulary = source.vocabulary
    if kept is not None and (kept.tags, kept.tags_zh) != (vocabulary.tags, vocabulary.tags_zh):
        raise InputError(
            f"the index has {len(kept.tags)} tags of another vocabulary than {source.store.root}, which has "
            f"{len(vocabulary)}: name another --out"
        )
    return Names.of(vocabulary, synonyms, hierarchy, kept)


def _check(held: dict[str, Any], source: Source, kind: str, replace: bool) -> None:
    """Raises InputError if the index is none that this run may be brought into."""
    check_format(held)
    if held["kind"] != kind:
        raise InputError(f"the index is of the kind {held['kind']}: give --to {held['kind']}, or name another --out")
    related = {source.plan_hash, source.base_hash} & set(held["holds"])
    if not related and not replace:
        raise InputError(
            f"the index holds {held['run']}, and {source.store.root} was not tagged with --base of that: name another "
            "--out, or add --replace to remove all that this run does not have"
        )


def check_format(held: dict[str, Any]) -> None:
    """Raises InputError for an index of another format version."""
    if held["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"the index has format_version {held['format_version']}, not {FORMAT_VERSION}: use the version of "
            "ramfleet that made it, or delete the index and make it anew"
        )
