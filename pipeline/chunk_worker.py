"""Decodes chunks and hands them over: what Ray Data runs on the CPUs of the cluster.

Pixels go from here straight into this node's object store, and from there once to each node that tags some of them.
"""

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from ray.exceptions import RayActorError

from pipeline.decode import Decoder
from pipeline.handover import OUTCOME_SCHEMA, HandOver
from pipeline.job import Job

_HEARTBEAT_S = 1.0


class ChunkWorker:
    """Callable class of a Ray Data actor pool: spans of chunk ids in, one row of OUTCOME_SCHEMA out for each chunk.

    While chunks are decoded the next is fetched, and earlier ones wait for their tags. Ray spreads the workers over the
    nodes as it likes: where there are fewer workers than CPUs, each decodes several chunks at once.
    in_flight: chunks at once for each CPU that this process decodes on, which bounds the memory of their pixels;
    spare: this is the driver's own process, which takes chunks over from others that died, and must survive them.
    """

    def __init__(self, job: Job, fleet: Any, in_flight: int, spare: bool = False) -> None:
        job.cloud.apply()
        self._decoder = Decoder(job, fleet, isolate=spare)
        self._hand_over = HandOver(job, fleet, spare)
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        self._in_flight = in_flight
        self._cpus = 1
        self._narrowing: asyncio.Future[Any] | None = None
        self._decoding = asyncio.Semaphore(1)
        self._room = asyncio.Semaphore(in_flight)
        self._telling = asyncio.Lock()
        self._taken_over: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="hand-over", daemon=True).start()
        self._beating = asyncio.run_coroutine_threadsafe(self._beat(), self._loop)
        self._beating.add_done_callback(_log_failure)

    def __call__(self, span: pa.Table) -> Iterator[pa.Table]:
        """Finish the chunks of a span, in the order in which they get done."""
        chunks = [chunk for chunks in span["chunks"].to_pylist() for chunk in chunks]
        self._hand_over.in_hand.update(chunks)
        # Before any work: should this process die at once, another is told what it had.
        asyncio.run_coroutine_threadsafe(self._tell(), self._loop).result()
        done: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        work = asyncio.run_coroutine_threadsafe(self._finish_all(chunks, done), self._loop)
        work.add_done_callback(lambda ended: _report_failure(ended, done))
        for _ in chunks:
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield pa.Table.from_pylist([outcome], schema=OUTCOME_SCHEMA)

    def close(self) -> None:
        """Nothing more is taken over; what is under way is left where it is."""
        self._beating.cancel()
        self._decoder.close()

    async def _beat(self) -> None:
        """Tell the Fleet for ever that this process is alive."""
        while True:
            await self._tell()
            await asyncio.sleep(_HEARTBEAT_S)

    async def _tell(self) -> None:
        """Tell the Fleet that this process is alive, and do as it says."""
        async with self._telling:
            try:
                orders = await self._hand_over.tell()
            except RayActorError:  # dead for long; the leases that this process asks for fail on their own
                return
            self._use_cpus(orders.cpus)
            for chunk in orders.take_over:
                self._hand_over.in_hand.add(chunk)
                task = asyncio.create_task(self._take_over(chunk))
                self._taken_over.add(task)
                task.add_done_callback(self._taken_over.discard)

    def _use_cpus(self, cpus: int) -> None:
        """Decode on so many CPUs from now on."""
        if cpus > self._cpus:
            _widen(self._decoding, cpus - self._cpus)
            _widen(self._room, (cpus - self._cpus) * self._in_flight)
        elif cpus < self._cpus:
            # Whoever is inside is waited for, but not here: the Fleet must go on hearing of this process.
            self._narrowing = asyncio.gather(
                _narrow(self._decoding, self._cpus - cpus),
                _narrow(self._room, (self._cpus - cpus) * self._in_flight),
            )
        self._cpus = cpus

    async def _take_over(self, chunk: int) -> None:
        """Finish a chunk of a process that died. If that fails Ray Data runs it again, which brings up the error."""
        await self._room.acquire()
        try:
            await self._hand_over.report(await self._finish(chunk))
        except Exception:
            logging.getLogger(__name__).exception("chunk %d, taken over from a process that died", chunk)

    async def _finish_all(self, chunks: list[int], done: "queue.SimpleQueue[dict[str, Any] | BaseException]") -> None:
        async with asyncio.TaskGroup() as group:
            for chunk in chunks:
                await self._room.acquire()
                group.create_task(self._finish(chunk)).add_done_callback(lambda ended: _put(ended, done))

    async def _finish(self, chunk: int) -> dict[str, Any]:
        """What became of a chunk; gives back the room that the caller took."""
        try:
            begun = await asyncio.to_thread(self._decoder.begin, chunk)
            if begun is None:
                return {"chunk": chunk, "outcome": "beaten", "rows": 0, "tagged": 0, "retriable": 0, "rejects": []}
            async with self._decoding:
                decoded = await self._loop.run_in_executor(self._threads, self._decoder.decode, begun)
            return await self._hand_over.finish(decoded)
        finally:
            self._hand_over.in_hand.discard(chunk)
            self._room.release()


def _put(ended: "asyncio.Task[dict[str, Any]]", done: "queue.SimpleQueue[dict[str, Any] | BaseException]") -> None:
    """An outcome for the caller. An error comes to it through the group."""
    if not ended.cancelled() and ended.exception() is None:
        done.put(ended.result())


def _widen(semaphore: asyncio.Semaphore, places: int) -> None:
    for _ in range(places):
        semaphore.release()


async def _narrow(semaphore: asyncio.Semaphore, places: int) -> None:
    for _ in range(places):
        await semaphore.acquire()


def _log_failure(ended: "Future[None]") -> None:
    if not ended.cancelled():
        logging.getLogger(__name__).error("the Fleet hears no more of this process: %s", ended.exception())


def _report_failure(ended: "Future[None]", done: "queue.SimpleQueue[dict[str, Any] | BaseException]") -> None:
    error = ended.exception()
    if error is not None:
        done.put(error)
