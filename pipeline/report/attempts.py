"""What the telemetry of a run says, gathered batch by batch: cards, nodes, stages, throughput."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.finished_run import FinishedRun
from pipeline.report.sketch import Sketch
from pipeline.report.time_axis import Floats, TimeAxis, time_axis

STAGES = ("fetch", "decode", "wait", "transfer", "model", "commit")
"""Stages of a chunk, of which the telemetry has the seconds."""

UNKNOWN = "unknown"
"""Name of a card or node that the run wrote no name down for."""

_BINS = 160
_COUNTED = ("committed", "shared")
_COLUMNS = (
    *("outcome", "node_id", "node_type", "card", "dtype", "microbatch", "images", "rejects", "bytes"),
    *(f"{stage}_s" for stage in STAGES),
    *("peak_vram_bytes", "started_at", "ended_at"),
)


@dataclass
class CardWork:
    """What the cards of one name did. images: that went through the model, by micro-batch in `microbatches`;
    per_image: model seconds of an image in each piece of work; peak_vram_bytes: the most that any replica held."""

    images: int = 0
    model_s: float = 0.0
    per_image: Sketch = field(default_factory=Sketch)
    microbatches: Counter[int] = field(default_factory=Counter)
    dtypes: Counter[str] = field(default_factory=Counter)
    peak_vram_bytes: int | None = None


@dataclass
class NodeWork:
    """What one node did; as CardWork."""

    node_type: str
    card: str
    images: int = 0
    model_s: float = 0.0
    per_image: Sketch = field(default_factory=Sketch)


@dataclass(frozen=True)
class Throughput:
    """Images per second over the run: at `axis` seconds edges[i] … edges[i+1] of work, by card, float64 [bins]."""

    axis: TimeAxis
    edges: Floats
    by_card: dict[str, Floats]


@dataclass
class Attempts:
    """All of it. outcomes: attempts by outcome; images: of the attempts that count, rejects among them; seconds: sums
    by stage; throughput: None without an image that went through the model."""

    rows: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    images: int = 0
    bytes: int = 0
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    cards: dict[str, CardWork] = field(default_factory=dict)
    nodes: dict[str, NodeWork] = field(default_factory=dict)
    first_at: float | None = None
    last_at: float | None = None
    throughput: Throughput | None = None


def gather_attempts(run: FinishedRun) -> Attempts:
    """Read the telemetry of a run, in memory that grows with its cards and nodes only."""
    found = Attempts()
    for batch in run.batches("telemetry", _COLUMNS):
        _add(found, batch)
    if found.first_at is not None and found.last_at is not None:
        found.throughput = _throughput(run, found.first_at, found.last_at)
    return found


def _add(found: Attempts, batch: pa.RecordBatch) -> None:
    found.rows += batch.num_rows
    for entry in pc.value_counts(batch["outcome"]).to_pylist():
        found.outcomes[entry["values"]] += entry["counts"]
    work = batch.filter(pc.is_in(batch["outcome"], pa.array(_COUNTED)))
    if not work.num_rows:
        return
    found.images += _sum(work["images"])
    found.bytes += _sum(work["bytes"])
    for stage in STAGES:
        found.seconds[stage] += pc.sum(work[f"{stage}_s"]).as_py() or 0.0
    starts, ends = _moments(work, "started_at"), _moments(work, "ended_at")
    found.first_at = _least(found.first_at, float(starts.min()))
    found.last_at = -_least(None if found.last_at is None else -found.last_at, -float(ends.max()))
    _add_model_work(found, work.filter(pc.greater(pc.fill_null(work["model_s"], 0), 0)))


def _add_model_work(found: Attempts, work: pa.RecordBatch) -> None:
    images, model_s = _numbers(work, "images"), _numbers(work, "model_s")
    for card, rows in _groups(work["card"]):
        of_card = found.cards.setdefault(card, CardWork())
        _add_sums(of_card, images[rows], model_s[rows])
        taken = work.take(pa.array(rows))
        for microbatch, members in _groups(taken["microbatch"]):
            if microbatch != UNKNOWN:
                of_card.microbatches[int(microbatch)] += int(images[rows][members].sum())
        for dtype, members in _groups(taken["dtype"]):
            of_card.dtypes[dtype] += int(images[rows][members].sum())
        peak = pc.max(taken["peak_vram_bytes"]).as_py()
        if peak is not None:
            of_card.peak_vram_bytes = max(peak, of_card.peak_vram_bytes or 0)
    for node, rows in _groups(work["node_id"]):
        if node not in found.nodes:
            first = work.slice(int(rows[0]), 1).to_pylist()[0]
            found.nodes[node] = NodeWork(first["node_type"] or UNKNOWN, first["card"] or UNKNOWN)
        _add_sums(found.nodes[node], images[rows], model_s[rows])


def _add_sums(work: CardWork | NodeWork, images: Floats, model_s: Floats) -> None:
    work.images += int(images.sum())
    work.model_s += float(model_s.sum())
    work.per_image.add(model_s[images > 0] / images[images > 0])


def _throughput(run: FinishedRun, first: float, last: float) -> Throughput | None:
    columns = ("outcome", "card", "images", "model_s", "started_at", "ended_at")

    def counted() -> Iterator[pa.RecordBatch]:
        for batch in run.batches("telemetry", columns):
            yield batch.filter(pc.is_in(batch["outcome"], pa.array(_COUNTED)))

    axis = time_axis(((_moments(work, "started_at"), _moments(work, "ended_at")) for work in counted()), first, last)
    edges = np.linspace(0.0, axis.length, _BINS + 1)
    done: dict[str, Floats] = {}
    for batch in counted():
        work = batch.filter(pc.greater(pc.fill_null(batch["model_s"], 0), 0))
        images = _numbers(work, "images")
        ends = axis.place(_moments(work, "ended_at"))
        starts = np.maximum(ends - np.maximum(_numbers(work, "model_s"), 1e-3), 0.0)
        for card, rows in _groups(work["card"]):
            amounts = done.setdefault(card, np.zeros(len(edges)))
            amounts += _done_until(edges, starts[rows], ends[rows], images[rows])
    width = axis.length / _BINS
    rates = {card: np.diff(amounts) / width for card, amounts in done.items() if amounts[-1] > 0}
    return Throughput(axis, edges, rates) if rates and width > 0 else None


def _done_until(edges: Floats, starts: Floats, ends: Floats, images: Floats) -> Floats:
    """Images done until each edge, where every piece of work proceeds evenly from its start to its end."""
    ends = np.maximum(ends, starts + 1e-3)
    # The last edge is the end of all work; what was stretched beyond it is done by then.
    limits = np.append(edges[:-1], max(edges[-1], float(ends.max(initial=0.0))))
    slopes = images / (ends - starts)
    return _ramps(limits, starts, slopes) - _ramps(limits, ends, slopes)


def _ramps(edges: Floats, starts: Floats, slopes: Floats) -> Floats:
    """The sum of lines that rise from 0 at their starts, at each edge."""
    order = np.argsort(starts)
    slope_sums = np.concatenate(([0.0], np.cumsum(slopes[order])))
    offset_sums = np.concatenate(([0.0], np.cumsum((slopes * starts)[order])))
    begun = np.searchsorted(starts[order], edges)
    summed: Floats = slope_sums[begun] * edges - offset_sums[begun]
    return summed


def _groups(column: pa.Array) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """(value, positions of its rows) for each value of a column, nulls as UNKNOWN."""
    coded = pc.fill_null(column.cast(pa.string()), UNKNOWN).dictionary_encode()
    codes = coded.indices.to_numpy()
    order = np.argsort(codes, kind="stable")
    names = coded.dictionary.to_pylist()
    bounds = np.searchsorted(codes[order], np.arange(len(names) + 1))
    for number, name in enumerate(names):
        yield name, order[bounds[number] : bounds[number + 1]]


def _numbers(work: pa.RecordBatch, name: str) -> Floats:
    filled: Floats = pc.fill_null(work[name].cast(pa.float64()), 0.0).to_numpy(zero_copy_only=False)
    return filled


def _moments(work: pa.RecordBatch, name: str) -> Floats:
    """Seconds since 1970; the time of the row's other end where this one is unknown."""
    other = "ended_at" if name == "started_at" else "started_at"
    column = pc.coalesce(work[name], work[other]).cast(pa.int64())
    moments: Floats = pc.fill_null(column, 0).to_numpy(zero_copy_only=False) / 1000.0
    return moments


def _sum(column: pa.Array) -> int:
    return int(pc.sum(column).as_py() or 0)


def _least(one: float | None, other: float) -> float:
    return other if one is None else min(one, other)
