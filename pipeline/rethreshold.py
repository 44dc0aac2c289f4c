"""New tags from the stored scores of a finished run, without the model: a new run folder, the old one untouched."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import ConfigError, InputError
from pipeline.model_record import model_name, vocabulary_name, vocabulary_of, vocabulary_table
from pipeline.redecide import Fired, fired_scores, stored_from, uncertain_rows
from pipeline.stores.local_store import LocalStore
from pipeline.stores.opening import open_store
from pipeline.stores.run_store import RunStore
from pipeline.tables.names import Languages, Naming, name_lists
from pipeline.tables.parts import GROUP_ROWS, PartWriter
from pipeline.tables.schemas import FORMAT_VERSION, to_parquet
from pipeline.thresholds import Thresholds
from ramcore.vocabulary import Vocabulary

_NAMED = 3
"""Tags that an error names before it counts the others."""


@dataclass(frozen=True)
class Rules:
    """What is decided anew.

    thresholds: None keeps those of the run; top_k: at most so many tags of an image, those with the highest
    scores, 0 = all; language: the lists that are filled, None as in the run; allow_capped: go on where
    `output.top_k` may have cut scores that would be tags now.
    """

    thresholds: Thresholds | None = None
    top_k: int = 0
    language: Languages | None = None
    allow_capped: bool = False


@dataclass(frozen=True)
class Rethresholded:
    """What came of it. before, after: tags of all images; changed: tags with another threshold; capped: images
    that may lack tags because their scores were cut."""

    images: int
    before: int
    after: int
    changed: int
    capped: int


@dataclass(frozen=True)
class _Source:
    """A finished run. planned: the vocabulary that decided which scores were stored; current: the run's own."""

    store: RunStore
    document: dict[str, Any]
    planned: Vocabulary
    current: Vocabulary

    @property
    def pinned(self) -> dict[str, Any]:
        return dict(self.document["pinned"])

    @property
    def naming(self) -> Naming:
        language = self.document.get("derived_from", {}).get("language")
        naming = Naming.of(self.pinned)
        return naming if language is None else replace(naming, languages=language)


def rethreshold(run: str | Path, out: str | Path, rules: Rules) -> Rethresholded:
    """Write the run `out`, with the rows and scores of `run` and tags by other rules.

    Raises InputError for a folder that is no finished run or a target that is not empty, ConfigError for
    thresholds under what was stored, and for images whose scores were cut.
    """
    if rules.thresholds is None and not rules.top_k and rules.language is None:
        raise ConfigError("nothing to change: give --threshold, --thresholds, --top-k or --language")
    source = _open(open_store(run))
    current = source.current.thresholds
    thresholds = current if rules.thresholds is None else rules.thresholds.resolve(source.current)
    _check_stored(source, thresholds)
    with _new_run(str(out)) as target, tempfile.TemporaryDirectory(prefix="ramfleet-threshold-") as scratch:
        writer = _Writer(source, rules, thresholds)
        parts = {"tags": writer.write(target, Path(scratch))}
        for name in ("rejects", "duplicates"):
            parts[name] = [_copied(source.store, target, part) for part in source.document["parts"][name]]
        _write_rest(source, target, rules, thresholds, parts, writer.capped)
    changed = int((thresholds != current).sum())
    return Rethresholded(writer.images, writer.before, writer.after, changed, writer.capped)


def _open(store: RunStore) -> _Source:
    try:
        document = json.loads(store.read("run.json"))
        planned, current = (
            _read_vocabulary(store, name)
            for name in (vocabulary_name(document["pinned"]["bundle"]), "vocabulary.parquet")
        )
    except FileNotFoundError as error:
        missing = str(error.filename).removeprefix(f"{store.root}/")
        raise InputError(f"{store.root} holds no finished run: there is no {missing} in it") from error
    if document["format_version"] != FORMAT_VERSION:
        raise InputError(
            f"{store.root}: run.json has format_version {document['format_version']}, not {FORMAT_VERSION}"
        )
    if document["status"] != "complete":
        raise InputError(f"{store.root}: the run is {document['status']}: finish it with the command that began it")
    return _Source(store, document, planned, current)


def _read_vocabulary(store: RunStore, name: str) -> Vocabulary:
    with store.open(name) as file:
        return vocabulary_of(pq.read_table(file))


def _check_stored(source: _Source, thresholds: NDArray[np.float32]) -> None:
    """A tag whose threshold is under what was stored would be missing without a trace."""
    floor = source.pinned["output.score_floor"]
    lowest = stored_from(source.planned.thresholds, floor)
    # Scores over a threshold are at least the next float32.
    low = np.flatnonzero(np.nextafter(thresholds, np.float32(2)) < lowest)
    if not low.size:
        return
    names = source.current.tags
    lines = [f"threshold {thresholds[tag]!s} of {names[tag]!r} is under {lowest[tag]!s}" for tag in low[:_NAMED]]
    more = f"; and {low.size - _NAMED} more" if low.size > _NAMED else ""
    raise ConfigError(
        f"{'; '.join(lines)}{more}: lower scores of these tags were not stored (output.score_floor={floor}); "
        f"raise them, or tag again with output.score_floor={thresholds[low].min()!s} or less"
    )


