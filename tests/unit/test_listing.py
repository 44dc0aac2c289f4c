"""Folders, globs and single pictures as INPUT."""

import os

import pyarrow as pa
import pytest
from fetching import fetch
from inputs import assert_refused, read, touch
from PIL import Image

from pipeline.config import Config, FetchConfig
from pipeline.fetching.outcome import FetchError
from pipeline.manifests.manifest import open_input
from pipeline.manifests.places import still_there


def test_directory(tmp_path):
    """A folder gives its images in order of names, folders in their place; other and hidden files are passed over."""
    images = ["B.JPG", "a.jpeg", "b/c.png", "b/d/e.webp", "c.heic", "ü é.tif"]
    touch(tmp_path, *images, "notes.txt", "b/list.csv", "noextension", ".hidden.jpg", ".git/x.png", "b/.x/y.png")
    os.mkdir(tmp_path / "empty.jpg")
    opened = open_input(str(tmp_path))
    rows = pa.Table.from_batches(opened.batches()).to_pylist()
    assert [row["image_id"] for row in rows] == images
    assert [row["uri"] for row in rows] == [f"{tmp_path}/{image}" for image in images]
    assert (opened.kind, opened.skipped) == ("directory", 3)
    assert read(f"{tmp_path}/") == read(tmp_path)


def test_directories_come_in_bounded_batches(tmp_path):
    """Batches have no more rows than asked, and together they are all rows."""
    touch(tmp_path, *(f"{number % 7}/{number}.jpg" for number in range(50)))
    batches = list(open_input(str(tmp_path), batch_rows=8).batches())
    assert [batch.num_rows for batch in batches] == [8] * 6 + [2]
    assert pa.Table.from_batches(batches) == pa.Table.from_batches(open_input(str(tmp_path)).batches())


def test_ids_of_a_directory_stay_when_it_moves(tmp_path):
    """The id is the path within the folder."""
    touch(tmp_path / "one", "x/a.jpg", "b.jpg")
    before = [key for key, _ in read(tmp_path / "one")]
    (tmp_path / "one").rename(tmp_path / "two")
    assert [key for key, _ in read(tmp_path / "two")] == before == ["b.jpg", "x/a.jpg"]


def test_links_in_directories(tmp_path):
    """Links to files and folders are followed, circles are not, and a broken link stays a row."""
    touch(tmp_path, "in/a.jpg", "far/b.jpg")
    (tmp_path / "in/loop").symlink_to(tmp_path / "in")
    (tmp_path / "in/other").symlink_to(tmp_path / "far")
    (tmp_path / "far/back").symlink_to(tmp_path / "in")
    (tmp_path / "in/lost.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "in/pipe.jpg")
    ids = [key for key, _ in read(tmp_path / "in")]
    assert ids == ["a.jpg", "lost.jpg", "other/b.jpg"]


def test_a_link_to_the_input_itself_adds_nothing(tmp_path):
    """The folder that is given counts as seen, in a glob too."""
    touch(tmp_path, "loop/a.jpg", "loop/z/b.jpg")
    (tmp_path / "loop/self").symlink_to(".")
    (tmp_path / "loop/z/up").symlink_to("..")
    for pattern in ("loop", "loop/**/*.jpg"):
        assert [key for key, _ in read(tmp_path / pattern)] == ["a.jpg", "z/b.jpg"]


def test_a_link_to_itself_is_a_row(tmp_path):
    """One link that cannot be followed does not refuse the input; it is reported when it is read."""
    touch(tmp_path, "a.jpg")
    (tmp_path / "circle.jpg").symlink_to("circle.jpg")
    assert [key for key, _ in read(tmp_path)] == ["a.jpg", "circle.jpg"]
    with pytest.raises(FetchError) as caught:
        fetch(str(tmp_path / "circle.jpg"), FetchConfig())
    assert caught.value.kind == "not_found"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_link_to_where_no_one_may_look_is_a_row(tmp_path):
    """Its target is forbidden; the rest of the input is not."""
    touch(tmp_path, "in/a.jpg", "shut/b.jpg")
    (tmp_path / "in/b.jpg").symlink_to(tmp_path / "shut/b.jpg")
    (tmp_path / "shut").chmod(0)
    try:
        assert [key for key, _ in read(tmp_path / "in")] == ["a.jpg", "b.jpg"]
    finally:
        (tmp_path / "shut").chmod(0o700)


def test_names_that_are_not_utf8(tmp_path):
    """A file name that no text can hold is percent-encoded, so that the file is still found."""
    try:
        with open(os.fsencode(tmp_path) + b"/caf\xe9.jpg", "wb"):
            pass
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert read(tmp_path) == [("caf%E9.jpg", f"file://{tmp_path}/caf%E9.jpg")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("?.png", ["c.png"]),
        ("*", ["a.jpg", "b.jpg", "c.png", "noextension"]),
        ("[ab].*", ["a.jpg", "b.jpg"]),
        ("[!a].jpg", ["b.jpg"]),
        ("x/*/*.jpg", ["y/d.jpg"]),
        ("x/**/*.jpg", ["e.jpg", "y/d.jpg", "y/z/f.jpg"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "x/e.jpg", "x/y/d.jpg", "x/y/z/f.jpg"]),
        ("**", ["a.jpg", "b.jpg", "c.png", "noextension", "x/e.jpg", "x/y/d.jpg", "x/y/z/f.jpg"]),
    ],
)
def test_glob(tmp_path, pattern, expected):
    """A glob gives the files that match, of any extension; ids are relative to the folder in front of the magic."""
    files = ["a.jpg", "b.jpg", "c.png", "noextension", "x/e.jpg", "x/y/d.jpg", "x/y/z/f.jpg", ".h.jpg", "x/.i/g.jpg"]
    touch(tmp_path, *files)
    opened = open_input(f"{tmp_path}/{pattern}")
    assert opened.kind == "glob"
    root = f"{tmp_path}/x" if pattern.startswith("x/") else str(tmp_path)
    assert [(key, uri) for key, uri in read(f"{tmp_path}/{pattern}")] == [(key, f"{root}/{key}") for key in expected]


def test_a_path_with_brackets_that_exists_is_no_glob(tmp_path):
    """Magic characters in the name of a file or folder that exists are just characters."""
    touch(tmp_path, "set[1]/a.jpg")
    assert read(tmp_path / "set[1]") == [("a.jpg", f"{tmp_path}/set[1]/a.jpg")]


def test_picture(tmp_path):
    """One picture is one row; without a known extension, its content tells."""
    image = Image.new("RGB", (4, 4))
    for name in ("a.png", "noextension"):
        image.save(tmp_path / name, "PNG")
        opened = open_input(str(tmp_path / name))
        assert opened.kind == "picture"
        assert read(tmp_path / name) == [(name, f"{tmp_path}/{name}")]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_may_not_be_listed(tmp_path):
    """A folder without permission is named, not passed over."""
    touch(tmp_path, "a.jpg", "z/b.jpg")
    (tmp_path / "z").chmod(0)
    assert_refused(tmp_path, str(tmp_path / "z"), "Permission denied")


def test_still_there(tmp_path):
    """Files, folders with content and the folders in front of globs are there; what is gone or empty is not."""
    touch(tmp_path, "full/a.jpg")
    (tmp_path / "empty").mkdir()
    for there in ("full", "full/a.jpg", "full/*.png"):
        assert still_there(str(tmp_path / there), Config())
    assert still_there(f"file://{tmp_path}/full", Config())
    for gone in ("empty", "missing", "missing/*.png", "empty/*"):
        assert not still_there(str(tmp_path / gone), Config())
