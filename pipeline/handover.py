"""The hand-over: leases a replica for each chunk, sends the pixels by reference, awaits the tags, commits."""

import asyncio
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray
from ray.exceptions import RayActorError, RayError, RayTaskError

from pipeline.error_kinds import ERROR_KINDS
from pipeline.errors import StoreError, last_line
from pipeline.events import EventLog
from pipeline.fleet import Grant
from pipeline.job import Job
from pipeline.leases import STRIKES_OUT, Work
from pipeline.names import Naming
from pipeline.plan import PLAN
from pipeline.remote import ask_async
from pipeline.replica import Tagged
from pipeline.tables import from_ipc, to_ipc, with_attempt
from pipeline.tagging import Part, rejected_part, tag_table, tagged_part
from ramcore.bundle import read_vocabulary

_HEARTBEAT_S = 2.0

OUTCOME_SCHEMA = pa.schema(
    [
        ("chunk", pa.int64()),
        ("outcome", pa.string()),
        ("rows", pa.int64()),
        ("tagged", pa.int64()),
        ("retriable", pa.int64()),
        ("rejects", pa.list_(pa.string())),
        ("held", pa.large_binary()),
        ("detail", pa.string()),
    ]
)
"""What became of a chunk: outcome is "committed", "beaten" (another driver was first), "held" (it has rejects that
may mean an outage: the driver decides, the finished table is in `held`) or "failed" (the store refused: `detail`)."""


@dataclass
class _Course:
    """How the tagging of one chunk went: what the ledger needs, of the attempt that won."""

    grant: Grant | None = None
    tagged: Tagged | None = None
    wait_s: float = 0.0
    model_s: float = 0.0
    call_s: float = 0.0


