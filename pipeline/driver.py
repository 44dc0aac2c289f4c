"""The driver's loop: keeps chunks flowing until all are committed, shows it, and knows when to stop."""

import json
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ray.exceptions import RayError, RayTaskError

from pipeline.chunk_worker import ChunkWorker
from pipeline.errors import OutageError, RunError, StalledError, StoppedError, StoreError, last_line
from pipeline.events.log import EventLog
from pipeline.fleet.messages import FleetStatus
from pipeline.fleet.remote import ask
from pipeline.flow import ChunkFlow, FlowShape
from pipeline.handover import commit_and_log
from pipeline.job import Job
from pipeline.metrics.meter import Meter
from pipeline.outage import OutageGuard
from pipeline.plan import Plan
from pipeline.progress import RunProgress
from pipeline.ray_private import spilled_bytes
from pipeline.tables.schemas import from_ipc

_POLL_S = 0.5
_ENDING_S = 2.0
"""Ray Data gets so long to end a round by itself once all its chunks are done."""
_GIVING_UP_S = 10.0


def drive(
    job: Job,
    plan: Plan,
    fleet: Any,
    shape: FlowShape,
    progress: RunProgress,
    meter: Meter,
    source_exists: Callable[[], bool],
) -> None:
    """Tag every pending chunk.

    source_exists: whether INPUT itself is still there, asked when images could not be fetched.
    Raises StoppedError when it can go on later, RunError if it cannot or if a whole round committed nothing.
    """
    log = EventLog(job.store, job.session, "driver", heard=meter.take)
    guard = OutageGuard(job.config.run.max_reject_share)
    pending = job.work.pending(job.store, plan)
    spilled_before = spilled_bytes()
    while pending:
        ask(fleet, "expect", min(progress.left, sum(plan.chunk_rows(chunk) for chunk in pending)))
        work = Round(job, fleet, progress, meter, pending)
        with meter.span("round", chunks=len(pending)):
            for outcome in work.outcomes(ChunkFlow(job, fleet, pending, shape)):
                if outcome["outcome"] == "failed":
                    raise StoppedError(f"{outcome['detail']}. Run the same command again when that is mended")
                progress.add(outcome["rows"], outcome["rejects"])
                _commit_held(job, log, guard.add(outcome))
        if guard.held_rows and job.config.run.max_reject_share < 1 and not source_exists():
            raise OutageError(
                f"INPUT is not there any more, and {guard.held_rows} images with fetch failures among them were not "
                "committed. Run the same command again when it is back"
            )
        _commit_held(job, log, guard.finish())
        left = job.work.pending(job.store, plan)
        if len(left) >= len(pending):
            raise RunError(f"{len(left)} chunks could not be committed in a whole round: see {job.store.root}/events")
        pending = left
    _note_spilling(spilled_before, log, progress)
    _look(fleet, progress, meter, 0)


def _note_spilling(before: int | None, log: EventLog, progress: RunProgress) -> None:
    """Pixels that did not fit into the object store went to disk: that is slow, and is said."""
    after = spilled_bytes()
    if before is None or after is None:
        return
    log.write("spilled", bytes=after - before)
    if after > before:
        progress.say(f"{(after - before) / 2**20:.0f} MiB of pixels went to disk: Ray's object store was too small")


def _commit_held(job: Job, log: EventLog, outcomes: Iterator[dict[str, Any]]) -> None:
    for outcome in outcomes:
        commit_and_log(job, log, outcome["chunk"], from_ipc(outcome["held"]))


