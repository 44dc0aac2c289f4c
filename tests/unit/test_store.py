"""Create-if-absent on a local folder."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.stores.local_store import LocalStore
from pipeline.stores.opening import open_store


def test_the_first_create_wins(tmp_path: Path) -> None:
    """The second create of a name loses and changes nothing."""
    store = LocalStore(tmp_path)
    assert store.create("chunks/a", b"one")
    assert not store.create("chunks/a", b"two")
    assert store.read("chunks/a") == b"one"


@pytest.mark.lengthy
def test_sixteen_writers_race_and_one_wins(tmp_path: Path) -> None:
    """Of many creates of one name at once exactly one succeeds, and its bytes stay."""
    store = LocalStore(tmp_path)
    for name in (f"race/{number}" for number in range(20)):
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(lambda writer, name=name: store.create(name, bytes([writer]) * 9), range(16)))
        assert won.count(True) == 1
        assert store.read(name) == bytes([won.index(True)]) * 9


def test_temporary_files_are_not_listed_and_do_not_stay(tmp_path: Path) -> None:
    """A writer that was killed leaves nothing that looks like an object."""
    store = LocalStore(tmp_path)
    store.create("chunks/a", b"one")
    (tmp_path / "chunks/.tmp-killed").write_bytes(b"half")
    assert list(store.list("chunks/")) == ["chunks/a"]
    (tmp_path / "chunks/.tmp-killed").unlink()
    assert os.listdir(tmp_path / "chunks") == ["a"]


def test_upload_creates_from_a_local_file(tmp_path: Path) -> None:
    """A part is published whole, and only if it is not there yet."""
    store = LocalStore(tmp_path / "run")
    part = tmp_path / "part"
    part.write_bytes(b"rows")
    assert store.upload("tags/part-0", part)
    assert not store.upload("tags/part-0", part)
    part.unlink()
    assert store.read("tags/part-0") == b"rows"


def test_replace_is_atomic_and_overwrites(tmp_path: Path) -> None:
    """run.json is replaced as a whole."""
    store = LocalStore(tmp_path)
    store.replace("run.json", b"1")
    store.replace("run.json", b"2")
    assert store.read("run.json") == b"2"
    assert os.listdir(tmp_path) == ["run.json"]


def test_probe_accepts_a_folder_with_hard_links_and_leaves_nothing(tmp_path: Path) -> None:
    """The proof that create-if-absent works cleans up after itself."""
    LocalStore(tmp_path).probe()
    assert os.listdir(tmp_path) == []


def test_probe_refuses_a_store_that_overwrites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a second create succeeds, the run is refused before any work."""
    monkeypatch.setattr(os, "link", lambda source, target: Path(target).write_bytes(Path(source).read_bytes()))
    with pytest.raises(StoreError, match="choose a folder on another file system"):
        LocalStore(tmp_path).probe()


def test_a_run_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    """The error names --out and the reason."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match=r"--out .*file/run: cannot be written"):
        LocalStore(tmp_path / "file/run").create("a", b"")


def test_an_unknown_scheme_is_refused_clearly() -> None:
    """A run can lie in a bucket, but not on every protocol that there is."""
    with pytest.raises(StoreError, match=r"ftp://host/run: a run on ftp:// is not supported; give .* s3://"):
        open_store("ftp://host/run")
