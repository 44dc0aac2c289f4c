"""Bytes of local files, and why they cannot be had."""

import os
import socket
import threading
from pathlib import Path

import pytest
from fetching import fetch

from pipeline.config import FetchConfig
from pipeline.error_kinds import ERROR_KINDS
from pipeline.fetching.files import local_path
from pipeline.fetching.outcome import FetchError


def kind_of(uri: str, config: FetchConfig | None = None) -> str:
    with pytest.raises(FetchError) as caught:
        fetch(uri, config or FetchConfig())
    assert ERROR_KINDS[caught.value.kind].stage == "fetch"
    assert "\n" not in caught.value.detail
    return caught.value.kind


def test_paths_and_file_uris_give_the_bytes(tmp_path: Path) -> None:
    """A plain path, and a file:// uri with escaped characters."""
    path = tmp_path / "a b%.jpg"
    path.write_bytes(b"bytes")
    assert fetch(str(path), FetchConfig()) == b"bytes"
    assert fetch(path.as_uri(), FetchConfig()) == b"bytes"


@pytest.mark.lengthy
def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    """A missing file, a folder, a path through a file, an empty uri, impossible names."""
    (tmp_path / "file").write_bytes(b"x")
    for uri in (tmp_path / "none", tmp_path, tmp_path / "file/x", "", "\0", "x" * 5000, "é" * 300):
        assert kind_of(str(uri)) == "not_found"


def test_a_larger_file_is_not_read(tmp_path: Path) -> None:
    """fetch.max_image_bytes is looked at before the file is read."""
    path = tmp_path / "big"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)
    assert kind_of(str(path)) == "too_large"


@pytest.mark.lengthy
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe without a writer, a socket and an endless device are rejects at once."""
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.jpg")
        kinds: dict[str, str] = {}
        uris = [str(tmp_path / "pipe.jpg"), str(tmp_path / "socket.jpg"), "/dev/zero", "/dev/null", "/dev/tty"]
        thread = threading.Thread(target=lambda: kinds.update({uri: kind_of(uri) for uri in uris}), daemon=True)
        thread.start()
        thread.join(10)
    assert kinds == dict.fromkeys(uris, "not_found")


def test_files_that_do_not_say_their_size_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of /proc says 0 bytes, a growing one too few: both are read whole, but never over the bound."""
    assert b"processor" in fetch("/proc/cpuinfo", FetchConfig())
    assert kind_of("/proc/cpuinfo", FetchConfig(max_image_bytes=20)) == "too_large"
    path = tmp_path / "growing"
    path.write_bytes(b"x" * 3_000_000)
    true_size = os.fstat

    def as_it_was(descriptor: int) -> os.stat_result:
        fields = list(true_size(descriptor))
        fields[6] = min(fields[6], 1000)
        return os.stat_result(fields)

    monkeypatch.setattr("pipeline.fetching.files.os.fstat", as_it_was)
    assert fetch(str(path), FetchConfig(max_image_bytes=3_000_000)) == b"x" * 3_000_000
    assert kind_of(str(path), FetchConfig(max_image_bytes=2_999_999)) == "too_large"


def test_file_uris_of_other_hosts_are_refused(tmp_path: Path) -> None:
    """file://data/a.jpg is a.jpg on the host data, not /a.jpg here; localhost is here."""
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert fetch(f"file://localhost{tmp_path}/a.jpg", FetchConfig()) == b"x"
    assert kind_of(f"file://data{tmp_path}/a.jpg") == "unsupported_uri"
    with pytest.raises(FetchError, match="'data'"):
        local_path("file://data/a.jpg")


def test_other_schemes_are_named() -> None:
    """A uri that no reader here understands is a reject, not an error."""
    assert kind_of("gopher://host/x.jpg") == "unsupported_uri"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_an_unreadable_file_is_forbidden(tmp_path: Path) -> None:
    """The right to read is missing."""
    path = tmp_path / "secret"
    path.touch(mode=0o000)
    assert kind_of(str(path)) == "forbidden"
