"""Manifests, prefixes, archives and images in a bucket of a real S3 server."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_server import PICTURE, serving

from pipeline.config import Config, FetchConfig, StorageConfig
from pipeline.errors import InputError
from pipeline.fetching.buckets import bucket_store
from pipeline.fetching.fetcher import Fetcher
from pipeline.manifests.manifest import open_input
from pipeline.manifests.places import for_fetching, still_there

if TYPE_CHECKING:
    from conftest import S3

pytestmark = pytest.mark.integration

FETCH = FetchConfig(backoff_s=0.01, connect_timeout_s=2, read_timeout_s=2, total_timeout_s=5)
CONFIG = Config(fetch=FETCH)


def put(s3: "S3", files: dict[str, bytes]) -> None:
    store = bucket_store("s3", s3.bucket, FETCH, StorageConfig())
    for key, data in files.items():
        obstore.put(store, key, data)


def rows(uri: str, config: Config = CONFIG) -> list[tuple[str, str]]:
    table = pa.Table.from_batches(open_input(uri, config=config).batches())
    return list(zip(table["image_id"].to_pylist(), table["uri"].to_pylist(), strict=True))


def fetched(uris: list[str], config: Config = CONFIG) -> list[bytes | None]:
    with Fetcher(config.fetch, config.storage) as fetcher:
        return [future.result(30).data for future in [fetcher.begin(uri) for uri in uris]]


@pytest.fixture(scope="module")
def pictures(s3: "S3") -> dict[str, bytes]:
    """Objects below p/, some with names that need care."""
    files = {f"p/{name}": name.encode() for name in ("a.jpg", "b c%41.png", "é/ü+&=.webp", "x/y/z.jpeg", "#1.jpg")}
    put(s3, {**files, "p/notes.txt": b"no image", "p/.hidden/h.jpg": b"hidden", "pq/other.jpg": b"beside"})
    return files


def test_a_prefix(s3: "S3", pictures: dict[str, bytes]) -> None:
    """All images below it, in the store's order; names beside it, hidden ones and other files are passed over."""
    for uri in (s3.uri("p"), s3.uri("p/")):
        opened = open_input(uri, config=CONFIG)
        assert opened.kind == "directory"
        found = pa.Table.from_batches(opened.batches()).to_pylist()
        assert [row["image_id"] for row in found] == sorted((key[2:] for key in pictures), key=str.encode)
        assert opened.skipped == 1
        assert fetched([row["uri"] for row in found]) == [pictures["p/" + row["image_id"]] for row in found]


def test_versions_change_with_the_content(s3: "S3") -> None:
    """A listing tells of each object what a later run with --base compares: the etag."""

    def versions() -> dict[str, str]:
        table = pa.Table.from_batches(open_input(s3.uri("v"), config=CONFIG).batches())
        return dict(zip(table["image_id"].to_pylist(), table["version"].to_pylist(), strict=True))

    put(s3, {"v/a.jpg": b"one", "v/b.jpg": b"two"})
    before = versions()
    put(s3, {"v/a.jpg": b"one", "v/b.jpg": b"new"})
    after = versions()
    assert before["a.jpg"] == after["a.jpg"] == hashlib.md5(b"one", usedforsecurity=False).hexdigest()
    assert before["b.jpg"] != after["b.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"), [("p/*.jpg", ["#1.jpg", "a.jpg"]), ("p/**/*.jp*g", ["#1.jpg", "a.jpg", "x/y/z.jpeg"])]
)
def test_a_glob(s3: "S3", pictures: dict[str, bytes], pattern: str, expected: list[str]) -> None:
    """As on local disk; ids are relative to the folder in front of the pattern."""
    assert rows(s3.uri(pattern)) == [(name, s3.uri(f"p/{name}")) for name in expected]


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv", "jsonl", "json", "txt", "csv.gz", "txt.gz"])
def test_manifests(s3: "S3", pictures: dict[str, bytes], ending: str) -> None:
    """Every format, packed or not; relative uris are relative to the manifest's prefix."""
    uris = ["a.jpg", "x/y/z.jpeg", s3.uri("p/#1.jpg")]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"uri": uris}), buffer)
    contents = {
        "parquet": buffer.getvalue(),
        "csv": ("uri\n" + "\n".join(uris)).encode(),
        "tsv": ("uri\tn\n" + "\t1\n".join([*uris, ""])).encode(),
        "jsonl": "\n".join(json.dumps({"uri": uri}) for uri in uris).encode(),
        "json": json.dumps([{"uri": uri} for uri in uris]).encode(),
        "txt": "\n".join(uris).encode(),
    }
    data = contents[ending.removesuffix(".gz")]
    put(s3, {f"p/list.{ending}": gzip.compress(data) if ending.endswith(".gz") else data})
    found = rows(s3.uri(f"p/list.{ending}"))
    assert found == list(zip(uris, [s3.uri("p/a.jpg"), s3.uri("p/x/y/z.jpeg"), uris[2]], strict=True))


