"""One row for each attempt at a chunk: those that won, from the chunks; those that died or lost, from the events."""

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.events import read_events
from pipeline.store import RunStore
from pipeline.tables import TELEMETRY_SCHEMA, attempt_of

_SUMS = ("images", "wait_s", "transfer_s", "model_s")


def telemetry_table(store: RunStore, chunks: dict[int, str]) -> pa.Table:
    """Telemetry of the run, in order of chunk. chunks: the object of each committed chunk.

    outcome is "committed", once for each chunk, with the rejects among its images, its bytes, fetch, decode and commit;
    "shared" for every other replica that tagged some of its images; "beaten" where another driver was first; "died"
    where the replica was lost.
    """
    commits, others = _from_events(store)
    rows = [row for chunk, name in chunks.items() for row in _won(store, chunk, name, commits.get(chunk))]
    return pa.Table.from_pylist(sorted([*rows, *others], key=_order), schema=TELEMETRY_SCHEMA)


def _order(row: dict[str, Any]) -> tuple[int, int, str]:
    return row["chunk"], row.get("started_at") or 0, row["outcome"]


def _won(store: RunStore, chunk: int, name: str, commit_s: float | None) -> list[dict[str, Any]]:
    with store.open(name) as file:
        parquet = pq.ParquetFile(file)
        attempt = attempt_of(parquet.schema_arrow)
        columns = parquet.read(columns=["image_bytes", "error_kind"])
    shares = _shares(attempt)
    done = sum(share["images"] for share in shares)
    shares[0] |= {
        "outcome": "committed",
        "images": shares[0]["images"] + columns.num_rows - done,
        "rejects": columns.num_rows - columns["error_kind"].null_count,
        "bytes": sum(filter(None, columns["image_bytes"].to_pylist())),
        "fetch_s": attempt["fetch_s"],
        "decode_s": attempt["decode_s"],
        "commit_s": commit_s,
    }
    rows = [{"chunk": chunk, "outcome": "shared", **share} for share in shares]
    return [row | {key: _milliseconds(row[key]) for key in ("started_at", "ended_at")} for row in rows]


def _shares(attempt: dict[str, Any]) -> list[dict[str, Any]]:
    """What each replica did of a chunk, the first one first: the sum of its pieces."""
    shares: dict[str, dict[str, Any]] = {}
    for piece in attempt["pieces"]:
        share = shares.setdefault(piece["replica"], piece | dict.fromkeys(_SUMS, 0))
        share |= {key: share[key] + piece[key] for key in _SUMS}
        share["ended_at"] = piece["ended_at"]
    if shares:
        return list(shares.values())
    return [{"images": 0, "started_at": attempt["started_at"], "ended_at": attempt["ended_at"]}]


def _from_events(store: RunStore) -> tuple[dict[int, float], list[dict[str, Any]]]:
    """Seconds of each chunk's commit, and the attempts that came to nothing."""
    commits: dict[int, float] = {}
    others: list[dict[str, Any]] = []
    leases: dict[str, dict[str, Any]] = {}
    replicas: dict[str, dict[str, Any]] = {}
    for event in sorted(read_events(store), key=lambda event: float(event["at"])):
        match event["event"]:
            case "replica_ready":
                replicas[event["replica"]] = event
            case "lease":
                leases[event["lease"]] = event
            case "lease_lost" if event["begun"] and event["lease"] in leases:
                others.append(_died(leases[event["lease"]], event, replicas.get(event["replica"], {})))
            case "commit" if event["first"]:
                commits[event["chunk"]] = event["commit_s"]
            case "commit":
                others.append({"chunk": event["chunk"], "outcome": "beaten", "ended_at": _milliseconds(event["at"])})
    return commits, others


def _died(lease: dict[str, Any], gone: dict[str, Any], replica: dict[str, Any]) -> dict[str, Any]:
    chunk, first, last = lease["work"][:3]
    return {
        "chunk": chunk,
        "outcome": "died",
        "node_id": replica.get("node"),
        "node_type": replica.get("node_type"),
        "card": replica.get("card"),
        "replica": gone["replica"],
        "images": last - first,
        "started_at": _milliseconds(lease["at"]),
        "ended_at": _milliseconds(gone["at"]),
    }


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
