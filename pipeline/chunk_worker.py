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

from pipeline.decode import Decoder
from pipeline.handover import OUTCOME_SCHEMA, HandOver
from pipeline.job import Job


class ChunkWorker:
    """Callable class of a Ray Data actor pool: spans of chunk ids in, one row of OUTCOME_SCHEMA out for each chunk.

    While chunks are decoded the next is fetched, and earlier ones wait for their tags. Ray spreads the workers over the
    nodes as it likes: where there are fewer workers than CPUs, each decodes several chunks at once.
    in_flight: chunks at once for each CPU that this process decodes on, which bounds the memory of their pixels.
    """

    def __init__(self, job: Job, fleet: Any, in_flight: int) -> None:
        self._decoder = Decoder(job, fleet)
        self._hand_over = HandOver(job, fleet)
        self._threads = ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="decode")
        self._in_flight = in_flight
        self._cpus = 1
        self._narrowing: asyncio.Future[Any] | None = None
        self._decoding = asyncio.Semaphore(1)
        self._room = asyncio.Semaphore(in_flight)
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="hand-over", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._beat(), self._loop).add_done_callback(_log_failure)

    def __call__(self, span: pa.Table) -> Iterator[pa.Table]:
        """Finish the chunks of a span, in the order in which they get done."""
        chunks = [chunk for chunks in span["chunks"].to_pylist() for chunk in chunks]
        done: queue.SimpleQueue[dict[str, Any] | BaseException] = queue.SimpleQueue()
        work = asyncio.run_coroutine_threadsafe(self._finish_all(chunks, done), self._loop)
        work.add_done_callback(lambda ended: _report_failure(ended, done))
        for _ in chunks:
            outcome = done.get()
            if isinstance(outcome, BaseException):
                raise outcome
            yield pa.Table.from_pylist([outcome], schema=OUTCOME_SCHEMA)

    async def _beat(self) -> None:
        """Tell the Fleet for ever that this process is alive, and take its share of the node's CPUs."""
        async for cpus in self._hand_over.beat():
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

    async def _finish_all(self, chunks: list[int], done: "queue.SimpleQueue[dict[str, Any] | BaseException]") -> None:
        async with asyncio.TaskGroup() as group:
            for chunk in chunks:
                await self._room.acquire()
                group.create_task(self._finish(chunk, done))

    async def _finish(self, chunk: int, done: "queue.SimpleQueue[dict[str, Any] | BaseException]") -> None:
        try:
            begun = await asyncio.to_thread(self._decoder.begin, chunk)
            if begun is None:
                done.put({"chunk": chunk, "outcome": "beaten", "rows": 0, "tagged": 0, "retriable": 0, "rejects": []})
                return
            async with self._decoding:
                decoded = await self._loop.run_in_executor(self._threads, self._decoder.decode, begun)
            done.put(await self._hand_over.finish(decoded))
        finally:
            self._room.release()


def _widen(semaphore: asyncio.Semaphore, places: int) -> None:
    for _ in range(places):
        semaphore.release()


async def _narrow(semaphore: asyncio.Semaphore, places: int) -> None:
    for _ in range(places):
        await semaphore.acquire()


def _log_failure(ended: "Future[None]") -> None:
    logging.getLogger(__name__).error("the Fleet hears no more of this process: %s", ended.exception())


def _report_failure(ended: "Future[None]", done: "queue.SimpleQueue[dict[str, Any] | BaseException]") -> None:
    error = ended.exception()
    if error is not None:
        done.put(error)
