"""Bytes of local files, and why they cannot be had."""

import os
from pathlib import Path

import pytest

from pipeline.config import FetchConfig
from pipeline.error_kinds import ERROR_KINDS
from pipeline.fetch import FetchError, fetch


def kind_of(uri: str, config: FetchConfig | None = None) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(uri, config or FetchConfig())
    assert ERROR_KINDS[caught.value.kind].stage == "fetch"
    assert "\n" not in caught.value.detail
    return caught.value.kind


def test_paths_and_file_uris_give_the_bytes(tmp_path: Path) -> None:
    """A plain path, and a file:// uri with escaped characters."""
    path = tmp_path / "a b%.jpg"
    path.write_bytes(b"bytes")
    assert fetch(str(path), FetchConfig()) == b"bytes"
    assert fetch(path.as_uri(), FetchConfig()) == b"bytes"


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    """A missing file, a folder, a path through a file, an empty uri, impossible names."""
    (tmp_path / "file").write_bytes(b"x")
    for uri in (tmp_path / "none", tmp_path, tmp_path / "file/x", "", "\0", "x" * 5000, "é" * 300):
        assert kind_of(str(uri)) == "not_found"


def test_a_larger_file_is_not_read(tmp_path: Path) -> None:
    """fetch.max_image_bytes is looked at before the file is read."""
    path = tmp_path / "big"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    assert kind_of(str(path)) == "too_large"


def test_other_schemes_are_named() -> None:
    """A uri that no reader here understands is a reject, not an error."""
    assert kind_of("gopher://host/x.jpg") == "unsupported_uri"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_forbidden(tmp_path: Path) -> None:
    """The right to read is missing."""
    path = tmp_path / "secret"
    path.touch(mode=0o000)
    assert kind_of(str(path)) == "forbidden"
