"""Local images only from where they may come from: while a run is planned, and again when each is read."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fetching import fetch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from inputs import assert_refused, read, touch, write

from pipeline.config import Config, FetchConfig, StorageConfig
from pipeline.error_kinds import ERROR_KINDS
from pipeline.fetching.fetcher import Fetcher
from pipeline.fetching.outcome import FetchError
from pipeline.manifests.places import for_fetching

AUTO = Config()


def kind_of(uri: str, *roots: Path) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(uri, roots=tuple(map(str, roots)))
    assert ERROR_KINDS[caught.value.kind].stage == "fetch"
    return caught.value.kind


@pytest.mark.lengthy
def test_reads_stay_below_the_roots(tmp_path: Path) -> None:
    """However a path leads out, it is blocked; whether something is there is not told."""
    touch(tmp_path, "in/a.jpg", "in/sub/b.jpg", "inside/c.jpg", "out/d.jpg")
    root = tmp_path / "in"
    (root / "link.jpg").symlink_to(tmp_path / "out/d.jpg")
    (root / "folder").symlink_to(tmp_path / "out")
    (root / "back").symlink_to(root / "sub")
    for allowed in ("a.jpg", "sub/b.jpg", "sub/../a.jpg", "back/b.jpg", "./a.jpg"):
        assert fetch(f"{root}/{allowed}", roots=(str(root),)) == b"x"
    blocked = [
        "../out/d.jpg",
        "link.jpg",
        "folder/d.jpg",
        "folder/../out/d.jpg",
        "sub/../../out/d.jpg",
        "../inside/c.jpg",
    ]
    for uri in [*(f"{root}/{name}" for name in blocked), "/etc/passwd", "/proc/self/environ", f"{root}/../none.jpg"]:
        assert kind_of(uri, root) == "blocked_path"
    assert kind_of(f"file://{root}/%2e%2e/out/d.jpg", root) == "blocked_path"
    assert kind_of(f"{root}/a.jpg") == "blocked_path"


def test_roots_that_are_links(tmp_path: Path) -> None:
    """A root may be given by its link or by its true path, and so may its images."""
    touch(tmp_path, "true/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "true")
    for root in ("link", "true"):
        for name in ("link/a.jpg", "true/a.jpg"):
            assert fetch(f"{tmp_path}/{name}", roots=(f"{tmp_path}/{root}",)) == b"x"


def test_a_manifest_that_leads_outside_is_refused(tmp_path: Path) -> None:
    """Planning ends with the place and the key that would allow it; then the same manifest is read."""
    touch(tmp_path, "in/a.jpg", "out/b.jpg")
    (tmp_path / "in/far").symlink_to(tmp_path / "out")
    for uri in ("../out/b.jpg", f"{tmp_path}/out/b.jpg", f"file://{tmp_path}/out/b.jpg", "far/b.jpg", "/etc/passwd"):
        path = write(tmp_path / "in/m.txt", f"a.jpg\n{uri}\n")
        assert_refused(path, "m.txt", "fetch.allow_roots", config=AUTO)
        config = Config(fetch=FetchConfig(allow_roots=(f"{tmp_path}/in", f"{tmp_path}/out", "/etc")))
        assert len(read(path, config=config)) == 2
    assert len(read(write(tmp_path / "in/m.txt", "a.jpg\nhttps://h/x.jpg\n\ns3://bucket/k\n"), config=AUTO)) == 3


def test_tars_and_tables_outside_are_refused(tmp_path: Path) -> None:
    """Uris of members are looked at like those of files."""
    for scheme, place in (("tar", "offset=512&size=1&name=a.jpg"), ("parquet", "column=bytes&group=0&row=0")):
        path = write(tmp_path / "m.txt", f"{scheme}+file:///etc/x#{place}\n")
        assert_refused(path, "fetch.allow_roots", "/etc/x", config=AUTO)


def test_a_folder_allows_itself_and_no_link_out_of_it(tmp_path: Path) -> None:
    """A linked folder is refused at planning, a linked file when it is read."""
    touch(tmp_path, "in/a.jpg", "out/b.jpg")
    (tmp_path / "in/b.jpg").symlink_to(tmp_path / "out/b.jpg")
    rows = read(tmp_path / "in", config=AUTO)
    roots = for_fetching(AUTO, str(tmp_path / "in")).fetch.allow_roots
    assert roots == (str(tmp_path / "in"),)
    with Fetcher(FetchConfig(allow_roots=roots)) as fetcher:
        results = [fetcher.begin(uri).result() for _, uri in rows]
    assert [result.error and result.error.kind for result in results] == [None, "blocked_path"]
    (tmp_path / "in/far").symlink_to(tmp_path / "out")
    assert_refused(tmp_path / "in", "fetch.allow_roots", str(tmp_path / "in/far"), config=AUTO)


@pytest.mark.parametrize("given_roots", ["auto", ("/srv",)])
def test_what_an_input_allows(tmp_path: Path, given_roots: object) -> None:
    """Folders, patterns, pictures and archives themselves; a manifest its folder, unless other roots are given."""
    touch(tmp_path, "p/a.jpg", "m.csv", "x.tar", "t.parquet")
    config = Config(fetch=FetchConfig(allow_roots=given_roots))
    more = () if given_roots == "auto" else given_roots
    for name, own in (("p", "p"), ("p/*.jpg", "p"), ("p/a.jpg", "p/a.jpg"), ("x.tar", "x.tar"), ("gone/*", "gone")):
        assert for_fetching(config, f"{tmp_path}/{name}").fetch.allow_roots == (*more, f"{tmp_path}/{own}")
    manifest = (str(tmp_path),) if given_roots == "auto" else more
    assert for_fetching(config, f"{tmp_path}/m.csv").fetch.allow_roots == manifest
    assert for_fetching(config, "s3://bucket/m.csv").fetch.allow_roots == more
    assert for_fetching(config, "https://host/m.csv").fetch.allow_hosts == ()
    assert for_fetching(config, "https://host/p/").fetch.allow_hosts == ("host:443",)


def test_many_folders_cost_bounded_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond a number of folders links are not resolved any more, but a path that is outside as written is refused."""
    monkeypatch.setattr("pipeline.manifests.permission._MOST_RESOLVED", 3)
    lines = [f"d{number}/a.jpg" for number in range(50)]
    assert len(read(write(tmp_path / "m.txt", "\n".join(lines)), config=AUTO)) == 50
    assert_refused(write(tmp_path / "m.txt", "\n".join([*lines, "/etc/passwd"])), "/etc", config=AUTO)