def test_tars_and_tables(s3: "S3") -> None:
    """Members are read by range, cells through Parquet; both side by side."""
    data = [os.urandom(50_000 + number) for number in range(40)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, each in enumerate(data):
            info = tarfile.TarInfo(f"{number:03d}.jpg")
            info.size = len(each)
            tar.addfile(info, io.BytesIO(each))
    table = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": each, "path": "x"} for each in data]}), table, row_group_size=7)
    put(s3, {"t/0.tar": buffer.getvalue(), "t/1.tar": buffer.getvalue(), "t/0.parquet": table.getvalue()})
    found = rows(s3.uri("t/*.tar"))
    assert [key for key, _ in found] == [f"{tar}.tar/{number:03d}.jpg" for tar in (0, 1) for number in range(40)]
    assert fetched([uri for _, uri in found]) == data * 2
    cells = rows(s3.uri("t/0.parquet"))
    assert fetched([uri for _, uri in cells]) == data


def test_kinds_of_faults(s3: "S3", pictures: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing objects and buckets, wrong keys, no keys; nothing of the keys is told."""
    uris = [s3.uri(key) for key in ("p/none.jpg", "p//a.jpg", "p/../a.jpg", "")] + ["s3://no-such-bucket-here/a.jpg"]
    with Fetcher(FETCH) as fetcher:
        kinds = [fetcher.begin(uri).result(30).error for uri in uris]
    assert [error and error.kind for error in kinds] == ["not_found"] * 5
    with Fetcher(FETCH.model_copy(update={"max_image_bytes": 3})) as fetcher:
        error = fetcher.begin(s3.uri("p/a.jpg")).result(30).error
        assert error is not None
        assert (error.kind, error.attempts) == ("too_large", 1)
    with Fetcher(FETCH, StorageConfig(anonymous=True)) as fetcher:
        error = fetcher.begin(s3.uri("p/a.jpg")).result(30).error
        assert error is not None
        assert (error.kind, error.attempts) == ("forbidden", 1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with Fetcher(FETCH) as fetcher:
        error = fetcher.begin(s3.uri("p/a.jpg")).result(30).error
        assert error is not None
        assert (error.kind, error.attempts) == ("forbidden", 1)
        assert os.environ["AWS_ACCESS_KEY_ID"] not in error.detail
    with pytest.raises(InputError, match="forbidden"):
        rows(s3.uri("p"))


def test_profiles(s3: "S3", pictures: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, endpoint and region of a profile of the configuration files."""
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    for name in (*keys, "AWS_ENDPOINT_URL", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "config").write_text(
        f"[profile lab]\nendpoint_url = {s3.endpoint}\nregion = us-east-1\n"
        + "".join(f"{name.lower()} = {value}\n" for name, value in keys.items())
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    config = Config(fetch=FETCH, storage=StorageConfig(profile="lab"))
    assert fetched([s3.uri("p/a.jpg")], config) == [b"a.jpg"]
    assert rows(s3.uri("p/*.jpg"), config)[0][0] == "#1.jpg"


def test_inputs_that_are_not_there(s3: "S3") -> None:
    """A missing object, an empty pattern and a dead server are told in one line."""
    for uri, words in ((s3.uri("nothing"), "no such object"), (s3.uri("nothing/*.jpg"), "no file matches")):
        with pytest.raises(InputError, match=words):
            rows(uri)
    dead = Config(fetch=FETCH, storage=StorageConfig(endpoint="http://127.0.0.1:1"))
    with pytest.raises(InputError, match="connection: no connection to the store"):
        rows(s3.uri("p"), dead)


def test_still_there(s3: "S3", pictures: dict[str, bytes]) -> None:
    """Prefixes, patterns and objects that can be reached, and those that cannot."""
    for key in ("p", "p/*.jpg", "p/a.jpg"):
        assert still_there(s3.uri(key), CONFIG)
    assert not still_there(s3.uri("gone"), CONFIG)
    dead = Config(fetch=FETCH, storage=StorageConfig(endpoint="http://127.0.0.1:1"))
    assert not still_there(s3.uri("p"), dead)


def test_listing_streams(s3: "S3") -> None:
    """Thousands of keys are listed page by page: the first come before the last are asked for, in little memory."""
    put(s3, {f"many/{number:05d}.jpg": b"" for number in range(3000)})
    with Fetcher(FETCH) as fetcher:
        objects = fetcher.buckets.objects(s3.uri("many"))
        tracemalloc.start()
        count = sum(1 for _ in objects)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert count == 3000
    assert peak < 3 << 20
    assert len(rows(s3.uri("many"))) == 3000


@pytest.fixture
def slow_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys for servers that are no stores."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.mark.usefixtures("slow_store")
@pytest.mark.parametrize(
    ("behaviour", "kind", "attempts"),
    [
        ("hang", "timeout", 3),
        ("reset", "connection", 3),
        ("nothing", "connection", 3),
        ("garbage", "bad_response", 3),
        ("status/500", "http_5xx", 3),
        ("status/429", "throttled", 3),
        ("status/403", "forbidden", 1),
        ("status/400", "http_4xx", 1),
    ],
)
def test_stores_that_misbehave(behaviour: str, kind: str, attempts: int) -> None:
    """The right kind, and as many requests as attempts: obstore makes none of its own."""
    quick = FETCH.model_copy(update={"read_timeout_s": 0.4, "total_timeout_s": 1, "retries": 2})
    bucket, _, key = behaviour.partition("/")
    with serving() as server:
        storage = StorageConfig(endpoint=server.url(""))
        path = f"/{bucket}/{key or 'x'}"
        with Fetcher(quick, storage) as fetcher:
            result = fetcher.begin(f"s3:/{path}").result(30)
        assert result.error is not None
        assert (result.error.kind, result.attempts, server.requests[path]) == (kind, attempts, attempts)


def test_inputs_on_the_web(tmp_path: Path) -> None:
    """A manifest, a page of links, a tar and Parquet, from a server that knows ranges; the host allows itself."""
    with serving() as server:
        config = Config(fetch=FETCH.model_copy(update={"allow_hosts": (f"127.0.0.1:{server.port}",)}))
        found = rows(server.url("/files/list.txt?sig=sesame"), config)
        assert found == [("fine.jpg", server.url("/files/fine.jpg")), ("sub/b.jpg", server.url("/files/sub/b.jpg"))]
        assert fetched([found[0][1]], config) == [PICTURE]
        assert fetched([found[0][1]], Config(fetch=FETCH)) == [None]
        itself = Config(fetch=FETCH)
        for name, ids in (
            ("/files/", ["fine.jpg", "sub/b.jpg"]),
            ("/files/*.jpg", ["fine.jpg"]),
            ("/files/x.tar", ["x.tar/a.jpg"]),
            ("/files/x.parquet", ["row:0"]),
        ):
            listed = rows(server.url(name), itself)
            assert [key for key, _ in listed] == ids
            allowed = for_fetching(itself, server.url(name))
            assert fetched([uri for _, uri in listed], allowed) == [PICTURE] * len(ids)
        with pytest.raises(InputError, match="not_found: status 404"):
            rows(server.url("/files/none.csv"), itself)
        assert still_there(server.url("/files/x.tar"), itself)
        assert not still_there(server.url("/files/none.csv"), itself)
