"""A run folder that cannot be written any more."""

import errno
from pathlib import Path

import pytest
from synthetic_run import Cards, write_run
from typer.testing import CliRunner

from jobs.main import app
from pipeline.errors import StoreError
from pipeline.stores.local_store import LocalStore


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    """As on a file system that became read-only: nothing can be put in the report's place, nor anything removed."""
    store = LocalStore(tmp_path)
    write_run(store, images=10, attempts=2, fleet=[Cards("t4", "T4", 1, 20.0)])
    (tmp_path / "report.html").mkdir()

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    return store


def test_what_cannot_be_removed_either_is_one_error(store: LocalStore) -> None:
    """That of the write, not that of tidying up after it."""
    with pytest.raises(StoreError, match="cannot be written: Is a directory"):
        store.replace("report.html", b"")


@pytest.mark.lengthy
def test_a_report_says_how_to_write_it_elsewhere(store: LocalStore, tmp_path: Path) -> None:
    """And --out does so."""
    result = CliRunner().invoke(app, ["report", store.root, "--pictures", "0"])
    assert isinstance(result.exception, StoreError)
    assert str(result.exception).endswith(f"`ramfleet report {store.root} --out FILE.html` writes it elsewhere")
    elsewhere = tmp_path / "elsewhere.html"
    assert CliRunner().invoke(app, ["report", store.root, "--pictures", "0", "--out", str(elsewhere)]).exit_code == 0
    assert elsewhere.read_text().startswith("<!doctype html>")