class HandOver:
    """Async callable class of a Ray Data actor pool: rows of decode.PIXELS_SCHEMA in, OUTCOME_SCHEMA out.

    Several run at once, and each has several chunks under way. One that dies loses nothing: its leases are freed
    when it is no longer heard of, and Ray Data runs its chunks again.
    """

    def __init__(self, job: Job, fleet: Any) -> None:
        self._job = job
        self._fleet = fleet
        self._vocabulary = read_vocabulary(job.bundle)
        self._naming = Naming.of(job.config.pinned())
        self._holder = f"handover-{uuid.uuid4().hex[:8]}"
        self._node_id = ray.get_runtime_context().get_node_id()
        self._log = EventLog(job.store, job.session, self._holder)
        self._heartbeat: asyncio.Task[None] | None = None

    async def __call__(self, chunks: pa.Table) -> pa.Table:
        """Tag and commit some decoded chunks."""
        if self._heartbeat is None:
            self._heartbeat = asyncio.create_task(self._beat())
        outcomes = await asyncio.gather(*(self._chunk(chunks, row) for row in range(chunks.num_rows)))
        return pa.Table.from_pylist(outcomes, schema=OUTCOME_SCHEMA)

    async def _beat(self) -> None:
        while True:
            with suppress(RayActorError):  # dead for long; the leases that this holder asks for fail on their own
                await ask_async(self._fleet, "hear", self._holder)
            await asyncio.sleep(_HEARTBEAT_S)

    async def _chunk(self, chunks: pa.Table, row: int) -> dict[str, Any]:
        chunk = chunks["chunk"][row].as_py()
        if not chunks["rows"][row].is_valid:
            return {"chunk": chunk, "outcome": "beaten", "rows": 0, "tagged": 0, "retriable": 0, "rejects": []}
        rows = from_ipc(chunks["rows"][row].as_buffer())
        pixels = self._pixels(chunks["pixels"][row].as_buffer())
        course = _Course()
        parts = await self._tag(pixels, Work(chunk, 0, len(pixels)), course)
        tagged = await asyncio.to_thread(tag_table, rows, parts, self._vocabulary, self._naming)
        table = with_attempt(tagged, self._attempt(chunks, row, course))
        return await self._commit(chunk, table)

    def _pixels(self, buffer: pa.Buffer) -> NDArray[np.uint8]:
        size = self._job.image_size
        return np.frombuffer(buffer, dtype=np.uint8).reshape(-1, size, size, 3)

    # ---- tag ----

    async def _tag(self, pixels: NDArray[np.uint8], work: Work, course: _Course) -> list[Part]:
        if not len(work):
            return []
        # Put once, here: however often a replica is lost, another gets the same object without a further copy.
        reference = await asyncio.to_thread(ray.put, pixels)
        return await self._tag_work(reference, work, course, "")

    async def _tag_work(self, pixels: Any, work: Work, course: _Course, last_error: str) -> list[Part]:
        """Tag until it is done, or cut up what kills its replicas until one image is left and is poison."""
        while True:
            asked = time.monotonic()
            grant: Grant | None = await ask_async(self._fleet, "lease", self._holder, self._node_id, work)
            if grant is None:
                return await self._tag_struck_out(pixels, work, course, last_error)
            course.wait_s += time.monotonic() - asked
            try:
                return [await self._call(grant, pixels, work, course)]
            except RayTaskError as error:
                last_error = last_line(error)
                await ask_async(self._fleet, "failed", grant.lease_id, last_error)
            except RayError:
                last_error = ""
                await ask_async(self._fleet, "lost", grant.lease_id)

    async def _call(self, grant: Grant, pixels: Any, work: Work, course: _Course) -> Part:
        called = time.monotonic()
        tagged: Tagged = await grant.handle.tag.remote(pixels, work.first, work.last)
        self._fleet.release.remote(grant.lease_id)
        course.call_s += time.monotonic() - called
        course.model_s += tagged.model_s
        course.grant, course.tagged = grant, tagged
        return tagged_part(tagged.selection, tagged.captions)

    async def _tag_struck_out(self, pixels: Any, work: Work, course: _Course, last_error: str) -> list[Part]:
        if not work.alone:
            parts = [await self._tag_work(pixels, piece, course, last_error) for piece in work.pieces()]
            return [part for pieces in parts for part in pieces]
        if last_error:
            return [rejected_part("model_error", last_error, STRIKES_OUT)]
        return [rejected_part("poison", f"killed {STRIKES_OUT} fresh replicas that worked on it alone", STRIKES_OUT)]

    # ---- commit ----

    async def _commit(self, chunk: int, table: pa.Table) -> dict[str, Any]:
        rejects = [kind for kind in table["error_kind"].to_pylist() if kind is not None]
        outcome = {
            "chunk": chunk,
            "rows": table.num_rows,
            "tagged": table.num_rows - len(rejects),
            "retriable": sum(ERROR_KINDS[kind].retriable for kind in rejects),
            "rejects": rejects,
        }
        if outcome["retriable"]:
            return {**outcome, "outcome": "held", "held": to_ipc(table)}
        try:
            first = await asyncio.to_thread(commit_and_log, self._job, self._log, chunk, table)
        except StoreError as error:
            return {**outcome, "outcome": "failed", "detail": str(error)}
        return {**outcome, "outcome": "committed" if first else "beaten"}

    def _attempt(self, chunks: pa.Table, row: int, course: _Course) -> dict[str, Any]:
        grant, tagged = course.grant, course.tagged
        return {
            "plan_hash": self._job.plan_hash,
            "session": self._job.session,
            "decode_node_id": chunks["node_id"][row].as_py(),
            "node_id": grant and grant.node_id,
            "node_type": grant and grant.node_type,
            "card": grant and grant.card,
            "replica": grant and grant.replica_id,
            "dtype": tagged and tagged.dtype,
            "microbatch": tagged and tagged.microbatch,
            "peak_vram_bytes": tagged and tagged.peak_vram_bytes,
            "fetch_s": chunks["fetch_s"][row].as_py(),
            "decode_s": chunks["decode_s"][row].as_py(),
            "wait_s": course.wait_s,
            "transfer_s": max(0.0, course.call_s - course.model_s),
            "model_s": course.model_s,
            "started_at": chunks["started_at"][row].as_py(),
            "ended_at": time.time(),
        }


def commit_and_log(job: Job, log: EventLog, chunk: int, table: pa.Table) -> bool:
    """Commit a chunk and write down how long that took; False if another was first.

    Raises StoreError if it cannot be written, or if the run folder has been removed meanwhile.
    """
    start = time.perf_counter()
    if not job.store.exists(PLAN):
        raise StoreError(f"--out {job.store.root}: the plan of the run is gone; nothing is committed without it")
    first = job.work.commit(job.store, chunk, table)
    seconds = round(time.perf_counter() - start, 6)
    rejects = dict(Counter(table["error_kind"].drop_null().to_pylist()))
    generation = job.work.generation(chunk)
    log.write("commit", chunk=chunk, generation=generation, first=first, commit_s=seconds, rejects=rejects)
    return first
