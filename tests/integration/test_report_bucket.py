"""The report of a run in a bucket."""

import json

import pytest
from synthetic_run import write_run
from typer.testing import CliRunner

from jobs.main import app
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.integration


def test_a_run_in_a_bucket_gets_its_report_there(s3_run: str) -> None:
    """The page lies beside run.json; the other forms are read from the bucket as well."""
    store = open_store(s3_run)
    write_run(store, 500, 50)
    made = CliRunner().invoke(app, ["report", s3_run, "--pictures", "0"])
    assert made.exit_code == 0, made.output
    assert made.output.strip() == f"{s3_run}/report.html"
    assert b"Where time goes" in store.read("report.html")
    figures = json.loads(CliRunner().invoke(app, ["report", s3_run, "--json"]).output)
    assert figures["cost"]["run"]["images"] == 500
    same = CliRunner().invoke(app, ["compare", s3_run, s3_run, "--json"])
    assert json.loads(same.output)["agreement"]["same"] == 500
