"""Which content a file had when it was planned."""

import os
from pathlib import Path

import pyarrow as pa

from pipeline.manifests.versions import local_version, with_versions


def batch(**columns: list[str | None]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({name: pa.array(values, pa.string()) for name, values in columns.items()})


def test_a_local_file_has_size_and_time(tmp_path: Path) -> None:
    """It changes with either; a missing file, another scheme and a strange name have none."""
    file = tmp_path / "a b.jpg"
    file.write_bytes(b"12345")
    os.utime(file, ns=(7, 9))
    assert local_version(str(file)) == local_version(f"file://{tmp_path}/a%20b.jpg") == "5-9"
    assert [local_version(uri) for uri in (str(tmp_path / "none"), "s3://b/k", "", "a\0b")] == [None] * 4


def test_what_the_reader_or_the_manifest_knows_stays(tmp_path: Path) -> None:
    """Only what is unknown is looked up, in order, over many rows."""
    (tmp_path / "f").write_bytes(b"1")
    os.utime(tmp_path / "f", ns=(1, 2))
    rows = 2000
    uris = [str(tmp_path / "f")] * rows
    versions = [None if row % 2 else f"etag-{row}" for row in range(rows)]
    found = next(with_versions(iter([batch(image_id=uris, uri=uris, version=versions)]), look=True))
    assert found["version"].to_pylist() == ["1-2" if row % 2 else f"etag-{row}" for row in range(rows)]
    assert found.schema.names == ["image_id", "uri", "version"]


def test_not_looked_up_when_told_so(tmp_path: Path) -> None:
    """plan.versions=false asks no file system, and the column is there without values."""
    (tmp_path / "f").write_bytes(b"1")
    found = next(with_versions(iter([batch(image_id=["f"], uri=[str(tmp_path / "f")])]), look=False))
    assert found["version"].to_pylist() == [None]
