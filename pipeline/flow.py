"""The flow of chunks through Ray Data: feed → fetch + decode + hand-over to leased replicas + commit."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources

from pipeline.chunk_worker import ChunkWorker
from pipeline.feed import waves
from pipeline.job import Job
from pipeline.ray_private import end_execution

_WORKER_CPUS = 0.5
"""What Ray reserves for a worker, of the CPU that it gets: so those of a node that dies find room on the others."""
_SPANS_AT_ONCE = 2
"""Of one worker, so that it never runs dry between two."""


@dataclass(frozen=True)
class FlowShape:
    """How wide the flow is.

    workers: processes that decode and hand over, one for each CPU; replicas: to be kept busy;
    chunk_bytes: pixels of a full chunk; worker_bytes: of the object store, for the pixels of one worker.
    """

    workers: int
    replicas: int
    chunk_bytes: int
    worker_bytes: int

    @property
    def chunks_per_worker(self) -> int:
        """Chunks that a worker has under way: its share of what three times the replicas take, bounded in bytes.

        One more is being decoded, and one fetched. Pixels count twice, as they are copied into the object store.
        """
        wanted = -(-3 * self.replicas // self.workers) + 2
        return max(1, min(wanted, self.worker_bytes // (2 * max(1, self.chunk_bytes))))


class ChunkFlow:
    """Decodes, tags and commits chunks. The next wave of them is built while one runs."""

    def __init__(self, job: Job, fleet: Any, chunks: Sequence[int], shape: FlowShape) -> None:
        self._job, self._fleet, self._shape = job, fleet, shape
        self._coming = waves(chunks, shape.workers)
        self._running: Dataset | None = None
        self._is_over = False

    def outcomes(self) -> Iterator[dict[str, Any]]:
        """What became of each chunk, as rows of handover.OUTCOME_SCHEMA."""
        _set_context(self._shape)
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as builder:
            following = builder.submit(self._next)
            while not self._is_over and (dataset := following.result()) is not None:
                self._running = dataset
                following = builder.submit(self._next)
                for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                    yield from cast(pa.Table, batch).to_pylist()

    def give_up(self) -> None:
        """End `outcomes`, which another thread waits for: nothing of Ray may be waited for when Ray is shut down."""
        self._is_over = True
        if self._running is not None:
            end_execution(self._running)

    def _next(self) -> Dataset | None:
        wave = next(self._coming, None)
        return None if wave is None else _dataset(wave, self._job, self._fleet, self._shape)


def _dataset(wave: list[list[int]], job: Job, fleet: Any, shape: FlowShape) -> Dataset:
    fed = ray.data.from_items([{"chunks": span} for span in wave], override_num_blocks=len(wave))
    return fed.map_batches(
        ChunkWorker,
        fn_constructor_args=(job, fleet, shape.chunks_per_worker),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=min(shape.workers, len(wave)),
            max_tasks_in_flight_per_actor=_SPANS_AT_ONCE,
            max_concurrent_calls_per_actor=_SPANS_AT_ONCE,
        ),
        num_cpus=_WORKER_CPUS,
    )


def _set_context(shape: FlowShape) -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # An outcome is a block: the driver hears of each chunk at once.
    context.target_max_block_size = 1
    # The rest of the CPUs belongs to replicas: a worker that Ray Data wants there would be pending for ever.
    context.execution_options.resource_limits = ExecutionResources(cpu=shape.workers * _WORKER_CPUS)
