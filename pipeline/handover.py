"""The hand-over: leases a replica for each chunk, sends the pixels by reference, awaits the tags, commits."""

import asyncio
import json
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError

from pipeline.decode import DecodedChunk
from pipeline.error_kinds import ERROR_KINDS
from pipeline.errors import StoreError, last_line
from pipeline.events.log import EventLog
from pipeline.fleet.leases import STRIKES_OUT, Work
from pipeline.fleet.messages import Grant, Orders
from pipeline.fleet.remote import ask_async
from pipeline.fleet.replica import Tagged
from pipeline.job import Job
from pipeline.plan import PLAN
from pipeline.tables.names import Naming
from pipeline.tables.schemas import to_ipc, with_attempt
from pipeline.tagging import Part, rejected_part, tag_table, tagged_part
from ramcore.bundle import read_vocabulary

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
        ("commit", pa.string()),
    ]
)
"""What became of a chunk: outcome is "committed", "beaten" (another driver was first), "held" (it has rejects that
may mean an outage: the driver decides, the finished table is in `held`) or "failed" (the store refused: `detail`).
commit: the event of the commit as JSON, where one was tried."""


@dataclass
class _Course:
    """How the tagging of one chunk went, for the ledger: the pieces that were done, in order of time."""

    pieces: list[dict[str, Any]] = field(default_factory=list)

    def add(self, grant: Grant, tagged: Tagged, asked: float, called: float) -> None:
        """A piece is done. asked, called: when the lease was asked for and came, seconds since 1970."""
        now = time.time()
        self.pieces.append(
            {
                "images": len(grant.work),
                "node_id": grant.node_id,
                "node_type": grant.node_type,
                "card": grant.card,
                "instance_type": grant.place.instance_type,
                "market": grant.place.market,
                "zone": grant.place.zone,
                "replica": grant.replica_id,
                "dtype": tagged.dtype,
                "microbatch": tagged.microbatch,
                "peak_vram_bytes": tagged.peak_vram_bytes,
                "wait_s": called - asked,
                "transfer_s": max(0.0, now - called - tagged.model_s),
                "model_s": tagged.model_s,
                "started_at": called,
                "ended_at": tagged.ended_at,
            }
        )


