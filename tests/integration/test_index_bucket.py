"""`ramfleet index` on runs in a bucket."""

from pathlib import Path

import pytest
from committed_run import commit_all, plan_run
from typer.testing import CliRunner

import pipeline.index
from jobs.main import app
from pipeline.errors import InputError
from pipeline.finalize import finalize
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.integration

IDS = [f"i{number}" for number in range(10)]


def test_a_run_in_a_bucket(s3_run: str, tmp_path: Path, tiny_bundle: Path) -> None:
    """Committed chunks and published parts are read from the bucket; the index is on a local disk."""
    store, index = open_store(s3_run), tmp_path / "index.sqlite"
    commit_all(store, plan_run(store, tiny_bundle, IDS))
    for changed in ("10 new", "0 new"):
        result = CliRunner().invoke(app, ["index", s3_run, "--out", str(index)])
        assert result.exit_code == 0, result.output
        assert f"10 images; {changed}, 0 changed, 0 removed" in result.stdout
        finalize(store)
    with pipeline.index.open(index) as opened:
        assert opened.search("*").total == 10
    result = CliRunner().invoke(app, ["index", s3_run])
    assert isinstance(result.exception, InputError)
    assert str(result.exception) == f"{s3_run} is in a bucket, an index is on a local disk: name it with --out"
