"""A report in the words and charts of its page: what has no data says so."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.cards.profiles import GIB, load_profiles
from pipeline.costs.ledger import Ledger
from pipeline.report import charts
from pipeline.report.attempts import STAGES, UNKNOWN, Attempts, CardWork
from pipeline.report.charts import MarkRow
from pipeline.report.cost_views import NO_PRICES
from pipeline.report.document import Report
from pipeline.report.life import MarkKind, Samples
from pipeline.report.numbers import counted, duration, money, plain, share, size, unit
from pipeline.report.tag_stats import TagStats

NO_TELEMETRY = "No attempt was recorded: the rows of this run were made from those of another, without a model."

_MOST_BARS = 24
_FREQUENT = 30
_MOST_NEVER = 400


@dataclass(frozen=True)
class Headline:
    """One of the figures on top."""

    label: str
    value: str
    note: str = ""


def headlines(report: Report) -> list[Headline]:
    """The figures on top of the page."""
    counts = report.counts
    reached = counts["input"] - counts["duplicates"] - counts["missing"]
    rejects = f"{counts['rejected']:,} rejected ({share(counts['rejected'] / reached)})" if reached else "nothing done"
    found = [
        Headline("images tagged", f"{counts['tagged'] + counts['carried']:,}", f"of {counts['input']:,}; {rejects}")
    ]
    if report.ledger is not None:
        found += _cost_headlines(report.ledger)
    if report.images_per_s is not None and report.work_s is not None:
        found.append(Headline("images/s", plain(report.images_per_s), "all nodes together, pauses cut out"))
        found.append(Headline("time of work", duration(report.work_s), _sessions(report)))
    if report.ledger is not None:
        run = report.ledger.run
        gpus = f"{counted(run.gpus, 'GPU')}, {plain(run.gpu_hours)} GPU-hours" if run.gpus else "without GPUs"
        found.append(Headline("nodes", f"{run.nodes:,}", gpus))
    return found


def _cost_headlines(ledger: Ledger) -> list[Headline]:
    run, currency = ledger.run, ledger.currency
    if run.total_dollars is None:
        return [Headline("cost", "not known", NO_PRICES)]
    partly = (
        f"without {duration(float(run.unpriced_seconds))} of nodes that have no price" if run.unpriced_seconds else ""
    )
    found = [Headline("cost", money(run.total_dollars, currency), partly)]
    if run.dollars_per_1000 is not None and run.images_per_dollar is not None:
        rate = f"{plain(run.images_per_dollar)} images for {unit(currency)}"
        found.append(Headline("for 1,000 images", money(run.dollars_per_1000, currency), rate))
    return found


def _sessions(report: Report) -> str:
    throughput = report.attempts.throughput
    pauses = sum(seconds for _, seconds in throughput.axis.cuts) if throughput else 0
    return f"and pauses of {duration(pauses)}" if pauses else "first work to last"


# ---- throughput ----


@dataclass(frozen=True)
class Throughput:
    """The chart, its layers from below, its rows of marks from above, and the pauses that were cut out of it."""

    chart: Markup
    layers: list[str]
    marks: list[MarkRow]
    pauses: list[str]


_MARKS: dict[MarkKind, tuple[str, str, str]] = {
    "joined": ("joined", "good", "^"),
    "left": ("left", "muted", "s"),
    "drained": ("drained", "s1", "s"),
    "died": ("died", "bad", "v"),
    "replica_died": ("died", "bad", "x"),
}


def throughput_chart(report: Report) -> Throughput | None:
    """Images per second over time; None without data."""
    found = report.attempts.throughput
    if found is None:
        return None
    layers = _layers(found.by_card)
    marks = _mark_rows(report)
    total = np.sum([rates for _, rates in layers], axis=0)
    said = (
        f"Images per second over {duration(found.axis.length)} of work: {plain(float(total.mean()))} on average, "
        f"{plain(float(total.max()))} at most. " + "; ".join(m.label for m in marks)
    )
    cuts = [at for at, _ in found.axis.cuts]
    drawn = charts.throughput_chart(said, found.edges, layers, cuts, marks)
    pauses = [f"{duration(seconds)} after {duration(at)}" for at, seconds in found.axis.cuts]
    return Throughput(drawn, [name for name, _ in layers], marks, pauses)


def _layers(by_card: dict[str, Any]) -> list[tuple[str, Any]]:
    """Cards by what they did; the least ones together where there are more than colours."""
    layers = sorted(by_card.items(), key=lambda item: -float(item[1].sum()))
    if len(layers) <= charts.MOST_SERIES:
        return layers
    kept, rest = layers[: charts.MOST_SERIES - 1], layers[charts.MOST_SERIES - 1 :]
    return [*kept, (f"{len(rest)} other cards", np.sum([rates for _, rates in rest], axis=0))]


def _mark_rows(report: Report) -> list[MarkRow]:
    """What came and went, put together where it would overlap."""
    throughput = report.attempts.throughput
    if throughput is None:
        return []
    cells = np.linspace(0, throughput.edges[-1], 61)
    rows = []
    for kind, (verb, colour, symbol) in _MARKS.items():
        moments = np.array([mark.at for mark in report.life.marks if mark.kind == kind])
        if not moments.size:
            continue
        places = throughput.axis.place(moments)
        cell = np.clip(np.searchsorted(cells, places, side="right") - 1, 0, 59)
        used, counts = np.unique(cell, return_counts=True)
        middles = (cells[used] + cells[used + 1]) / 2
        label = f"{counted(moments.size, 'replica' if kind == 'replica_died' else 'node')} {verb}"
        rows.append(MarkRow(label, colour, symbol, middles.tolist(), counts.tolist()))
    return rows


# ---- cards ----


def latency_chart(attempts: Attempts) -> Markup | None:
    """How long the model took for an image, by card."""
    cards = [(name, card.per_image) for name, card in attempts.cards.items() if card.per_image.count]
    cards = sorted(cards, key=lambda item: item[1].quantiles([0.5])[0])[:_MOST_BARS]
    if not cards:
        return None
    said = "; ".join(f"{name} {duration(sketch.quantiles([0.5])[0])}" for name, sketch in cards)
    return charts.latency_chart(f"Time of the model for an image, median by card. {said}", cards)


LATENCY_COLUMNS = (
    "card",
    "pieces of work",
    "5 %",
    "25 %",
    "median",
    "75 %",
    "95 %",
    "99 %",
    "fastest node",
    "slowest node",
)


def latency_table(attempts: Attempts) -> list[list[str]]:
    """Quantiles of the time for an image; and the medians of the fastest and slowest node with this card."""
    rows = []
    for name, card in sorted(attempts.cards.items(), key=lambda item: -item[1].images):
        if not card.per_image.count:
            continue
        quantiles = card.per_image.quantiles((0.05, 0.25, 0.5, 0.75, 0.95, 0.99))
        nodes = [
            n.per_image.quantiles([0.5])[0] for n in attempts.nodes.values() if n.card == name and n.per_image.count
        ]
        spread = [duration(min(nodes)), duration(max(nodes))] if len(nodes) > 1 else ["–", "–"]
        rows.append([name, f"{card.per_image.count:,}", *(duration(value) for value in quantiles), *spread])
    return rows


@dataclass(frozen=True)
class MemoryRow:
    """What one kind of card held and did. filled: share of the card's memory, None where that is not known; gpu,
    power: on average."""

    card: str
    microbatches: str
    dtypes: str
    peak: str
    filled: float | None
    memory: str
    gpu: str
    power: str


def memory_rows(report: Report) -> list[MemoryRow]:
    """Micro-batches, memory and load by card."""
    cards = sorted(report.attempts.cards.items(), key=lambda item: -item[1].images)
    return [_memory(name, card, report.life.samples.get(name)) for name, card in cards]


def _memory(name: str, card: CardWork, samples: Samples | None) -> MemoryRow:
    sizes = card.microbatches.most_common(4) if card.images else []
    peak, holds = card.peak_vram_bytes, _memory_of(name, card.peak_vram_bytes)
    known = samples if samples is not None and samples.count else None
    return MemoryRow(
        card=name,
        microbatches=", ".join(f"{number} ({share(images / card.images)})" for number, images in sizes) or "–",
        dtypes=", ".join(dtype for dtype in card.dtypes if dtype != UNKNOWN) or "–",
        peak="–" if peak is None else size(peak),
        filled=None if holds is None or peak is None else peak / (holds * GIB),
        memory="–" if holds is None else f"{holds:g} GiB",
        gpu="–" if known is None else f"{known.gpu / known.count:.0f} %",
        power="–" if known is None else f"{known.power_w / known.count:.0f} W",
    )


def _memory_of(card: str, peak_bytes: int | None) -> float | None:
    """GiB of the smallest card of this name that can have held so much, by the makers' figures."""
    if peak_bytes is None:
        return None
    sizes = [profile.vram_gib for profile in load_profiles().cards if profile.card == card]
    return min((gib for gib in sizes if gib * GIB >= peak_bytes), default=None)


