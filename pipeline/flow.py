"""The flow of chunks through Ray Data: feed → fetch + decode → hand-over to leased replicas → commit."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionResources

from pipeline.decode import Decoder
from pipeline.feed import waves
from pipeline.handover import HandOver
from pipeline.job import Job

_IN_FLIGHT_BYTES = 1 << 30
"""Bound of the pixels that one hand-over actor holds, each chunk's copy for the replica counted."""


@dataclass(frozen=True)
class FlowShape:
    """How wide the flow is.

    decoders: decoding actors, of one CPU each; handovers: hand-over actors; replicas: to be kept busy;
    chunk_bytes: pixels of a full chunk.
    """

    decoders: int
    handovers: int
    replicas: int
    chunk_bytes: int

    @property
    def chunks_per_handover(self) -> int:
        """Chunks that a hand-over actor has under way: twice its share of the replicas, bounded in bytes."""
        wanted = -(-2 * self.replicas // self.handovers) + 1
        return max(1, min(wanted, _IN_FLIGHT_BYTES // (2 * max(1, self.chunk_bytes))))


def tag_chunks(job: Job, fleet: Any, chunks: Sequence[int], shape: FlowShape) -> Iterator[dict[str, Any]]:
    """Decode, tag and commit chunks; yields what became of each, as rows of handover.OUTCOME_SCHEMA.

    The next wave is built while one runs.
    """
    _set_context(shape)
    coming = waves(chunks, shape.decoders)
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as builder:
        following = builder.submit(_next_dataset, coming, job, fleet, shape)
        while (dataset := following.result()) is not None:
            following = builder.submit(_next_dataset, coming, job, fleet, shape)
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from cast(pa.Table, batch).to_pylist()


def _next_dataset(coming: Iterator[list[list[int]]], job: Job, fleet: Any, shape: FlowShape) -> Dataset | None:
    wave = next(coming, None)
    return None if wave is None else _dataset(wave, job, fleet, shape)


def _dataset(wave: list[list[int]], job: Job, fleet: Any, shape: FlowShape) -> Dataset:
    fed = ray.data.from_items([{"chunks": span} for span in wave], override_num_blocks=len(wave))
    decoded = fed.map_batches(
        Decoder,
        fn_constructor_args=(job, fleet),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=1, max_size=shape.decoders, max_tasks_in_flight_per_actor=2),
        num_cpus=1,
    )
    return decoded.map_batches(
        HandOver,
        fn_constructor_args=(job, fleet),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            size=shape.handovers,
            max_tasks_in_flight_per_actor=shape.chunks_per_handover,
            max_concurrent_calls_per_actor=shape.chunks_per_handover,
        ),
        num_cpus=0,
    )


def _set_context(shape: FlowShape) -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    # A row is a chunk: no two of them may wait for each other in one block, and a row cannot be split.
    context.target_max_block_size = 1
    # The rest of the CPUs belongs to replicas: a decoder that Ray Data wants there would be pending for ever.
    context.execution_options.resource_limits = ExecutionResources(cpu=shape.decoders)
