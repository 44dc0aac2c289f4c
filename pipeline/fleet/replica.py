"""A replica: one process that holds the model and tags the images of one lease at a time."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.cards.placement import Placement
from pipeline.fleet.microbatch import Microbatch
from pipeline.tables.selection import Selection, floors, merge, select
from ramcore.errors import BundleError

_REPORT_EVERY_S = 0.5

_Answer = tuple[NDArray[np.float32], list[str]]


@dataclass(frozen=True)
class ReplicaSpec:
    """All that a replica needs to know of the run.

    bundle_hash: of the bundle that the run was planned with; captions: whether to write them.
    """

    bundle: str
    bundle_hash: str
    score_floor: Literal["auto"] | float
    top_k: int
    captions: bool = False


class CardFaultError(RuntimeError):
    """The model computes nonsense on this device."""


@dataclass(frozen=True)
class Tagged:
    """What a replica answers: stored scores, captions (None where not asked for), and how the model was run.

    microbatch: images through the model at once, as many as memory has allowed since the replica started;
    ended_at: when the model was done, seconds since 1970 by the replica's own clock.
    """

    selection: Selection
    tags: int
    model_s: float
    dtype: str
    microbatch: int
    peak_vram_bytes: int | None
    pid: int
    ended_at: float
    captions: list[str] | None = None


@dataclass
class Replica:
    """The model on one device. Runs as a Ray actor, and in-process in tests.

    report: called with the number of images done, now and then while work runs.
    Raises BundleError for another bundle than planned, CardFaultError if the model computes no finite scores here.
    """

    spec: ReplicaSpec
    placement: Placement
    report: Callable[[int], None]
    _reported_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._tagger: Any = self._load()
        if self._tagger.bundle_hash != self.spec.bundle_hash:
            raise BundleError(f"{self.spec.bundle} is not the bundle that the run was planned with; put that one back")
        self._thresholds = np.asarray(self._tagger.vocabulary.thresholds, dtype=np.float32)
        self._floors = floors(self._thresholds, self.spec.score_floor)
        self._microbatch = Microbatch(self.placement.microbatch)
        self._warm_up()

    def _load(self) -> Any:
        """The model as `ramcore.load` gives it, within the replica's share of threads and memory."""
        import torch

        import ramcore

        torch.set_num_threads(self.placement.threads)
        if self.placement.memory_share is not None:
            torch.cuda.set_per_process_memory_fraction(self.placement.memory_share)
        tagger = ramcore.load(self.spec.bundle, device=self.placement.device, dtype=self.placement.dtype)
        if self.placement.compiled:
            tagger.compile()
        if self.placement.device == "cpu":
            tagger.release_model()
        return tagger

    def ready(self) -> int:
        """Answers when the model is loaded and nothing is queued before this call; the process id."""
        import os

        return os.getpid()

    def tag(self, pixels: NDArray[np.uint8], first: int, last: int) -> Tagged:
        """Stored scores of images first … last-1 of uint8 [n, S, S, 3].

        Raises torch.OutOfMemoryError where not even one image fits.
        """
        start = time.perf_counter()
        parts, captions, unreported = [], [], 0
        for scores, texts in self._by_microbatch(pixels[first:last]):
            captions += texts
            parts.append(select(scores, self._thresholds, self._floors, self.spec.top_k))
            unreported = self._report(unreported + len(scores))
        self.report(unreported)
        return Tagged(
            selection=merge(parts),
            tags=len(self._thresholds),
            model_s=time.perf_counter() - start,
            dtype=self.placement.dtype,
            microbatch=self._microbatch.size,
            peak_vram_bytes=self._peak_vram(),
            pid=self.ready(),
            ended_at=round(time.time(), 3),  # in the chunk and in the events it is the same millisecond
            captions=captions if self.spec.captions else None,
        )

    def _by_microbatch(self, pixels: NDArray[np.uint8]) -> Iterator[_Answer]:
        """Scores [n, tags] and captions, none where they are not asked for, of one micro-batch after the other.

        A card computes the next one while the caller uses the last; a CPU's is the caller's as soon as it is there.
        """
        ahead = self.placement.device == "cuda" and not self.spec.captions
        begun: Callable[[], _Answer] | None = None
        while len(pixels):
            images, following = self._begin_what_fits(pixels)
            pixels = pixels[images:]
            if begun is not None:
                yield begun()
            begun = following
            if not ahead:
                yield begun()
                begun = None
        if begun is not None:
            yield begun()

    def _begin_what_fits(self, pixels: NDArray[np.uint8]) -> tuple[int, Callable[[], _Answer]]:
        """Start the first micro-batch, a smaller one if memory runs out; its length, and a call that waits for it."""
        import torch

        while True:
            size = min(self._microbatch.size, len(pixels))
            # What was compiled is for one number of images: another one would be compiled anew, in mid-run.
            run = self._microbatch.size if self.placement.compiled else size
            try:
                begun = self._begin(_filled(pixels[:size], run), size)
            except torch.OutOfMemoryError:
                if run == 1:
                    raise
                self._microbatch.did_not_fit(run)
                torch.cuda.empty_cache()
            else:
                self._microbatch.did_fit(run)
                return size, begun

    def _begin(self, pixels: NDArray[np.uint8], images: int) -> Callable[[], _Answer]:
        """What waits for the answer for the first so many of the images."""
        if self.spec.captions:
            scores, captions = self._tagger.scores_and_captions(pixels)
            return lambda: (scores[:images].numpy(), captions[:images])
        pending = self._tagger.begin(pixels)
        return lambda: (pending.scores()[:images].numpy(), [])

    def _report(self, images: int) -> int:
        """Report the images done, but not too often; how many are still unreported."""
        now = time.monotonic()
        if now - self._reported_at < _REPORT_EVERY_S:
            return images
        self._reported_at = now
        self.report(images)
        return 0

    def _warm_up(self) -> None:
        """Black images through the model, so that the first lease does not pay for first-call costs.

        Its scores show whether the device can compute at all.
        """
        size = self._tagger.config.swin.image_size
        images = self._microbatch.size if self.placement.device == "cuda" else 1
        black = np.zeros((images, size, size, 3), dtype=np.uint8)
        if not all(np.isfinite(scores).all() for scores, _ in self._by_microbatch(black)):
            place = self.placement
            raise CardFaultError(f"the model's scores are not finite in {place.dtype} on this {place.device} device")

    def _peak_vram(self) -> int | None:
        import torch

        return torch.cuda.max_memory_allocated() if self.placement.device == "cuda" else None


def _filled(pixels: NDArray[np.uint8], images: int) -> NDArray[np.uint8]:
    """The images, and black ones up to that number."""
    black = np.zeros((images - len(pixels), *pixels.shape[1:]), dtype=np.uint8)
    return np.concatenate([pixels, black]) if len(black) else pixels
