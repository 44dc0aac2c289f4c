"""`ramfleet status`: how far a run is, from its folder alone; on any machine, without Ray."""

import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.chunks import chunk_of, read_chunk
from pipeline.errors import InputError
from pipeline.events.log import events_in_order
from pipeline.events.presence import AT_WORK_S
from pipeline.finished_run import published
from pipeline.plan import Plan, read_plan
from pipeline.stores.read_ahead import read_ahead
from pipeline.stores.read_only import cleaned_record
from pipeline.stores.run_store import Entry, RunStore

_RECENT_S = 600.0
"""The recent rate is taken over the chunks that were committed in so many seconds before the last."""


@dataclass
class Worker:
    """A driver that was at work on the run. last_event_at: seconds since 1970; host, pid: None if not written down."""

    session: str
    command: str | None = None
    host: str | None = None
    pid: int | None = None
    started_at: float = 0.0
    last_event_at: float = 0.0
    ended: bool = False
    at_work: bool = False
    committed: int = 0
    replicas: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Status:
    """State: planned, tagging, stopped (chunks are missing and nobody works), tagged (not published), complete,
    read-only (cleaned). Rates are images per second, None where one commit is too few."""

    root: str
    state: str
    chunks: int
    chunks_done: int
    images: int
    images_done: int
    rejects: dict[str, int]
    carried: int
    duplicates: int
    first_commit_at: float | None
    last_commit_at: float | None
    rate: float | None
    recent_rate: float | None
    left_s: float | None
    workers: list[Worker]

    @property
    def is_at_work(self) -> bool:
        """Whether some driver works on the run."""
        return any(worker.at_work for worker in self.workers)

    def as_dict(self) -> dict[str, Any]:
        """The status as JSON knows it."""
        document = asdict(self)
        for worker in document["workers"]:
            worker["replicas"] = len(worker["replicas"])
        return document


def plan_of(store: RunStore) -> Plan:
    """The plan of a run. Raises InputError if the folder holds no run."""
    plan = read_plan(store)
    if plan is None:
        raise InputError(f"{store.root} holds no run: there is no plan/plan.json in it")
    return plan


def run_status(store: RunStore, now: float | None = None) -> Status:
    """Look at a run. Raises InputError if the folder holds no run. now: seconds since 1970."""
    now = time.time() if now is None else now
    plan = plan_of(store)
    cleaned = cleaned_record(store) is not None
    entries = [] if cleaned else list(store.entries("chunks/"))
    commits = _commits(plan, entries)
    latest = _latest(plan, entries)
    workers, rejects_of = _workers(store, now)
    report = published(store)
    done = sum(plan.chunk_rows(chunk) for chunk in latest)
    images = plan.counts["planned"]
    if cleaned and report is not None:
        chunks_done, done, rejects = plan.chunks, images, report["rejects_by_kind"]
    else:
        chunks_done, rejects = len(latest), _rejects(store, plan, latest, rejects_of)
    at_work = any(worker.at_work for worker in workers)
    state = _state(plan, chunks_done, at_work, cleaned, report)
    recent = _rate(plan, [commit for commit in commits if commit[0] > commits[-1][0] - _RECENT_S]) if commits else None
    return Status(
        store.root,
        state,
        plan.chunks,
        chunks_done,
        images,
        done,
        dict(Counter(rejects).most_common()),
        plan.counts.get("carried", 0),
        plan.counts["duplicates"],
        commits[0][0] if commits else None,
        commits[-1][0] if commits else None,
        _rate(plan, commits),
        recent,
        (images - done) / recent if recent and at_work and images > done else None,
        workers,
    )


def _commits(plan: Plan, entries: list[Entry]) -> list[tuple[float, int]]:
    """(when, chunk) of the first generation of each chunk, by time."""
    found = ((entry.modified_at, chunk_of(entry.name)) for entry in entries)
    first = [(at, name[0]) for at, name in found if name is not None and name[1] == 0 and name[0] < plan.chunks]
    return sorted(first)


def _latest(plan: Plan, entries: list[Entry]) -> dict[int, int]:
    latest: dict[int, int] = {}
    for chunk, generation in filter(None, (chunk_of(entry.name) for entry in entries)):
        if chunk < plan.chunks:
            latest[chunk] = max(generation, latest.get(chunk, 0))
    return latest


def _rate(plan: Plan, commits: list[tuple[float, int]]) -> float | None:
    """Images per second between the first commit and the last; the first chunk's work lies before that."""
    if len(commits) < 2 or commits[-1][0] <= commits[0][0]:
        return None
    return sum(plan.chunk_rows(chunk) for _, chunk in commits[1:]) / (commits[-1][0] - commits[0][0])


def _workers(store: RunStore, now: float) -> tuple[list[Worker], dict[tuple[int, int], dict[str, int]]]:
    """Who worked on the run, the last first; and what the log says of the rejects of each (chunk, generation)."""
    workers: dict[str, Worker] = {}
    rejects: dict[tuple[int, int], dict[str, int]] = {}
    for event in events_in_order(store):
        worker = workers.setdefault(event["session"], Worker(event["session"], started_at=event["at"]))
        worker.last_event_at = max(worker.last_event_at, event["at"])
        match event["event"]:
            case "driver_started":
                worker.command, worker.host, worker.pid = map(event.get, ("command", "host", "pid"))
            case "driver_ended":
                worker.ended = True
            case "replica_ready":
                worker.replicas.add(event["replica"])
            case "replica_gone":
                worker.replicas.discard(event["replica"])
            case "commit" if event["first"]:
                worker.committed += 1
                if "rejects" in event:
                    rejects[event["chunk"], event.get("generation", 0)] = event["rejects"]
    for worker in workers.values():
        worker.at_work = not worker.ended and now - worker.last_event_at <= AT_WORK_S
    return sorted(workers.values(), key=lambda worker: -worker.last_event_at), rejects


def _rejects(
    store: RunStore, plan: Plan, latest: dict[int, int], logged: dict[tuple[int, int], dict[str, int]]
) -> Counter[str]:
    """Rejects by kind: from the log of commits; from the chunk itself where the log does not know, or after a retry."""
    total: Counter[str] = Counter()
    unknown = []
    for chunk, generation in latest.items():
        if generation == 0 and (chunk, 0) in logged:
            total.update(logged[chunk, 0])
        else:
            unknown.append((chunk, generation))

    def read(item: tuple[int, int]) -> Counter[str]:
        return Counter(read_chunk(store, plan, *item)["error_kind"].drop_null().to_pylist())

    for kinds in read_ahead(read, unknown):
        total += kinds
    return total


def _state(plan: Plan, done: int, at_work: bool, cleaned: bool, report: dict[str, Any] | None) -> str:
    if cleaned:
        return "read-only"
    if at_work:
        return "tagging"
    if done < plan.chunks:
        return "stopped" if done else "planned"
    return "complete" if report is not None and report["status"] == "complete" else "tagged"
