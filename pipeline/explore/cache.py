"""The folder of --cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import InputError


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """For what is written in the cache, whose folder is made. Raises InputError if it cannot be written, or is full."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise InputError(
            f"--cache {folder}: cannot be written: {error.strerror or error}; make room, or name another folder"
        ) from error
