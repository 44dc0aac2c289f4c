"""The cluster as a run would use it: rows for each node, as a table, as lines for each kind of node, as JSON."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.cards.node_facts import host_of
from pipeline.cards.profiles import GIB
from pipeline.cards.slot_policy import Slot, Unusable, card_of, node_type
from pipeline.fleet.cluster import ClusterShape

_WIDE = 110
"""Columns of a terminal from which on every column is shown."""


@dataclass(frozen=True)
class FleetRow:
    """One node.

    vram_gib: of its least card, GiB; replicas: on the whole node; num_gpus, num_cpus, microbatch, dtype: of each of
    them; images_per_s: expected of all of them together, None where unknown; measured: whether that was measured;
    share: of the work of the cluster; decode_cpus: left to decoding.
    """

    node_id: str
    host: str
    node_type: str
    card: str
    gpus: int
    vram_gib: float | None
    replicas: int
    num_gpus: float
    num_cpus: float
    microbatch: int | None
    dtype: str | None
    images_per_s: float | None
    measured: bool
    share: float | None
    decode_cpus: float


def fleet_rows(shape: ClusterShape) -> list[FleetRow]:
    """A row for each node that is alive, those with the most work first."""
    on_node: dict[str, list[Slot]] = defaultdict(list)
    for slot in shape.slots:
        on_node[slot.node_id].append(slot)
    total = _total([slot.images_per_s for slot in shape.slots])
    rows = [_row(node, on_node[node["NodeID"]], shape, total) for node in shape.alive]
    return sorted(rows, key=lambda row: (-(row.images_per_s or 0), -row.replicas, row.host, row.node_id))


def fleet_document(shape: ClusterShape) -> dict[str, Any]:
    """All of it as plain values for JSON."""
    rows = fleet_rows(shape)
    return {
        "nodes": [asdict(row) for row in rows],
        "unusable": [asdict(item) for item in shape.unusable],
        "replicas": len(shape.slots),
        "images_per_s": _total([slot.images_per_s for slot in shape.slots]),
        "decode_cpus": shape.decoders,
        "dtype": shape.policy.dtype,
    }


def fleet_table(shape: ClusterShape, width: int) -> Iterator[RenderableType]:
    """What `ramfleet fleet` prints; width: of the terminal in columns, a narrow one shows less."""
    wide = width >= _WIDE
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name, right, only_wide in _COLUMNS:
        if wide or not only_wide:
            table.add_column(name, justify="right" if right else "left", overflow="fold")
    rows = fleet_rows(shape)
    for row in rows:
        table.add_row(
            *(cell for cell, (_, _, only_wide) in zip(_cells(row), _COLUMNS, strict=True) if wide or not only_wide)
        )
    yield table
    yield Text(_summary(shape, rows))
    yield from (Text(_unusable_line(item), style="yellow") for item in shape.unusable)


def fleet_lines(shape: ClusterShape) -> Iterator[Text]:
    """What `ramfleet tag` prints: a line for each kind of node, then what cannot be used."""
    kinds: dict[tuple[Any, ...], list[FleetRow]] = defaultdict(list)
    for row in fleet_rows(shape):
        kinds[(row.node_type, row.card, row.gpus, row.replicas, row.dtype, row.microbatch)].append(row)
    for alike in kinds.values():
        yield Text(_kind_line(alike))
    yield from (Text(_unusable_line(item), style="yellow") for item in shape.unusable)


_COLUMNS = (
    ("node", False, True),
    ("host", False, False),
    ("card", False, False),
    ("GiB", True, False),
    ("replicas", True, False),
    ("each", False, True),
    ("batch", True, False),
    ("dtype", False, False),
    ("images/s", True, False),
    ("share", True, False),
    ("CPUs", True, False),
)


def _row(node: Any, slots: Sequence[Slot], shape: ClusterShape, total: float | None) -> FleetRow:
    first = slots[0] if slots else None
    speed = _total([slot.images_per_s for slot in slots])
    facts = shape.facts.get(node["NodeID"])
    vram = shape.policy.vram_bytes(node, facts) if facts is not None else None
    place = first.placement if first else None
    return FleetRow(
        node_id=node["NodeID"],
        host=facts.host if facts else host_of(node),
        node_type=node_type(node),
        card=card_of(node),
        gpus=int(node["Resources"].get("GPU", 0)),
        vram_gib=None if vram is None else round(vram / GIB, 1),
        replicas=len(slots),
        num_gpus=place.num_gpus if place else 0.0,
        num_cpus=place.num_cpus if place else 0.0,
        microbatch=place.microbatch if place else None,
        dtype=place.dtype if place else None,
        images_per_s=speed,
        measured=first.measured if first else False,
        share=speed / total if speed is not None and total else None,
        decode_cpus=node["Resources"].get("CPU", 0.0) - sum(slot.placement.num_cpus for slot in slots),
    )


def _total(speeds: Sequence[float | None]) -> float | None:
    """The sum; None where one of them is not known, or there is none."""
    known = [speed for speed in speeds if speed is not None]
    return sum(known) if known and len(known) == len(speeds) else None


def _cells(row: FleetRow) -> tuple[str, ...]:
    card = row.card.removeprefix("GeForce-")
    card = f"{row.gpus} × {card}" if row.gpus > 1 else card
    return (
        row.node_id[:8],
        row.host,
        card,
        "" if row.vram_gib is None else f"{row.vram_gib:g}",
        str(row.replicas or "–"),
        _each(row),
        "" if row.microbatch is None else str(row.microbatch),
        row.dtype or "",
        _speed(row),
        "" if row.share is None else f"{row.share:.0%}",
        f"{row.decode_cpus:g}",
    )


def _each(row: FleetRow) -> str:
    if not row.replicas:
        return ""
    return f"{row.num_gpus:g} GPU" if row.num_gpus else f"{row.num_cpus:g} CPU"


def _speed(row: FleetRow) -> str:
    if not row.replicas:
        return ""
    return "?" if row.images_per_s is None else f"{row.images_per_s:,.0f}{'' if row.measured else '*'}"


def _summary(shape: ClusterShape, rows: Sequence[FleetRow]) -> str:
    total = _total([slot.images_per_s for slot in shape.slots])
    speed = f", {total:,.0f} images/s expected" if total is not None else ""
    notes = [f"{len(shape.slots)} replica(s){speed}, {shape.decoders} CPU(s) left to decoding (CPUs)."]
    if any(row.images_per_s is not None and not row.measured for row in rows):
        notes.append("* from the maker's figures, the most that the card can do; `ramfleet calibrate` measures.")
    if any(row.replicas and row.images_per_s is None for row in rows):
        notes.append("? not known; the run learns it.")
    return "\n".join(notes)


def _kind_line(alike: Sequence[FleetRow]) -> str:
    row = alike[0]
    cards = f"{row.gpus} × {row.card}" if row.gpus > 1 else row.card if row.gpus else "CPUs only"
    memory = f" of {row.vram_gib:g} GiB" if row.vram_gib is not None else ""
    kind = "" if row.node_type == row.card else f" ({row.node_type})"
    nodes = f"{len(alike)} node(s) with {cards}{memory}{kind}"
    decoding = f"{sum(row.decode_cpus for row in alike):g} CPU(s) for decoding"
    if not row.replicas:
        return f"{nodes}: {decoding}"
    parts = [
        f"{sum(row.replicas for row in alike)} replica(s) of {_each(row)}, {row.dtype}, micro-batch {row.microbatch}"
    ]
    if row.images_per_s is not None:
        share = f" ({sum(row.share or 0 for row in alike):.0%})" if row.share is not None else ""
        basis = "measured" if row.measured else "at most"
        parts.append(f"{sum(row.images_per_s or 0 for row in alike):,.0f} images/s {basis}{share}")
    return f"{nodes}: {', '.join([*parts, decoding])}"


def _unusable_line(item: Unusable) -> str:
    return f"not used: {item.card} on {item.host} ({item.node_id[:8]}): {item.why}"
