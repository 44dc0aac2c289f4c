"""Replicas to be measured: processes with the model that warm up and run when they are told to."""

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from ramcore.errors import RamcoreError


@contextmanager
def replica_processes(
    count: int, bundle: str, device: str, dtype: str, compiled: bool, threads: int
) -> Iterator[list[Connection]]:
    """Connections to so many processes, each with the model; they end with the block, and with this process.

    Each first says that it is loaded; then it answers ("warm up", images) with None and ("run", seconds) with images/s
    and its peak memory in bytes: on a card what PyTorch allocated, on a CPU the process's resident memory. An answer
    that is a text says what went wrong.
    """
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    processes = [
        context.Process(target=_serve, args=(theirs, bundle, device, dtype, compiled, threads), daemon=True)
        for _, theirs in pipes
    ]
    try:
        for process in processes:
            process.start()
        for _, theirs in pipes:
            theirs.close()
        yield [ours for ours, _ in pipes]
    finally:
        for ours, _ in pipes:
            ours.close()
        for process in processes:
            if process.pid is not None:
                process.terminate()
                process.join()


def ask_all(replicas: list[Connection], question: tuple[str, float]) -> list[Any]:
    """The answers of all replicas to a question that they get at the same time."""
    try:
        for replica in replicas:
            replica.send(question)
    except OSError:
        return [_DIED]
    return [receive(replica) for replica in replicas]


def receive(replica: Connection) -> Any:
    """The next answer of a replica; a text where it is dead."""
    try:
        return replica.recv()
    except (EOFError, OSError):
        return _DIED


_DIED = "a replica's process died, of too little memory perhaps"


def _serve(pipe: Connection, bundle: str, device: str, dtype: str, compiled: bool, threads: int) -> None:
    """A replica: loads the model, then answers questions until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    import torch

    try:
        replica = _Replica(bundle, device, dtype, compiled, threads)
        pipe.send(None)
        while True:
            question, argument = pipe.recv()
            if question == "warm up":
                replica.warm_up(int(argument))
                pipe.send(None)
            else:
                pipe.send(replica.run(argument))
    except torch.cuda.OutOfMemoryError:
        pipe.send("out of memory on the card")
    except (EOFError, BrokenPipeError):
        return
    except (RuntimeError, RamcoreError, ValueError) as error:
        pipe.send(str(error).strip().splitlines()[0])


class _Replica:
    def __init__(self, bundle: str, device: str, dtype: str, compiled: bool, threads: int) -> None:
        import torch

        import ramcore

        torch.set_num_threads(threads)
        self._cuda = device.startswith("cuda")
        self._tagger = ramcore.load(bundle, device=device, dtype=dtype)
        if compiled:
            self._tagger.compile()
        if not self._cuda:
            self._tagger.release_model()
        self._pixels: Any = None

    def warm_up(self, microbatch: int) -> None:
        import numpy as np
        import torch

        size = self._tagger.config.image_size
        self._pixels = np.random.default_rng(0).integers(0, 256, (microbatch, size, size, 3), dtype=np.uint8)
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        self._tagger.scores(self._pixels)

    def run(self, seconds: float) -> tuple[float, int]:
        """Images/s, and peak memory in bytes; at least one micro-batch."""
        started, images = time.perf_counter(), 0
        while True:
            self._tagger.scores(self._pixels)
            images += len(self._pixels)
            elapsed = time.perf_counter() - started
            if elapsed >= seconds:
                return images / elapsed, self._peak_bytes()

    def _peak_bytes(self) -> int:
        import resource

        import torch

        if self._cuda:
            return int(torch.cuda.max_memory_allocated())
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