_PARTS = st.sampled_from(
    [
        "..",
        ".",
        "",
        "a.jpg",
        "link",
        "sub",
        "etc",
        "passwd",
        "%2e%2e",
        "%2f",
        "~",
        "\\",
        "\0",
        "é",
        "root",
        "secret.txt",
    ]
)
_STARTS = st.sampled_from(
    ["", "/", "//", "file://", "file:///", "FILE:///", "file://localhost/", "tar+file:///", "parquet+file:///", "root/",
     "{root}/", "file://{root}/", "tar+file://{root}/", "s3://", "gs://b/", "az://", "http://", "http://[", "https://@",
     "http://127.0.0.1:1/", "tar+tar+file:///", "x://", "://", "tar+", "data:,"]
)  # fmt: skip
_ENDS = st.sampled_from(
    ["", "#", "#offset=0&size=9&name=a", "#offset=512&size=9&name=..%2Fa", "#column=bytes&group=0&row=0", "?a=b", "#x"]
)


@pytest.mark.lengthy
@given(st.data())
@example(data=None)
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fuzzed_uris_never_leave_the_roots(fuzzed_place: tuple[Fetcher, Path], data: st.DataObject | None) -> None:
    """Whatever a manifest says: an image's bytes, or a kind of the closed set, and never the secret beside the root."""
    fetcher, root = fuzzed_place
    if data is None:
        uri = f"{root}/link/secret.txt"
    else:
        parts = data.draw(st.lists(st.one_of(_PARTS, st.text(max_size=6)), max_size=6))
        uri = data.draw(_STARTS).replace("{root}", str(root)) + "/".join(parts) + data.draw(_ENDS)
    fetched = fetcher.begin(uri).result(60)
    if fetched.error is None:
        assert fetched.data == b"x"
    else:
        assert fetched.error.kind in ERROR_KINDS
        assert "\n" not in fetched.error.detail


@pytest.fixture(scope="module")
def fuzzed_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Fetcher, Path]]:
    """A root with an image and a link out of it, beside a secret; nothing outside this machine is asked."""
    folder = tmp_path_factory.mktemp("fuzz")
    touch(folder, "root/a.jpg", "root/sub/a.jpg")
    (folder / "secret.txt").write_bytes(b"secret")
    (folder / "root/link").symlink_to(folder)

    def no_name(host: str, port: int) -> list[object]:
        raise OSError(-2, "Name or service not known")

    config = FetchConfig(retries=0, connect_timeout_s=1, read_timeout_s=1, total_timeout_s=3)
    storage = StorageConfig(anonymous=True, endpoint="http://127.0.0.1:1", region="x")
    with Fetcher(config, storage, roots=(str(folder / "root"),), lookup=no_name) as fetcher:
        yield fetcher, folder / "root"