class _Pixels:
    """A chunk's pixels in this node's object store. reference: of uint8 [images, size, size, 3]."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    async def put_again(self) -> None:
        """As a new object, of which there is no copy elsewhere.

        Ray fetches from any node that has one, and goes on trying a dead node's for ten seconds and more.
        """
        self.reference = await asyncio.to_thread(lambda: ray.put(ray.get(self.reference)))


class HandOver:
    """Takes decoded chunks to replicas, and their tags to the run folder.

    Several chunks of one process are under way at once. If the process dies nothing is lost: its leases end when the
    replicas have done them, and Ray Data runs its chunks again.
    spare: Ray Data sends this process nothing; it only takes over what others had.
    in_hand: chunks that this process has been given and has not finished, fetched and decoded or not.
    """

    def __init__(self, job: Job, fleet: Any, spare: bool = False) -> None:
        self._job = job
        self._fleet = fleet
        self._spare = spare
        self._vocabulary = read_vocabulary(job.bundle)
        self._naming = Naming.of(job.config.pinned())
        self._holder = f"handover-{uuid.uuid4().hex[:8]}"
        self._node_id = ray.get_runtime_context().get_node_id()
        self._log = EventLog(job.store, job.session, self._holder)
        self.in_hand: set[int] = set()

    async def tell(self) -> Orders:
        """Tell the Fleet that this holder of leases is alive, and what it has in hand. Raises RayActorError."""
        told = self._holder, self._node_id, frozenset(self.in_hand), self._spare
        orders: Orders = await ask_async(self._fleet, "hear", *told)
        return orders

    async def report(self, outcome: dict[str, Any]) -> None:
        """Tell the Fleet what became of a chunk that it had this process take over."""
        await ask_async(self._fleet, "taken_over", outcome)

    async def finish(self, decoded: DecodedChunk) -> dict[str, Any]:
        """Tag and commit a chunk; what became of it, as a row of OUTCOME_SCHEMA."""
        course = _Course()
        parts = await self._tag(decoded, course)
        tagged = await asyncio.to_thread(tag_table, decoded.rows, parts, self._vocabulary, self._naming)
        return await self._commit(decoded.chunk, with_attempt(tagged, self._attempt(decoded, course)))

    # ---- tag ----

    async def _tag(self, decoded: DecodedChunk, course: _Course) -> list[Part]:
        if not len(decoded.pixels):
            return []
        # Put once, here: however many replicas work on it, each node gets the same object without a further copy.
        pixels = _Pixels(await asyncio.to_thread(ray.put, decoded.pixels))
        work = Work(decoded.chunk, 0, len(decoded.pixels))
        decoded.drop_pixels()
        return await self._tag_work(pixels, work, course)

    async def _tag_work(self, pixels: _Pixels, work: Work, course: _Course, last_error: str = "") -> list[Part]:
        """Tag in as many pieces as the Fleet hands out, at once, or cut up what kills its replicas."""
        pieces: list[asyncio.Task[list[Part]]] = []
        rest: Work | None = work
        async with asyncio.TaskGroup() as group:
            while rest is not None:
                asked = time.time()
                grant: Grant | None = await ask_async(self._fleet, "lease", self._holder, self._node_id, rest)
                if grant is None:
                    pieces.append(group.create_task(self._tag_struck_out(pixels, rest, course, last_error)))
                    break
                pieces.append(group.create_task(self._tag_granted(pixels, grant, course, asked)))
                rest = rest.split(len(grant.work))[1]
        return [part for piece in pieces for part in piece.result()]

    async def _tag_granted(self, pixels: _Pixels, grant: Grant, course: _Course, asked: float) -> list[Part]:
        """Tag one piece; if its replica is lost or fails, another tries the same piece."""
        work, called = grant.work, time.time()
        try:
            tagged: Tagged = await grant.handle.tag.remote(grant.lease_id, pixels.reference, work.first, work.last)
        except RayTaskError as error:
            await ask_async(self._fleet, "failed", grant.lease_id, last_line(error))
            return await self._tag_work(pixels, work, course, last_line(error))
        except RayError:
            await ask_async(self._fleet, "lost", grant.lease_id)
            await pixels.put_again()
            return await self._tag_work(pixels, work, course)
        finite = bool(tagged.selection.finite.all())
        if not finite and not await ask_async(self._fleet, "doubt", grant.replica_id, work):
            return await self._tag_work(pixels, work, course)
        course.add(grant, tagged, asked, called)
        return [tagged_part(tagged.selection, tagged.captions)]

    async def _tag_struck_out(self, pixels: _Pixels, work: Work, course: _Course, last_error: str) -> list[Part]:
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
            commit = await asyncio.to_thread(commit_and_log, self._job, self._log, chunk, table)
        except StoreError as error:
            return {**outcome, "outcome": "failed", "detail": str(error)}
        return {**outcome, "outcome": "committed" if commit["first"] else "beaten", "commit": json.dumps(commit)}

    def _attempt(self, decoded: DecodedChunk, course: _Course) -> dict[str, Any]:
        return {
            "plan_hash": self._job.plan_hash,
            "session": self._job.session,
            "decode_node_id": self._node_id,
            "fetch_s": decoded.fetch_s,
            "decode_s": decoded.decode_s,
            "started_at": decoded.started_at,
            "ended_at": time.time(),
            "pieces": course.pieces,
        }


def commit_and_log(job: Job, log: EventLog, chunk: int, table: pa.Table) -> dict[str, Any]:
    """Commit a chunk and write down how long that took; the event, whose `first` is false if another was first.

    Raises StoreError if it cannot be written, or if the run folder has been removed meanwhile.
    """
    start = time.perf_counter()
    if not job.store.exists(PLAN):
        raise StoreError(f"--out {job.store.root}: the plan of the run is gone; nothing is committed without it")
    first = job.work.commit(job.store, chunk, table)
    seconds = round(time.perf_counter() - start, 6)
    rejects = dict(Counter(table["error_kind"].drop_null().to_pylist()))
    generation = job.work.generation(chunk)
    return log.write(
        "commit",
        chunk=chunk,
        generation=generation,
        first=first,
        commit_s=seconds,
        images=table.num_rows,
        rejects=rejects,
    )
