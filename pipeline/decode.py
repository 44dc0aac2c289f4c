"""Fetch + decode + resize: from a chunk's planned rows to one uint8 block of pixels. A row never raises."""

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import torch
from numpy.typing import NDArray

from pipeline.fetch import FetchError, fetch
from pipeline.isolation import IsolatedDecoder
from pipeline.job import Job
from pipeline.plan import read_plan
from pipeline.remote import ask
from pipeline.tables import IMAGE_FIELDS, to_ipc
from ramcore.errors import ImageError
from ramcore.images import decode

UNFINISHED_BEFORE_ISOLATION = 2
"""Attempts at a chunk that never came to an end before its images are decoded one by one in a process of their own."""

PIXELS_SCHEMA = pa.schema(
    [
        ("chunk", pa.int64()),
        ("rows", pa.large_binary()),
        ("pixels", pa.large_binary()),
        ("node_id", pa.string()),
        ("started_at", pa.float64()),
        ("fetch_s", pa.float64()),
        ("decode_s", pa.float64()),
    ]
)
"""A chunk on its way to a replica: one row. rows: the planned rows with IMAGE_FIELDS, as an Arrow stream;
pixels: uint8 [images, size, size, 3] of the rows without an error, in their order; null if already committed."""


@dataclass
class _Image:
    """One row's fields of IMAGE_FIELDS."""

    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    image_bytes: int | None = None
    fetch_s: float | None = None
    decode_s: float | None = None
    error_kind: str | None = None
    error_detail: str | None = None
    attempts: int = 1

    def reject(self, kind: str, detail: str) -> None:
        self.error_kind, self.error_detail = kind, detail


@dataclass(frozen=True)
class _Fetched:
    data: bytes | None
    seconds: float
    error: FetchError | None


