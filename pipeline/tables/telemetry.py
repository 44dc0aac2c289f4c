"""One row for each attempt at a chunk: those that won, from the chunks; those that died or lost, from the events."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.events.log import events_in_order
from pipeline.stores.run_store import RunStore
from pipeline.tables.schemas import TELEMETRY_SCHEMA, attempt_of

_BATCH_ROWS = 8192
_ORDER = ("chunk", "generation", "started_at", "ended_at", "outcome", "replica")


class Telemetry:
    """Collects the rows while the chunks stream by.

    outcome is "committed", once for each chunk object, with the rejects among its images, its bytes, fetch, decode and
    commit; "shared" for every further piece of it that a replica tagged; "beaten" where another driver was first;
    "died" where the replica was lost. The model worked from ended_at - model_s to ended_at, by the replica's clock.
    """

    def __init__(self, store: RunStore) -> None:
        self._rows: list[dict[str, Any]] = []
        self._batches: list[pa.Table] = []
        self._commits = self._from_events(store)

    def add(self, chunk: int, generation: int, table: pa.Table) -> None:
        """Take in the attempt that made a chunk object; table: its rows, with the record in the metadata."""
        attempt = attempt_of(table.schema)
        first, *others = attempt["pieces"] or [_nothing_tagged(attempt)]
        # A retry's object also holds the rows that it only copied.
        images = attempt.get("images", table.num_rows)
        committed = {
            "images": images - sum(share["images"] for share in others),
            "rejects": attempt.get("rejects", table.num_rows - table["error_kind"].null_count),
            "bytes": attempt.get("bytes", pc.sum(table["image_bytes"]).as_py() or 0),
            "fetch_s": attempt["fetch_s"],
            "decode_s": attempt["decode_s"],
            "commit_s": self._commits.get((chunk, generation)),
        }
        self._append(_row(chunk, generation, "committed", first | committed))
        for share in others:
            self._append(_row(chunk, generation, "shared", share))

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

    def _from_events(self, store: RunStore) -> dict[tuple[int, int], float | None]:
        """Take in the attempts that came to nothing; seconds of each commit by (chunk, generation)."""
        commits: dict[tuple[int, int], float | None] = {}
        replicas: dict[str, dict[str, Any]] = {}
        nodes: dict[str | None, dict[str, Any]] = {}
        for event in events_in_order(store):
            match event["event"]:
                case "node_joined":
                    nodes[event["node"]] = event
                case "replica_ready":
                    replicas[event["replica"]] = event
                case "lease_lost" if event.get("begun"):
                    replica = replicas.get(event["replica"], {})
                    self._append(_died(event, replica, nodes.get(replica.get("node"), {})))
                case "commit" if event["first"]:
                    commits[event["chunk"], event.get("generation", 0)] = event.get("commit_s")
                case "commit":
                    self._append(_row(event["chunk"], event.get("generation", 0), "beaten", {"ended_at": event["at"]}))
        return commits


def _nothing_tagged(attempt: dict[str, Any]) -> dict[str, Any]:
    """In the place of pieces, where no image of a chunk came as far as a replica."""
    return {"images": 0, "started_at": attempt["started_at"], "ended_at": attempt["ended_at"]}


def _died(event: dict[str, Any], replica: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    chunk, first, last = event["work"][:3]
    died_at, ran_s = event.get("died_at", event["at"]), event.get("ran_s", 0.0)
    values = {
        "node_id": replica.get("node"),
        "node_type": replica.get("node_type"),
        "card": replica.get("card"),
        "instance_type": node.get("instance_type"),
        "market": node.get("market"),
        "zone": node.get("zone"),
        "replica": event["replica"],
        "images": last - first,
        "model_s": ran_s,
        "started_at": died_at - ran_s,
        "ended_at": died_at,
    }
    return _row(chunk, None, "died", values)


def _row(chunk: int, generation: int | None, outcome: str, values: dict[str, Any]) -> dict[str, Any]:
    """generation: None where no object came of it. Times are seconds since 1970, in milliseconds in the row."""
    times: dict[str, Any] = {name: round(values[name] * 1000) for name in ("started_at", "ended_at") if name in values}
    return {**values, **times, "chunk": chunk, "generation": generation, "outcome": outcome}
