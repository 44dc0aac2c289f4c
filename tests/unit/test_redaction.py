"""No credentials in messages and tables."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.decode import _Image, with_images
from pipeline.fetching.redaction import column_without_credentials, redacted, without_credentials
from pipeline.pins import absolute
from pipeline.plan import make_plan
from pipeline.stores.local_store import LocalStore


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:sesame@host/a.jpg",
        "https://sesame@host/a.jpg",
        "https://host/a.jpg?X-Amz-Credential=sesame&X-Amz-Signature=sesame&X-Amz-Date=sesame",
        "https://host/a.jpg?Expires=1&Signature=sesame&Key-Pair-Id=sesame",
        "https://host/a.jpg?sv=1&sig=sesame",
        "https://host/a.jpg?X-Goog-Signature=sesame",
        "https://host/a.jpg?access_token=sesame",
        "https://host/a.jpg?api_key=sesame",
        "tar+https://user:sesame@host/a.tar?sig=sesame#offset=512&size=1&name=a.jpg",
    ],
)
def test_credentials_are_cut(uri: str) -> None:
    """User, password and signature are in neither form; host and path stay."""
    for cut in (redacted(uri), without_credentials(uri)):
        assert "sesame" not in cut
        assert "host/a." in cut


@pytest.mark.parametrize(
    "uri",
    [
        "https://host/a.jpg?id=7&size=large",
        "/data/a?token=x.jpg",
        "a@b.jpg",
        "s3://bucket/a@b.jpg",
        "",
        "https://h/a#b?c",
    ],
)
def test_what_tells_images_apart_stays(uri: str) -> None:
    """Other parameters, local paths and keys are left as they are in tables."""
    assert without_credentials(uri) == uri


def test_parameters_around_a_signature_stay() -> None:
    """Only the parameter itself is cut out."""
    assert without_credentials("https://h/a?id=7&sig=x&w=1") == "https://h/a?id=7&w=1"
    assert without_credentials("https://h/a?sig=x#frag") == "https://h/a#frag"


def test_columns_keep_their_nulls() -> None:
    """A null stays null beside a uri that is cut."""
    column = pa.array(["https://h/a?sig=x", None, "b"])
    assert column_without_credentials(column).to_pylist() == ["https://h/a", None, "b"]


def test_duplicates_and_pins_hold_no_signature(tmp_path: Path) -> None:
    """The table of duplicates is published as planned; INPUT is pinned without its signature."""
    uri = "https://h/a.jpg?sig=sesame"
    rows = pa.RecordBatch.from_pydict({"image_id": ["a", "a"], "uri": [uri, uri]})
    store = LocalStore(tmp_path / "run")
    plan = make_plan(iter([rows]), store, 2, None, {})
    with store.open(plan.duplicates_name) as file:
        assert pq.read_table(file).to_pylist() == [{"image_id": "a", "uri": "https://h/a.jpg"}]
    assert plan.read_chunk(store, 0)["uri"].to_pylist() == [uri]
    assert absolute("https://h/list.csv?sig=sesame&v=2") == "https://h/list.csv?v=2"


def test_rows_on_their_way_to_a_chunk_hold_no_signature() -> None:
    """What decoding hands on is what the tables will say."""
    uri = "https://user:sesame@h/a.jpg?sig=sesame"
    rows = pa.table({"image_id": ["a"], "uri": [uri], "chunk": [0], "planned_error": pa.nulls(1, pa.string())})
    found = with_images(rows, [_Image()])
    assert found["uri"].to_pylist() == ["https://h/a.jpg"]
