"""Training scenes, drawn ahead of the trainer in other processes."""

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.process import BaseProcess

from ramcore.scenes.canvas import Pixels
from ramcore.scenes.drawing import Targets, draw_located_batch

Batch = tuple[Pixels, Targets, Targets]

# Scene seeds of the splits lie far apart, so that no scene is in two of them.
SPLITS = {"train": 0, "validation": 1 << 48, "calibration": 2 << 48, "test": 3 << 48, "demo": 4 << 48}
_RUN = 1 << 32


def scene_seeds(split: str, count: int, start: int = 0, run: int = 0) -> range:
    """Seeds of scenes start … start + count − 1 of a split; `run` gives each training seed its own scenes."""
    first = SPLITS[split] + run * _RUN + start
    return range(first, first + count)


def stream_batches(
    batch_size: int,
    batches: int,
    size: int,
    grid: int,
    *,
    run: int = 0,
    workers: int = 1,
    easy: int = 0,
    ahead: int = 16,
) -> Generator[Batch, None, None]:
    """Batches of fresh training scenes, always the same ones in the same order for the same `run`.

    Yields images uint8 [batch_size, size, size, 3], targets float32 [batch_size, tags] and where they are,
    float32 [batch_size, grid², tags] (`ramcore.scenes.drawing.draw_located_batch`). workers: drawing
    processes, 0 draws in this one; easy: how many of the first batches have mostly big single objects; ahead:
    batches drawn in advance.
    """
    seeds = (scene_seeds("train", batch_size, batch_size * i, run) for i in range(batches))
    if workers == 0:
        yield from (draw_located_batch(chunk, size, grid, easy=i < easy) for i, chunk in enumerate(seeds))
        return
    # spawn: a fork of a process whose PyTorch threads run may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        waiting: deque[Future[Batch]] = deque()
        try:
            for i, chunk in enumerate(seeds):
                waiting.append(pool.submit(draw_located_batch, chunk, size, grid, easy=i < easy))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _end_with_parent() -> None:
    """Let a drawing process end when the trainer was killed; the pool alone would leave it waiting for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()


def _exit_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)
