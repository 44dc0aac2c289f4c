"""A finished run written as tables, without a plan or a model: for reports of runs of any size and any mix of cards."""

import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.model_record import vocabulary_table
from pipeline.stores.run_store import RunStore
from pipeline.tables.parts import PartWriter, create_part
from pipeline.tables.schemas import FORMAT_VERSION, REJECTS_COLUMNS, TAGS_COLUMNS, TELEMETRY_SCHEMA, to_parquet
from ramcore.vocabulary import Vocabulary

START_S = 1_790_000_000.0
LOAD_S = 9.0
_ROWS = 50_000
_SCORES = 12


@dataclass(frozen=True)
class Cards:
    """Nodes of one type, one card each. rate: images/s of a card; price: of a node for an hour; vram: bytes at most."""

    node_type: str
    card: str
    nodes: int
    rate: float
    price: Decimal | None = None
    vram: int | None = None
    microbatch: int = 32


FLEET = (
    Cards("rtx3090-spot", "GeForce-RTX-3090", 5, 42.0, Decimal("0.22"), 9 << 30),
    Cards("rtx2080", "GeForce-RTX-2080", 8, 21.0, Decimal("0.08"), 6 << 30, 16),
    Cards("a100", "A100", 2, 118.0, Decimal("1.29"), 21 << 30, 64),
    Cards("t4-spot", "T4", 3, 14.5, None, 11 << 30, 16),
)


def vocabulary(tags: int) -> Vocabulary:
    """So many tags with threshold 0.68; the last fifth of them never fires."""
    return Vocabulary(tuple(f"tag {n}" for n in range(tags)), ("",) * tags, np.full(tags, 0.68, np.float32))


def write_run(
    store: RunStore,
    images: int,
    attempts: int,
    fleet: Sequence[Cards] = FLEET,
    names: Vocabulary | None = None,
    rejects: Sequence[tuple[str, str, str, str]] = (),
    pause_s: float = 0.0,
    uris: Sequence[str] = (),
    events: Sequence[dict[str, object]] = (),
) -> None:
    """Write the run: in one session, or in two with a pause between them.

    rejects: (image_id, uri, kind, detail); uris: of the first images, local files whose sha256 is noted; events:
    further ones of the first session, `at` seconds after its start.
    """
    names = names or vocabulary(400)
    store.replace("vocabulary.parquet", to_parquet(vocabulary_table(names)))
    with tempfile.TemporaryDirectory() as scratch:
        writer = PartWriter(store, "tags/", Path(scratch), list(TAGS_COLUMNS))
        for table in _tags(images, names, uris):
            writer.add(table)
        tags = writer.close()
    telemetry = _telemetry(images, attempts, fleet, pause_s)
    parts = {
        "tags": tags,
        "rejects": [create_part(store, "rejects/", 0, to_parquet(_rejects(rejects)))],
        "duplicates": [],
        "telemetry": [create_part(store, "telemetry/", 0, to_parquet(telemetry))],
    }
    _write_events(store, telemetry, fleet, pause_s, events)
    store.replace("run.json", json.dumps(_document(images, len(rejects), len(names), parts)).encode())


def _rejects(rejects: Sequence[tuple[str, str, str, str]]) -> pa.Table:
    columns = [pa.array([row[number] for row in rejects], pa.string()) for number in range(4)]
    numbers = [pa.array([1] * len(rejects), pa.int32()), pa.array([0] * len(rejects), pa.int64())]
    return pa.table([*columns, *numbers], names=list(REJECTS_COLUMNS))


def _write_events(
    store: RunStore, telemetry: pa.Table, fleet: Sequence[Cards], pause_s: float, events: Sequence[dict[str, object]]
) -> None:
    """Every node is there from the first second of each session to its last, and loads its replica first."""
    ends = telemetry["ended_at"].cast(pa.int64()).to_numpy() / 1000 if len(telemetry) else np.array([START_S])
    middle = START_S + (ends.max() - START_S - pause_s) / 2
    sessions = [("0a", START_S - LOAD_S, ends.max())]
    if pause_s:
        sessions = [("0a", START_S - LOAD_S, middle), ("0b", middle + pause_s - LOAD_S, ends.max())]
    for session, begin, end in sessions:
        lines: list[dict[str, object]] = []
        for kind, number in _nodes(fleet):
            node = f"{kind.node_type}-{number:02d}"
            price = {"per_hour": str(kind.price), "currency": "USD", "source": "a test"}
            priced = {"price": price} if kind.price else {"price": None, "unpriced": f"no price for card {kind.card}"}
            joined = {
                "card": kind.card,
                "gpus": 1,
                "vram_gib": None,
                "limit_images_per_s": 2 * kind.rate,
                "node_type": kind.node_type,
            }
            lines.append({"at": begin, "event": "node_joined", "node": node, "since": begin, **joined, **priced})
            ready = {"node_type": kind.node_type, "card": kind.card, "num_gpus": 1.0, "load_s": LOAD_S}
            lines.append(
                {"at": begin + LOAD_S, "event": "replica_ready", "replica": f"r-{node}", "node": node, **ready}
            )
        lines.append({"at": end, "event": "driver_ended"})
        lines += [{**event, "at": begin + float(str(event["at"]))} for event in events if session == "0a"]
        lines.sort(key=lambda line: float(str(line["at"])))
        text = "".join(json.dumps({"session": session, **line}) + "\n" for line in lines)
        store.replace(f"events/{session}-fleet-0.jsonl", text.encode())