class Decoder:
    """Callable class of a Ray Data actor pool: spans of chunk ids in, one row of PIXELS_SCHEMA out for each chunk.

    The output does not depend on how often it is run, as Ray runs a span again when its process dies.
    """

    def __init__(self, job: Job, fleet: Any) -> None:
        self._job = job
        self._fleet = fleet
        plan = read_plan(job.store)
        if plan is None:
            raise FileNotFoundError(f"{job.store.root} holds no plan")
        self._plan = plan
        torch.set_num_threads(1)  # resizing is one of several decoders' work on this node
        self._pool = ThreadPoolExecutor(job.config.fetch.concurrency, thread_name_prefix="fetch")
        self._node_id = ray.get_runtime_context().get_node_id()

    def __call__(self, span: pa.Table) -> Iterator[pa.Table]:
        """Decode the chunks of a span in order; the next chunk's bytes are fetched while one is decoded."""
        chunks = [chunk for chunks in span["chunks"].to_pylist() for chunk in chunks]
        coming = self._begin(chunks[0])
        for position, chunk in enumerate(chunks):
            rows, fetches = coming
            if position + 1 < len(chunks):
                coming = self._begin(chunks[position + 1])
            yield self._passed_over(chunk) if rows is None else self._decode_chunk(chunk, rows, fetches)

    def _begin(self, chunk: int) -> tuple[pa.Table | None, list["Future[_Fetched] | None"]]:
        """The chunk's planned rows, with their fetches under way; no rows if another driver has committed it."""
        rows = self._job.work.rows(self._job.store, self._plan, chunk)
        if rows is None:
            return None, []
        return rows, [
            None if planned_error else self._pool.submit(self._fetch, uri)
            for uri, planned_error in zip(rows["uri"].to_pylist(), rows["planned_error"].to_pylist(), strict=True)
        ]

    def _fetch(self, uri: str) -> _Fetched:
        start = time.perf_counter()
        try:
            data, error = fetch(uri, self._job.config.fetch), None
        except FetchError as fault:
            data, error = None, fault
        return _Fetched(data, time.perf_counter() - start, error)

    def _decode_chunk(self, chunk: int, rows: pa.Table, fetches: list["Future[_Fetched] | None"]) -> pa.Table:
        started_at = time.time()
        unfinished = ask(self._fleet, "decode_begins", chunk)
        isolate = unfinished >= UNFINISHED_BEFORE_ISOLATION
        with IsolatedDecoder(self._job) if isolate else _InProcess(self._job) as decoder:
            images, pixels = self._decode_rows(rows, fetches, decoder)
        ask(self._fleet, "decode_ends", chunk)
        return self._packed(chunk, with_images(rows, images), pixels, started_at)

    def _decode_rows(
        self, rows: pa.Table, fetches: list["Future[_Fetched] | None"], decoder: "IsolatedDecoder | _InProcess"
    ) -> tuple[list[_Image], NDArray[np.uint8]]:
        size = self._job.image_size
        pixels = np.empty((len(fetches), size, size, 3), dtype=np.uint8)
        images: list[_Image] = []
        filled = 0
        for fetched, planned_error in zip(fetches, rows["planned_error"].to_pylist(), strict=True):
            image = _Image()
            images.append(image)
            if fetched is None:
                image.reject(planned_error, "an earlier row of the input has this image_id with another uri")
            elif self._decode_one(fetched.result(), image, decoder, pixels[filled]):
                filled += 1
        return images, pixels[:filled]

    def _decode_one(
        self, fetched: _Fetched, image: _Image, decoder: "IsolatedDecoder | _InProcess", target: NDArray[np.uint8]
    ) -> bool:
        """Put one image's pixels into `target`, or the reason why not into `image`."""
        image.fetch_s = fetched.seconds
        if fetched.data is None:
            error = fetched.error or FetchError("connection", "no bytes came")
            image.reject(error.kind, error.detail)
            return False
        image.image_bytes = len(fetched.data)
        image.sha256 = hashlib.sha256(fetched.data).hexdigest()
        start = time.perf_counter()
        try:
            target[:], image.width, image.height = decoder.decode(fetched.data)
        except ImageError as fault:
            image.reject(fault.kind, fault.detail)
        image.attempts = decoder.attempts
        image.decode_s = time.perf_counter() - start
        return image.error_kind is None

    def _packed(self, chunk: int, rows: pa.Table, pixels: NDArray[np.uint8], started_at: float) -> pa.Table:
        length = np.array([0, pixels.nbytes], dtype=np.int64)
        buffers = [None, pa.py_buffer(length), pa.py_buffer(pixels.reshape(-1))]
        columns = {
            "chunk": [chunk],
            "rows": [to_ipc(rows)],
            "pixels": pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, buffers),
            "node_id": [self._node_id],
            "started_at": [started_at],
            "fetch_s": [sum(filter(None, rows["fetch_s"].to_pylist()))],
            "decode_s": [sum(filter(None, rows["decode_s"].to_pylist()))],
        }
        return pa.table(columns, schema=PIXELS_SCHEMA)

    def _passed_over(self, chunk: int) -> pa.Table:
        return pa.Table.from_pylist([{"chunk": chunk, "node_id": self._node_id}], schema=PIXELS_SCHEMA)


class _InProcess:
    """Decodes in this process: the normal way."""

    attempts = 1

    def __init__(self, job: Job) -> None:
        self._size, self._config = job.image_size, job.config.decode

    def __enter__(self) -> "_InProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def decode(self, data: bytes) -> tuple[NDArray[np.uint8], int, int]:
        decoded = decode(data, self._size, self._config.mode, self._config.max_pixels)
        return decoded.pixels, decoded.width, decoded.height


def with_images(rows: pa.Table, images: list[_Image]) -> pa.Table:
    """Planned rows with what decoding found out about each."""
    columns = {field.name: [getattr(image, field.name) for image in images] for field in fields(_Image)}
    for column in IMAGE_FIELDS:
        rows = rows.append_column(column, pa.array(columns[column.name], column.type))
    return rows.drop_columns(["planned_error"])