def stage_rows(attempts: Attempts) -> list[tuple[str, str, float]]:
    """(stage, seconds of an image, its share of the largest); nothing without images."""
    if not attempts.images:
        return []
    each = {stage: attempts.seconds[stage] / attempts.images for stage in STAGES}
    most = max(each.values()) or 1.0
    return [(stage, duration(seconds), seconds / most) for stage, seconds in each.items()]


# ---- tags ----


@dataclass(frozen=True)
class TagRow:
    """One frequent tag. path: its stored scores as an SVG path in a box of 100 × 20."""

    tag: str
    tag_zh: str
    images: str
    share_text: str
    share: float
    path: str


def frequent_tags(tags: TagStats) -> list[TagRow]:
    """The tags that fired on most images."""
    order = (-tags.fired).argsort(kind="stable")[:_FREQUENT]
    names = tags.vocabulary
    return [
        TagRow(names.tags[tag], names.tags_zh[tag], f"{tags.fired[tag]:,}", share(tags.fired[tag] / tags.images),
               float(tags.fired[tag] / tags.images), _spark(tags.scores[tag]))
        for tag in order if tags.fired[tag]
    ]  # fmt: skip


def _spark(counts: Any) -> str:
    most = max(1, int(counts.max()))
    width = 100 / len(counts)
    steps = "".join(f"H{(i + 1) * width:g}V{20 - 20 * int(c) / most:.1f}" for i, c in enumerate((*counts[1:], 0)))
    return f"M0 20V{20 - 20 * int(counts[0]) / most:.1f}{steps}V20Z"


def never_fired(tags: TagStats) -> tuple[list[str], int]:
    """The tags that never fired, as far as the page lists them, and how many it leaves out."""
    ids = tags.never
    return [tags.vocabulary.tags[tag] for tag in ids[:_MOST_NEVER]], max(0, len(ids) - _MOST_NEVER)


def score_chart(tags: TagStats) -> Markup | None:
    """Where the stored scores lie."""
    stored = tags.scores.sum(axis=0)
    if not stored.sum():
        return None
    said = f"{int(stored.sum()):,} stored scores, {int(tags.over.sum()):,} of them over the threshold of their tag."
    return charts.score_chart(said, stored, tags.over)


def tags_per_image_chart(tags: TagStats) -> Markup | None:
    """Images by their number of tags."""
    if not tags.images:
        return None
    mean = float(tags.fired.sum()) / tags.images
    return charts.tags_per_image_chart(
        f"Images by their number of tags: {plain(mean)} on average, {int(tags.per_image[0]):,} without any.",
        tags.per_image,
    )