@contextmanager
def _new_run(out: str) -> Iterator[RunStore]:
    """The store of a new run, which appears whole or not at all: in a bucket its run.json is written last."""
    if "://" not in out:
        with _new_folder(Path(out)) as folder:
            yield LocalStore(folder)
        return
    store = open_store(out)
    if not store.is_empty():
        raise InputError(f"--out {out} is not empty: name a new prefix")
    try:
        yield store
    except BaseException:
        for prefix in ("", "tags/", "rejects/", "duplicates/", "plan/"):
            for name in list(store.list(prefix)):
                store.delete(name)
        raise


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends without an error."""
    if not LocalStore(out).is_empty():
        raise InputError(f"--out {out} is not empty: name a new folder")
    out = out.absolute()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise InputError(f"--out {out}: cannot be written: {error.strerror}") from error
    try:
        (work / "run").mkdir()
        yield work / "run"
        (work / "run").replace(out)
    finally:
        shutil.rmtree(work)


class _Writer:
    """Streams the tag table through the rules, a row group at a time, and counts."""

    def __init__(self, source: _Source, rules: Rules, thresholds: NDArray[np.float32]) -> None:
        self._source, self._rules, self._thresholds = source, rules, thresholds
        naming = source.naming
        self._naming = naming if rules.language is None else replace(naming, languages=rules.language)
        self.images = self.before = self.after = self.capped = 0

    def write(self, target: RunStore, scratch: Path) -> list[str]:
        """The names of the new parts. Raises ConfigError if scores were cut that would count now."""
        writer: PartWriter | None = None
        for part in self._source.document["parts"]["tags"]:
            with self._source.store.open(part) as file:
                parquet = pq.ParquetFile(file)
                writer = writer or PartWriter(target, "tags/", scratch, parquet.schema_arrow.names)
                # A part without rows still has its columns.
                writer.add(parquet.schema_arrow.empty_table())
                for batch in parquet.iter_batches(batch_size=GROUP_ROWS):
                    writer.add(self._redecided(pa.Table.from_batches([batch])))
        if self.capped and not self._rules.allow_capped:
            raise ConfigError(
                f"{self.capped} of {self.images} images hold as many scores as output.top_k="
                f"{self._source.pinned['output.top_k']} lets them, and may lack scores that are tags at the new "
                "thresholds: add --allow-capped to go on without those, or tag again with a larger output.top_k"
            )
        return writer.close() if writer is not None else []

    def _redecided(self, rows: pa.Table) -> pa.Table:
        ids, scores = (rows[name].combine_chunks() for name in ("tag_ids", "scores"))
        counts = ids.value_lengths().to_numpy().astype(np.int64)
        stored = Fired(counts, ids.flatten().to_numpy(), scores.flatten().to_numpy())
        planned = self._source.planned.thresholds
        cap = self._source.pinned["output.top_k"]
        self.capped += len(uncertain_rows(stored, planned, self._thresholds, cap))
        fired = fired_scores(stored, self._thresholds, self._rules.top_k)
        self.images += len(counts)
        self.before += int((stored.scores > self._source.current.thresholds[stored.tag_ids]).sum())
        self.after += len(fired.tag_ids)
        names = self._source.current
        tagged = np.ones(len(counts), np.bool_)
        lists = name_lists(names.tags, names.tags_zh, tagged, fired.counts, fired.tag_ids)
        for name, column in self._naming.columns(*lists).items():
            position = rows.schema.get_field_index(name)
            rows = rows.set_column(position, rows.schema.field(name), column)
        return rows


def _copied(source: RunStore, target: RunStore, name: str) -> str:
    target.create(name, source.read(name))
    return name


def _write_rest(
    source: _Source,
    target: RunStore,
    rules: Rules,
    thresholds: NDArray[np.float32],
    parts: dict[str, list[str]],
    capped: int,
) -> None:
    """The vocabularies, the model's record, and run.json last."""
    bundle = source.pinned["bundle"]
    for name in (vocabulary_name(bundle), model_name(bundle)):
        _copied(source.store, target, name)
    vocabulary = replace(source.current, thresholds=thresholds)
    target.replace("vocabulary.parquet", to_parquet(vocabulary_table(vocabulary)))
    derived = {
        "run": source.store.root,
        "finalized_at": source.document["finalized_at"],
        "thresholds": None if rules.thresholds is None else rules.thresholds.described,
        "top_k": rules.top_k,
        "language": rules.language or source.naming.languages,
        "capped_images": capped,
        "derived_from": source.document.get("derived_from"),
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    # No model ran, so there is no telemetry and no cost of this run; those of the old one stay where they are.
    changes = {"finalized_at": now, "derived_from": derived, "cost": None, "parts": parts | {"telemetry": []}}
    document = {**source.document, **changes}
    target.replace("run.json", (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())
