"""Tars of images and Parquet with images: indexed, named by uris, read in place."""

import io
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fetching import fetch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from inputs import assert_refused, read

from pipeline.config import Config, FetchConfig, ManifestConfig
from pipeline.error_kinds import ERROR_KINDS
from pipeline.fetching.archives import ArchiveError, index_tar, member_content, member_span
from pipeline.fetching.fetcher import Fetcher
from pipeline.fetching.members import Cell, TarMember, is_safe_name, parse_member
from pipeline.fetching.outcome import FetchError


def make_tar(path: Path, files: dict[str, bytes], form: int = tarfile.GNU_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.lengthy
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_become_rows_and_are_read_by_range(tmp_path: Path, form: int) -> None:
    """Every image of a tar, whatever its name and the tar's format; other members are passed over."""
    long = "d" * 90 + "/" + "x" * 60 + ".jpg"
    files = {"a.jpg": b"1", "a.json": b"{}", "sub/b c&=#%.png": b"22" * 999, long: b"3", "é.webp": b"4"}
    rows = read(make_tar(tmp_path / "x.tar", files, form))
    images = {f"x.tar/{name}": data for name, data in files.items() if not name.endswith("json")}
    assert [key for key, _ in rows] == list(images)
    assert {key: fetch(uri) for key, uri in rows} == images


@pytest.mark.lengthy
def test_a_glob_of_tars(tmp_path: Path) -> None:
    """All tars in order of names; the tar's path keeps members of one name apart."""
    (tmp_path / "s").mkdir()
    for number in range(12):
        make_tar(tmp_path / f"s/{number:02d}.tar", {"a.jpg": bytes([number]), "b.txt": b"x"})
    rows = read(f"{tmp_path}/s/*.tar")
    assert [key for key, _ in rows] == [f"{number:02d}.tar/a.jpg" for number in range(12)]
    assert [fetch(uri) for _, uri in rows] == [bytes([number]) for number in range(12)]
    (tmp_path / "s/99.txt").write_text("x")
    assert_refused(f"{tmp_path}/s/*", "tars and other files", "99.txt")


@pytest.mark.parametrize("name", ["/etc/x.jpg", "../x.jpg", "a/../../x.jpg", "..\\x.jpg", "a/..", "\\x.jpg"])
def test_members_with_unsafe_names_are_rejects(tmp_path: Path, name: str) -> None:
    """Absolute names and names that lead upwards keep their row, and are never read."""
    member = next(index_tar(io.BytesIO(make_tar(tmp_path / "x.tar", {name: b"x"}).read_bytes()), f"{tmp_path}/x.tar"))
    assert kind_of(member.uri) == "blocked_path"


def test_links_within_tars_are_rejects(tmp_path: Path) -> None:
    """A symbolic or hard link is a row, but is not followed."""
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo(f"{kind!r}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    assert [kind_of(uri) for _, uri in read(tmp_path / "x.tar")] == ["blocked_path"] * 2


def test_a_tar_that_changed_since_it_was_indexed(tmp_path: Path) -> None:
    """Other bytes are not taken for the planned image."""
    rows = read(make_tar(tmp_path / "x.tar", {"a.jpg": b"1" * 1000, "b.jpg": b"2" * 1000}))
    make_tar(tmp_path / "x.tar", {"a.jpg": b"1" * 3000, "b.jpg": b"2" * 1000})
    assert [kind_of(uri) for _, uri in rows] == ["not_found", "not_found"]
    (tmp_path / "x.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:700])
    (tmp_path / "y.tar").write_bytes(make_tar(tmp_path / "y.tar", {"a.jpg": b"1" * 1000}).read_bytes()[:700])
    cut = TarMember(str(tmp_path / "y.tar"), 512, 1000, "a.jpg")
    assert kind_of(cut.uri) == "truncated"


def test_tars_that_cannot_be_indexed(tmp_path: Path) -> None:
    """Compressed, cut, without images, none at all: refused by name while the run is planned."""
    whole = make_tar(tmp_path / "x.tar", {"a.jpg": b"x" * 5000, "b.jpg": b"x" * 5000}).read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:7000])
    assert_refused(tmp_path / "x.tar", "x.tar", "damaged or cut")
    with tarfile.open(tmp_path / "z.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"), io.BytesIO())
    assert_refused(tmp_path / "z.tar", "z.tar", "no uncompressed tar")
    assert_refused(make_tar(tmp_path / "none.tar", {"a.txt": b"x"}), "no images in it", "1 members")
    (tmp_path / "empty.tar").write_bytes(b"")
    assert_refused(tmp_path / "empty.tar", "empty.tar", "no uncompressed tar")


@pytest.mark.lengthy
def test_images_in_parquet(tmp_path: Path) -> None:
    """Columns bytes, image_bytes and {bytes, path} are the images; ids are those of the file, or the rows' numbers."""
    data = [bytes([number]) * 100 for number in range(20)]
    structs = [{"bytes": each, "path": f"{number}.jpg"} for number, each in enumerate(data)]
    for name, column in (("bytes", data), ("image_bytes", data), ("picture", structs)):
        table = pa.table({name: column, "key": [f"k{number}" for number in range(20)]})
        pq.write_table(table, tmp_path / "m.parquet", row_group_size=6)
        rows = read(tmp_path / "m.parquet")
        assert [key for key, _ in rows] == [f"k{number}" for number in range(20)]
        with Fetcher(FetchConfig(), roots=(str(tmp_path),)) as fetcher:
            for order in (rows, rows[::-1]):
                assert [fetcher.fetch(uri) for _, uri in order] == (data if order is rows else data[::-1])
            assert [future.result().data for future in [fetcher.begin(uri) for _, uri in rows]] == data
    pq.write_table(pa.table({"bytes": data}), tmp_path / "n.parquet")
    assert [key for key, _ in read(tmp_path / "n.parquet", batch_rows=7)] == [f"row:{number}" for number in range(20)]