class Round:
    """Some chunks once through the flow; the Fleet is looked at while outcomes come, and also when none come for long.

    It is over when each of its chunks has had an outcome, from Ray Data or from a process that took it over from
    one that died: Ray Data may wait much longer for the dead. After a death this process is ready to take chunks over
    too, as Ray Data may have ended the others.
    """

    def __init__(self, job: Job, fleet: Any, progress: RunProgress, meter: Meter, chunks: Iterable[int]) -> None:
        self._job = job
        self._fleet = fleet
        self._progress = progress
        self._meter = meter
        self._left = set(chunks)
        self._spare: ChunkWorker | None = None
        self._over = threading.Event()

    def outcomes(self, flow: ChunkFlow) -> Iterator[dict[str, Any]]:
        """One for each chunk, as they come. Ray Data's iterator blocks, so it runs in a thread of its own."""
        arrived: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()
        thread = threading.Thread(target=_pour, args=(flow.outcomes(), arrived, self._over), name="flow", daemon=True)
        thread.start()
        try:
            yield from self._until_done(arrived)
            thread.join(_ENDING_S)
        finally:
            self._over.set()
            if thread.is_alive():
                flow.give_up()
                thread.join(_GIVING_UP_S)
            if self._spare is not None:
                self._spare.close()

    def _until_done(self, arrived: "queue.Queue[dict[str, Any] | BaseException | None]") -> Iterator[dict[str, Any]]:
        while self._left:
            try:
                item = arrived.get(timeout=_POLL_S)
            except queue.Empty:
                yield from self._look()
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                if isinstance(_cause(item), StoreError):
                    raise StoppedError(f"{_reason(item)}. Run the same command again when that is mended") from item
                raise RunError(f"the flow of chunks broke: {_reason(item)}; the log has the whole account") from item
            yield from self._first(item)
            if arrived.empty():
                yield from self._look()

    def _first(self, outcome: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A chunk's first outcome: one that was taken over may have a second, though the first to commit."""
        commit = outcome.get("commit")
        if commit is not None:
            self._meter.take(json.loads(commit))
        if outcome["chunk"] in self._left:
            self._left.remove(outcome["chunk"])
            yield outcome

    def _look(self) -> Iterator[dict[str, Any]]:
        status = _look(self._fleet, self._progress, self._meter, len(self._left))
        for outcome in status.outcomes:
            yield from self._first(outcome)
        if status.dead_holders and self._spare is None:
            self._spare = ChunkWorker(self._job, self._fleet, in_flight=1, spare=True)
        unclaimed = sorted(self._left - status.chunks_in_hand)[: 2 * status.idle_holders]
        if unclaimed:
            ask(self._fleet, "strand", frozenset(unclaimed))


def _pour(
    outcomes: Iterator[dict[str, Any]],
    arrived: "queue.Queue[dict[str, Any] | BaseException | None]",
    over: threading.Event,
) -> None:
    """over: nobody waits for the outcomes any more, or cares how they end."""
    try:
        for outcome in outcomes:
            arrived.put(outcome)
    except BaseException as error:
        if not over.is_set():
            logging.getLogger(__name__).exception("the flow of chunks broke")
        arrived.put(error)
    else:
        arrived.put(None)


def _reason(error: BaseException) -> str:
    return last_line(_cause(error))


def _cause(error: BaseException) -> BaseException:
    """What went wrong first: Ray wraps an error in the story of every process that it passed through."""
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        error = error.cause
    return error


def _look(fleet: Any, progress: RunProgress, meter: Meter, chunks_left: int) -> FleetStatus:
    try:
        status: FleetStatus = ask(fleet, "status", progress.left)
    except RayError as error:
        raise RunError(f"the Fleet broke: {last_line(error)}") from error
    if status.broken is not None:
        raise RunError(status.broken)
    if status.stalled is not None:
        raise StalledError(f"{status.stalled}. Run the same command again when the cluster has them")
    for notice in status.notices:
        progress.say(notice)
    progress.show(status.images_under_way, _note(status))
    meter.update(status.metrics, progress.total, progress.left, chunks_left)
    return status


def _note(status: FleetStatus) -> str:
    if not status.ready:
        return f"waiting for {status.starting or 'a'} replica(s)"
    cards = (f"{card.replicas} x {name} {card.images_per_s:.1f}/s" for name, card in status.cards.items())
    return " + ".join(cards)
