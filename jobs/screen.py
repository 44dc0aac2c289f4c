"""The screen belongs to us: what libraries write to standard output and error goes to a log file."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from pipeline.errors import StoppedError, StoreError


@contextmanager
def on_screen(run: str) -> Iterator[Console]:
    """A console for a long command on a run; an interrupt, or SIGTERM, becomes a StoppedError."""
    signal.signal(signal.SIGTERM, _interrupt)
    log = log_of(run)
    try:
        with screen(log) as console:
            yield console
            console.print(f"Log of the libraries: {log}", style="dim", markup=False)
    except KeyboardInterrupt:
        raise StoppedError("interrupted; run the same command again to go on") from None


def log_of(run: str) -> Path:
    """Where libraries write to: into a local run's folder; beside the temporary files for a run in a bucket."""
    if "://" not in run:
        return Path(run).absolute() / "logs/driver.log"
    return Path(tempfile.mkdtemp(prefix="ramfleet-log-")) / "driver.log"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def screen(log: Path) -> Iterator[Console]:
    """A console on the real standard output; within, file descriptors 1 and 2 write to the log.

    Redirecting the descriptors, not just sys.stdout, also catches child processes and compiled code.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError as error:
        raise StoreError(f"{log}: cannot be written: {error.strerror}") from error
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as terminal:
        try:
            for standard in (1, 2):
                os.dup2(descriptor, standard)
            yield Console(file=terminal, soft_wrap=not terminal.isatty())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for standard, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, standard)
                os.close(copy)
            os.close(descriptor)
