"""The driver's loop: keeps chunks flowing until all are committed, shows it, and knows when to stop."""

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ray.exceptions import RayError, RayTaskError

from pipeline.errors import OutageError, RunError, StalledError, StoppedError, StoreError, last_line
from pipeline.events import EventLog
from pipeline.flow import FlowShape, tag_chunks
from pipeline.handover import commit_and_log
from pipeline.job import Job
from pipeline.outage import OutageGuard
from pipeline.plan import Plan
from pipeline.progress import RunProgress
from pipeline.remote import ask
from pipeline.tables import from_ipc

_POLL_S = 0.5


def drive(
    job: Job, plan: Plan, fleet: Any, shape: FlowShape, progress: RunProgress, source_exists: Callable[[], bool]
) -> None:
    """Tag every pending chunk.

    source_exists: whether INPUT itself is still there, asked when images could not be fetched.
    Raises StoppedError when it can go on later, RunError if it cannot or if a whole round committed nothing.
    """
    log = EventLog(job.store, job.session, "driver")
    guard = OutageGuard(job.config.run.max_reject_share)
    pending = job.work.pending(job.store, plan)
    while pending:
        for outcome in _watched(tag_chunks(job, fleet, pending, shape), fleet, progress):
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


def _commit_held(job: Job, log: EventLog, outcomes: Iterator[dict[str, Any]]) -> None:
    for outcome in outcomes:
        commit_and_log(job, log, outcome["chunk"], from_ipc(outcome["held"]))


def _watched(outcomes: Iterator[dict[str, Any]], fleet: Any, progress: RunProgress) -> Iterator[dict[str, Any]]:
    """The outcomes as they come; in between the Fleet is asked how it stands, also when none come for long.

    Ray Data's iterator blocks, so it runs in a thread of its own.
    """
    arrived: queue.Queue[dict[str, Any] | BaseException | None] = queue.Queue()
    threading.Thread(target=_pour, args=(outcomes, arrived), name="flow", daemon=True).start()
    while True:
        try:
            item = arrived.get(timeout=_POLL_S)
        except queue.Empty:
            _look(fleet, progress)
            continue
        if item is None:
            return
        if isinstance(item, BaseException):
            if isinstance(_cause(item), StoreError):
                raise StoppedError(f"{_reason(item)}. Run the same command again when that is mended") from item
            raise RunError(f"the flow of chunks broke: {_reason(item)}; the log has the whole account") from item
        yield item
        if arrived.empty():
            _look(fleet, progress)


def _pour(outcomes: Iterator[dict[str, Any]], arrived: "queue.Queue[dict[str, Any] | BaseException | None]") -> None:
    try:
        for outcome in outcomes:
            arrived.put(outcome)
    except BaseException as error:
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


def _look(fleet: Any, progress: RunProgress) -> None:
    try:
        status = ask(fleet, "status")
    except RayError as error:
        raise RunError(f"the Fleet broke: {last_line(error)}") from error
    if status.broken is not None:
        raise RunError(status.broken)
    if status.stalled is not None:
        raise StalledError(f"{status.stalled}. Run the same command again when the cluster has them")
    note = f"{status.ready} replica(s)" if status.ready else f"waiting for {status.starting or 'a'} replica(s)"
    progress.show(status.images_under_way, note)
