"""One row for each attempt at a chunk: those that won, from the chunks; those that died or lost, from the events."""

from collections import defaultdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.events import events_in_order
from pipeline.store import RunStore
from pipeline.tables import TELEMETRY_SCHEMA, attempt_of

_BATCH_ROWS = 8192
_ORDER = ("chunk", "generation", "started_at", "ended_at", "outcome", "replica")


class Telemetry:
    """Collects the rows while the chunks stream by.

    outcome is "committed"; "beaten" where another driver was first; "died" where the replica was lost.
    """

    def __init__(self, store: RunStore) -> None:
        self._rows: list[dict[str, Any]] = []
        self._batches: list[pa.Table] = []
        self._commits = self._from_events(store)

    def add(self, chunk: int, generation: int, table: pa.Table) -> None:
        """Take in the attempt that made a chunk object; table: its rows, with the record in the metadata."""
        attempt = attempt_of(table.schema)
        row = {name: attempt.get(name) for name in TELEMETRY_SCHEMA.names}
        row |= {"chunk": chunk, "generation": generation, "outcome": "committed"}
        row["commit_s"] = self._commits.get((chunk, generation))
        # A retry's object also holds the rows that it only copied.
        row["images"] = attempt.get("images", table.num_rows)
        row["bytes"] = attempt.get("bytes", pc.sum(table["image_bytes"]).as_py() or 0)
        self._append(row | {key: _milliseconds(attempt[key]) for key in ("started_at", "ended_at")})

    def table(self) -> pa.Table:
        """All rows, in order of chunk, generation and time."""
        self._pack()
        table = pa.concat_tables([TELEMETRY_SCHEMA.empty_table(), *self._batches])
        return table.sort_by([(name, "ascending") for name in _ORDER]).combine_chunks()

    def _append(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _BATCH_ROWS:
            self._pack()

    def _pack(self) -> None:
        self._batches.append(pa.Table.from_pylist(self._rows, schema=TELEMETRY_SCHEMA))
        self._rows.clear()

    def _from_events(self, store: RunStore) -> dict[tuple[int, int], float]:
        """Take in the attempts that came to nothing; seconds of each commit by (chunk, generation)."""
        commits: dict[tuple[int, int], float] = {}
        leases: defaultdict[int, dict[str, dict[str, Any]]] = defaultdict(dict)  # by chunk, then by lease
        chunk_of: dict[str, int] = {}
        replicas: dict[str, dict[str, Any]] = {}
        for event in events_in_order(store):
            match event["event"]:
                case "replica_ready":
                    replicas[event["replica"]] = event
                case "lease":
                    chunk_of[event["lease"]] = event["work"][0]
                    leases[event["work"][0]][event["lease"]] = event
                case "replica_gone" if event["lease"] in chunk_of:
                    lease = leases[chunk_of[event["lease"]]][event["lease"]]
                    self._append(_died(lease, event, replicas.get(event["replica"], {})))
                case "commit":
                    key = event["chunk"], event.get("generation", 0)
                    if event["first"]:
                        commits[key] = event["commit_s"]
                    else:
                        self._append(_beaten(*key, event["at"]))
                    for lease_id in leases.pop(event["chunk"], {}):  # nothing more comes of them
                        del chunk_of[lease_id]
        return commits


def _beaten(chunk: int, generation: int, at: float) -> dict[str, Any]:
    return {"chunk": chunk, "generation": generation, "outcome": "beaten", "ended_at": _milliseconds(at)}


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
