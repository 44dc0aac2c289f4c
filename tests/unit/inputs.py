"""Reading of inputs, as their tests need it."""

import gzip

import pyarrow as pa
import pytest

from pipeline.config import Config, FetchConfig
from pipeline.errors import InputError
from pipeline.manifests.manifest import open_input

ANYWHERE = Config(fetch=FetchConfig(allow_roots=("/",)))
"""Rows may lead to any local file."""


def read(uri, keep=(), **options):
    """The rows of an input as tuples (image_id, uri, kept columns…)."""
    options.setdefault("config", ANYWHERE)
    table = pa.Table.from_batches(open_input(str(uri), keep, **options).batches())
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def assert_refused(uri, *words, keep=(), **options):
    """The input is refused, at once or while it is read, in one line that has all the words."""
    with pytest.raises(InputError) as caught:
        read(uri, keep, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def write(path, content):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path