@pytest.mark.lengthy
def test_several_parquet_files_of_images(tmp_path: Path) -> None:
    """A glob of them is one input; rows without an id are told apart by the file's name."""
    for name in ("b", "a"):
        pq.write_table(pa.table({"image_bytes": [name.encode(), b"x"]}), tmp_path / f"{name}.parquet")
    rows = read(f"{tmp_path}/*.parquet")
    assert [key for key, _ in rows] == [f"{name}.parquet:row:{row}" for name in "ab" for row in (0, 1)]
    assert [fetch(uri) for _, uri in rows] == [b"a", b"x", b"b", b"x"]


def test_images_beside_uris(tmp_path: Path) -> None:
    """The bytes win, and the uri is the id; with manifest.image_bytes=false the uris are fetched."""
    pq.write_table(pa.table({"url": ["https://h/a.jpg?sig=x"], "image_bytes": [b"x"]}), tmp_path / "m.parquet")
    [(key, uri)] = read(tmp_path / "m.parquet")
    assert (key, fetch(uri)) == ("https://h/a.jpg", b"x")
    config = Config(manifest=ManifestConfig(image_bytes=False))
    assert read(tmp_path / "m.parquet", config=config) == [("https://h/a.jpg", "https://h/a.jpg?sig=x")]
    pq.write_table(pa.table({"bytes": [3], "picture": [{"bytes": "x", "path": "y"}]}), tmp_path / "n.parquet")
    assert_refused(tmp_path / "n.parquet", "no column of uris")


def test_cells_without_bytes(tmp_path: Path) -> None:
    """A null cell is empty; with a path beside it, that file is the image, under the same rules as others."""
    (tmp_path / "side.jpg").write_bytes(b"side")
    cells = [{"bytes": None, "path": "side.jpg"}, {"bytes": None, "path": None}, {"bytes": None, "path": "/etc/passwd"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(cells, kind)}), tmp_path / "m.parquet")
    uris = [uri for _, uri in read(tmp_path / "m.parquet")]
    with Fetcher(FetchConfig(), roots=(str(tmp_path),)) as fetcher:
        assert fetcher.fetch(uris[0]) == b"side"
        kinds = [fetcher.begin(uri).result().error for uri in uris[1:]]
    assert [error.kind for error in kinds if error] == ["empty", "blocked_path"]


@pytest.mark.lengthy
def test_cells_that_are_not_there(tmp_path: Path) -> None:
    """Another row group, row or column, a damaged file, a file that is none."""
    pq.write_table(pa.table({"bytes": [b"x"], "n": [1]}), tmp_path / "m.parquet")
    path = str(tmp_path / "m.parquet")
    for cell in (Cell(path, "bytes", 1, 0), Cell(path, "bytes", 0, 1), Cell(path, "no", 0, 0)):
        assert kind_of(cell.uri) == "not_found"
    assert kind_of(Cell(path, "n", 0, 0).uri) == "unsupported_uri"
    assert kind_of(Cell(str(tmp_path / "none.parquet"), "bytes", 0, 0).uri) == "not_found"
    (tmp_path / "m.parquet").write_bytes(b"PAR1 and nothing")
    assert kind_of(Cell(path, "bytes", 0, 0).uri) == "truncated"


def kind_of(uri: str) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(uri)
    return caught.value.kind


@given(st.text(max_size=30), st.integers(0, 2**40), st.integers(0, 2**40))
def test_member_uris_are_read_as_they_were_written(name: str, offset: int, size: int) -> None:
    """Any name survives, whatever it holds."""
    name = name.encode(errors="surrogatepass").decode(errors="surrogateescape")
    for container in ("s3://bucket/a#b.tar", "https://h/x.tar?sig=a%20b", "/data/é #.tar"):
        member = parse_member(TarMember(container, offset, size, name).uri)
        assert isinstance(member, TarMember)
        assert (member.offset, member.size, member.name) == (offset, size, name)


@pytest.mark.lengthy
@given(st.binary(max_size=4096), st.integers(0, 3000), st.integers(0, 255))
@example(b"", 124, ord("-"))
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=300)
def test_fuzzed_tars_end_in_an_index_or_an_error(noise: bytes, place: int, byte: int) -> None:
    """Damage anywhere, or noise instead of a tar, raises nothing but ArchiveError, and members stay within the file."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("a.jpg", "é" * 120 + ".jpg"):
            info = tarfile.TarInfo(name)
            info.size = 600
            tar.addfile(info, io.BytesIO(bytes(600)))
    data = bytearray(buffer.getvalue())
    data[place] = byte
    for candidate in (bytes(data), noise, bytes(data[:place]) + noise):
        try:
            for member in index_tar(io.BytesIO(candidate), "/x.tar"):
                assert member.offset >= 512
                assert member.size >= 0
        except ArchiveError:
            continue


@given(st.binary(min_size=512, max_size=512), st.integers(0, 2**45), st.integers(0, 2**45), st.text(max_size=20))
def test_fuzzed_headers_give_bytes_or_a_kind(header: bytes, offset: int, size: int, name: str) -> None:
    """Whatever lies where a member is said to be, only closed kinds are raised."""
    member = TarMember("/x.tar", offset, size, name)
    kind = None
    try:
        start, end = member_span(member, 10**8)
        assert 0 <= start < end
        assert is_safe_name(name)
        assert member_content(member, header + b"x" * 10) == b"x" * 10
    except FetchError as error:
        kind = error.kind
    assert kind is None or kind in ERROR_KINDS
