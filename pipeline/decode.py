"""Fetch + decode + resize: from a chunk's planned rows to one uint8 array of pixels. A row never raises."""

import hashlib
import time
from concurrent.futures import Future
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.fetching.fetcher import Fetcher
from pipeline.fetching.outcome import Fetched, FetchError
from pipeline.fetching.redaction import column_without_credentials
from pipeline.fleet.remote import ask
from pipeline.isolation import IsolatedDecoder
from pipeline.job import Job
from pipeline.plan import read_plan
from pipeline.tables.schemas import IMAGE_FIELDS
from ramcore.errors import ImageError
from ramcore.images import decode

UNFINISHED_BEFORE_ISOLATION = 2
"""Attempts at a chunk that never came to an end before its images are decoded one by one in a process of their own."""


@dataclass
class DecodedChunk:
    """A chunk on its way to a replica.

    rows: the planned rows with IMAGE_FIELDS; pixels: uint8 [images, size, size, 3] of the rows without an error, in
    their order. started_at: seconds since 1970; fetch_s, decode_s: sums over the images.
    """

    chunk: int
    rows: pa.Table
    pixels: NDArray[np.uint8]
    started_at: float
    fetch_s: float
    decode_s: float

    def drop_pixels(self) -> None:
        """Give the memory back: the object store has them now."""
        self.pixels = self.pixels[:0].copy()


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
class BegunChunk:
    """A chunk whose images are being fetched. rows: as planned; fetches: None where the plan rejects the row."""

    chunk: int
    rows: pa.Table
    fetches: "list[Future[Fetched] | None]"


class Decoder:
    """Fetches and decodes chunks. The result does not depend on how often that is done, or by whom.

    fleet: the Fleet's actor handle, which remembers attempts that never ended; isolate: decode in a process of its own
    from the first attempt on, where this one must not die.
    """

    def __init__(self, job: Job, fleet: Any, isolate: bool = False) -> None:
        self._job = job
        self._isolate = isolate
        self._fleet = fleet
        plan = read_plan(job.store)
        if plan is None:
            raise FileNotFoundError(f"{job.store.root} holds no plan")
        self._plan = plan
        if job.config.decode.mode != "exact" and not isolate:
            import torch  # before the first picture, whose time it would be counted as

            torch.set_num_threads(1)  # resizing is one of several decoders' work on this node
        self._fetcher = Fetcher(job.config.fetch, job.config.storage)

    def close(self) -> None:
        """Give up what is being fetched."""
        self._fetcher.close()

    def begin(self, chunk: int) -> BegunChunk | None:
        """Begin to fetch; None if the chunk has been done meanwhile."""
        rows = self._job.work.rows(self._job.store, self._plan, chunk)
        if rows is None:
            return None
        fetches = [
            None if planned_error else self._fetcher.begin(uri)
            for uri, planned_error in zip(rows["uri"].to_pylist(), rows["planned_error"].to_pylist(), strict=True)
        ]
        return BegunChunk(chunk, rows, fetches)

    def decode(self, begun: BegunChunk) -> DecodedChunk:
        """Wait for the bytes, and decode them in this thread."""
        started_at = time.time()
        unfinished = ask(self._fleet, "decode_begins", begun.chunk)
        isolate = self._isolate or unfinished >= UNFINISHED_BEFORE_ISOLATION
        with IsolatedDecoder(self._job) if isolate else _InProcess(self._job) as decoder:
            images, pixels = self._decode_rows(begun.rows, begun.fetches, decoder)
        ask(self._fleet, "decode_ends", begun.chunk, begun.rows.num_rows)
        fetch_s, decode_s = (
            sum(filter(None, (getattr(image, name) for image in images))) for name in ("fetch_s", "decode_s")
        )
        return DecodedChunk(begun.chunk, with_images(begun.rows, images), pixels, started_at, fetch_s, decode_s)

    def _decode_rows(
        self, rows: pa.Table, fetches: list["Future[Fetched] | None"], decoder: "IsolatedDecoder | _InProcess"
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
        self, fetched: Fetched, image: _Image, decoder: "IsolatedDecoder | _InProcess", target: NDArray[np.uint8]
    ) -> bool:
        """Put one image's pixels into `target`, or the reason why not into `image`."""
        image.fetch_s, image.attempts = fetched.seconds, fetched.attempts
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
        image.attempts = max(fetched.attempts, decoder.attempts)
        image.decode_s = time.perf_counter() - start
        return image.error_kind is None


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
    uris = column_without_credentials(rows["uri"].combine_chunks())
    return rows.set_column(rows.schema.get_field_index("uri"), "uri", uris).drop_columns(["planned_error"])
