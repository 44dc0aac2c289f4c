"""The screen belongs to us: what libraries write to standard output and error goes to a log file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from pipeline.errors import StoreError


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