def _document(images: int, rejects: int, tags: int, parts: dict[str, list[str]]) -> dict[str, object]:
    counts = {"input": images + rejects, "tagged": images, "rejected": rejects}
    return {
        "format_version": FORMAT_VERSION,
        "status": "complete",
        "finalized_at": "2026-09-21T12:00:00+00:00",
        "demo": False,
        "plan_hash": "0123456789abcdef" * 4,
        "pinned": {"INPUT": "/pictures", "bundle": "ab" * 32, "output.score_floor": "auto", "output.top_k": 128},
        "model": {"kind": "ram_plus", "image_size": 384, "tags": tags},
        "parity": None,
        "counts": {**counts, "duplicates": 0, "carried": 0, "missing": 0},
        "rejects_by_kind": {},
        "versions": {"python": "3.11.7", "ramfleet": "0.1.0"},
        "parts": parts,
    }


def _tags(images: int, names: Vocabulary, uris: Sequence[str]) -> Iterator[pa.Table]:
    random = np.random.default_rng(7)
    live = max(1, len(names) * 4 // 5)
    # Each score of an image has its own range of tags, so that none repeats: the first ones are the most frequent.
    bounds = np.unique(np.geomspace(1, live + 1, _SCORES + 1).astype(np.int64)) - 1
    for first in range(0, max(images, 1), _ROWS):
        rows = min(_ROWS, images - first)
        ids = random.integers(bounds[:-1], bounds[1:], size=(rows, len(bounds) - 1), dtype=np.int32)
        scores = np.clip(random.normal(0.76, 0.08, ids.shape), 0.63, 0.999).astype(np.float32)
        offsets = np.arange(0, ids.size + 1, len(bounds) - 1, dtype=np.int32)
        listed = pa.ListArray.from_arrays(offsets, pa.array(ids.ravel()))
        local = [uris[n] if n < len(uris) else f"/nowhere/{n}.jpg" for n in range(first, first + rows)]
        columns = {
            "image_id": [f"image-{number:07d}" for number in range(first, first + rows)],
            "uri": local,
            "width": pa.array([640] * rows, pa.int32()),
            "height": pa.array([480] * rows, pa.int32()),
            "tags": pa.array([[]] * rows, pa.list_(pa.string())),
            "tags_zh": pa.array([[]] * rows, pa.list_(pa.string())),
            "tag_ids": listed,
            "scores": pa.ListArray.from_arrays(offsets, pa.array(scores.ravel())),
            "caption": pa.nulls(rows, pa.string()),
            "sha256": [_sha256(uri) if n + first < len(uris) else "00" for n, uri in enumerate(local)],
            "chunk": pa.array([0] * rows, pa.int64()),
        }
        yield pa.table(columns)


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _nodes(fleet: Sequence[Cards]) -> list[tuple[Cards, int]]:
    return [(kind, number) for kind in fleet for number in range(kind.nodes)]


def _worked(
    done: NDArray[np.int64], speed: NDArray[np.float64], pause_s: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """By attempt: its node, seconds of its model, and when it ended, in milliseconds since 1970.

    done: images of each attempt; speed: images/s of each node. Each node's attempts come one after the other, with a
    twentieth of its time idle.
    """
    random = np.random.default_rng(11)
    node = random.choice(len(speed), len(done), p=speed / speed.sum())
    rate = speed[node] * random.lognormal(0, 0.08, len(done))
    model_s = np.round(np.maximum(done / rate, 0.001), 3)
    order = np.argsort(node, kind="stable")
    taken = np.concatenate(([0.0], np.cumsum(model_s[order] / 0.95)))
    first = np.searchsorted(node[order], np.arange(len(speed)))
    ends = np.empty(len(done))
    ends[order] = taken[1:] - taken[first][node[order]]
    ends += np.where(ends - model_s > ends.max() / 2, pause_s, 0.0)
    return node, model_s, np.round((START_S + ends) * 1000).astype(np.int64)


def _telemetry(images: int, attempts: int, fleet: Sequence[Cards], pause_s: float) -> pa.Table:
    """Attempts at chunks of equal size."""
    if not attempts:
        return TELEMETRY_SCHEMA.empty_table()
    nodes = _nodes(fleet)
    done = np.full(attempts, images // attempts, np.int64)
    done[: images % attempts] += 1
    node, model_s, ended = _worked(done, np.array([kind.rate for kind, _ in nodes]), pause_s)
    kinds = [kind for kind, _ in nodes]

    def of_node(values: list[object], of_type: pa.DataType) -> pa.Array:
        return pa.array(values, of_type).take(pa.array(node))

    columns = {
        "chunk": np.arange(attempts),
        "generation": np.zeros(attempts, np.int32),
        "outcome": ["committed"] * attempts,
        "node_id": of_node([f"{kind.node_type}-{number:02d}" for kind, number in nodes], pa.string()),
        "node_type": of_node([kind.node_type for kind in kinds], pa.string()),
        "card": of_node([kind.card for kind in kinds], pa.string()),
        "dtype": ["fp16"] * attempts,
        "microbatch": of_node([kind.microbatch for kind in kinds], pa.int32()),
        "images": done,
        "rejects": np.zeros(attempts, np.int64),
        "bytes": done * 90_000,
        "fetch_s": done * 0.012,
        "decode_s": done * 0.006,
        "wait_s": done * 0.001,
        "transfer_s": done * 0.0004,
        "model_s": model_s,
        "commit_s": np.full(attempts, 0.02),
        "peak_vram_bytes": of_node([kind.vram for kind in kinds], pa.int64()),
        "started_at": pa.array(ended - np.round(model_s * 1000).astype(np.int64) - 30, pa.timestamp("ms", tz="UTC")),
        "ended_at": pa.array(ended, pa.timestamp("ms", tz="UTC")),
    }
    filled = {f.name: columns[f.name] if f.name in columns else pa.nulls(attempts, f.type) for f in TELEMETRY_SCHEMA}
    return pa.table(filled, schema=TELEMETRY_SCHEMA)
