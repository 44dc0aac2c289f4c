"""What every index has to keep, by the kinds that need a package or a server."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from index_contract import (  # noqa: F401 - tests
    test_a_feed_that_dies_is_taken_up_again,
    test_a_query_means_the_same_everywhere,
    test_an_index_follows_its_runs,
    test_documents_come_back_whole,
    test_what_is_in_the_index_is_not_written_again,
)
from indexes import LOCAL_KINDS, MadeIndex, NewIndex, needs_package, source
from opensearch_standin import Indices, serve
from synthetic_run import write_run
from typer.testing import CliRunner

from jobs.main import app
from pipeline.errors import InputError
from pipeline.index.ledger import Ledger, connect
from pipeline.index.opensearch_index import bulk_files, identity, push
from pipeline.stores.local_store import LocalStore

pytestmark = pytest.mark.integration

Server = tuple[str, Indices]


@pytest.fixture
def standin() -> Iterator[Server]:
    needs_package("opensearch")
    with serve() as server:
        yield server


@pytest.fixture(params=[*LOCAL_KINDS[1:], "postgres", "opensearch"])
def new_index(request: pytest.FixtureRequest, tmp_path: Path) -> NewIndex:
    kind = request.param
    needs_package(kind)
    if kind == "postgres":
        address = request.getfixturevalue("postgres_server")
        return lambda: MadeIndex(kind, f"{address}#i{uuid.uuid4().hex}")
    if kind == "opensearch":
        address, _ = request.getfixturevalue("standin")
        return lambda: MadeIndex(kind, str(tmp_path / (name := uuid.uuid4().hex)), f"{address}/{name}")
    return lambda: MadeIndex(kind, str(tmp_path / f"{uuid.uuid4().hex}.{kind}"))


def test_duckdb_shows_names(tmp_path: Path) -> None:
    """The views of a DuckDB index have names and scores up to 1, for those who go on with SQL."""
    needs_package("duckdb")
    import duckdb

    out = str(tmp_path / "index.duckdb")
    MadeIndex("duckdb", out).feed(source(tmp_path, [{"b": {0: 700, 6: 950}}]))
    with duckdb.connect(f"{out}/index.duckdb", read_only=True) as database:
        images = database.execute("SELECT tags, scores FROM images WHERE image_id = 'b'").fetchall()
        rows = database.execute("SELECT tag, tag_zh, score FROM image_tags WHERE image_id = 'b' ORDER BY 3").fetchall()
    assert images == [(["dog", "person"], [0.7, 0.95])]
    assert rows == [("dog", "狗", 0.7), ("person", "人", 0.95)]


def test_files_for_opensearch_keep_its_rules(tmp_path: Path) -> None:
    """Each file is a body of _bulk, actions and documents by turns; ids are image ids, long ones as a hash."""
    from opensearchpy.serializer import JSONSerializer

    long = "x" * 513
    made = MadeIndex("opensearch", str(tmp_path / "out"))
    made.feed(source(tmp_path, [{'a\n"ü': {0: 900, 6: 700}, long: {}}]))
    made.feed(source(tmp_path, [{long: {1: 800}}]))
    files = bulk_files(tmp_path / "out")
    assert [file.name for file in files] == ["bulk-0000001.ndjson", "bulk-0000002.ndjson", "bulk-0000003.ndjson"]
    text = [file.read_bytes().decode() for file in files]
    assert all(part.endswith("\n") and "\n\n" not in part for part in text)
    lines = [JSONSerializer().loads(line) for part in text for line in part.splitlines()]
    document = {"doc": 1, "image_id": 'a\n"ü', "uri": '/pictures/a\n"ü', "width": 640, "height": None}
    tags = {"tags": ["dog", "person"], "tags_zh": ["狗", "人"], "tag_ids": [0, 6], "scores": [900, 700]}
    assert lines[0] == {"index": {"_id": 'a\n"ü'}}
    assert lines[1] == {**document, "caption": "picture 0\nof\tmany", **tags, "codes": [0, 29, 68, 768, 790, 860]}
    assert lines[2] == lines[4] == {"index": {"_id": identity(long)}}
    assert lines[6] == {"delete": {"_id": 'a\n"ü'}}
    mapping = json.loads((tmp_path / "out/mapping.json").read_text())
    assert mapping["mappings"]["properties"].keys() == lines[1].keys()


def test_only_what_is_new_is_sent(tmp_path: Path, standin: Server) -> None:
    """A file that a server has taken is not sent again, unless it is to another index."""
    address, indices = standin
    made = MadeIndex("opensearch", str(tmp_path / "out"))
    made.feed(source(tmp_path, [{"a": {0: 900}}]))
    database = connect(tmp_path / "out/state.sqlite", write=True)
    ledger = Ledger(database)
    assert [push(tmp_path / "out", f"{address}/{name}", ledger) for name in ("one", "one", "two")] == [1, 0, 1]
    made.feed(source(tmp_path, [{"b": {0: 900}}]))
    assert push(tmp_path / "out", f"{address}/two", ledger) == 2
    database.close()
    assert (list(indices["one"]), list(indices["two"])) == (["a"], ["b"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("photos", "--push photos: give http(s)://HOST:PORT/INDEX"),
        ("http://user:secret@localhost", "--push http://localhost: give http(s)://HOST:PORT/INDEX"),
    ],
)
def test_wrong_addresses(address: str, message: str, tmp_path: Path) -> None:
    """One line with the address, without a password."""
    needs_package("opensearch")
    database = connect(tmp_path / "state.sqlite", write=True)
    with pytest.raises(InputError) as caught:
        push(tmp_path, address, Ledger(database))
    database.close()
    assert str(caught.value) == message


def test_a_postgres_index_by_its_address(postgres_server: str, tmp_path: Path) -> None:
    """The command line takes an address with a password, and does not show it; without an index it says so."""
    needs_package("postgres")
    write_run(LocalStore(tmp_path / "run"), 100, 1)
    address = f"{postgres_server}#photos"
    said = CliRunner().invoke(app, ["index", str(tmp_path / "run"), "--to", "postgres", "--out", address])
    assert said.exit_code == 0, said.output
    password = urlsplit(postgres_server).password
    assert ": 100 images; 100 new" in said.stdout
    assert said.stdout.startswith("postgresql://127.0.0.1")
    assert password is not None
    assert password not in said.stdout
    found = CliRunner().invoke(app, ["search", address, "tag_3", "--json"])
    assert json.loads(found.stdout)["total"] > 0
    for wrong, message in (("#none", "holds no index"), ("#No", "is no schema: give small letters, digits and _")):
        failed = CliRunner().invoke(app, ["search", f"{postgres_server}{wrong}", "dog"])
        assert isinstance(failed.exception, InputError)
        assert message in str(failed.exception)
        assert password not in str(failed.exception)
    nowhere = f"postgresql://user:{password}@127.0.0.1:9/db"
    failed = CliRunner().invoke(app, ["search", nowhere, "dog"])
    assert isinstance(failed.exception, InputError)
    assert "cannot be reached" in str(failed.exception)


def test_an_index_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    """A folder is fed as what it is, or not at all."""
    needs_package("duckdb")
    made = MadeIndex("duckdb", str(tmp_path / "index"))
    made.feed(source(tmp_path, [{"a": {0: 900}}]))
    before = sorted(path.name for path in (tmp_path / "index").iterdir())
    with pytest.raises(InputError, match="is an index of the kind duckdb: give --to duckdb, or another --out"):
        MadeIndex("opensearch", made.out).feed(source(tmp_path, [{"a": {0: 900}}]))
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == before
