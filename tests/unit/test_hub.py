"""Released weights to bundles, from a local server that answers as the hub does."""

import dataclasses
import fcntl
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import goldens
import pytest
from typer.testing import CliRunner

import ramcore
from jobs.model import app
from pipeline import hub
from pipeline.download import DownloadError, Source, download
from pipeline.hub import RELEASES, HubError, HubFile, Release, pull
from ramcore.errors import BundleError
from ramcore.text_tower import TextTower

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self._answer(body=False)

    def do_GET(self):
        self._answer(body=True)

    def _answer(self, body):
        self.server.requests.append((self.command, self.path, self.headers.get("Range")))
        if self.path.startswith("/api/models/"):
            self._answer_listing()
            return
        path = self.server.files.get(self.path.rsplit("/", 1)[-1])
        if path is None:
            self.send_error(404)
            return
        data = path.read_bytes()
        asked = self.headers.get("Range") if self.server.knows_ranges else None
        start = int((asked or "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body and self.server.hangs == self.path.rsplit("/", 1)[-1]:
            self.wfile.write(data[start : len(data) * 9 // 10])
            self.server.let_go.wait()
            self.close_connection = True
        elif body and self.server.breaks_once == self.path.rsplit("/", 1)[-1]:
            self.server.breaks_once = None
            self.wfile.write(data[: len(data) * 9 // 10])
            self.close_connection = True
        elif body:
            self.wfile.write(data[start:])

    def _answer_listing(self):
        listing = [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in self.server.siblings]
        body = json.dumps(listing).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server of `.files` by name, in the hub's place, with an empty cache; `.url`, `.requests`.

    The first answer with the file `.breaks_once` ends before it does; at nine tenths of `.hangs` an answer waits
    until `.let_go` is set.
    """
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        server.files, server.requests, server.breaks_once, server.hangs = {}, [], None, None
        server.knows_ranges, server.let_go = True, threading.Event()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.let_go.set()
        server.shutdown()


def _sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def release(server, tiny_tag2text_release):
    """The tiny Tag2Text as if it were released on the server."""
    files = tiny_tag2text_release
    server.files |= {"tiny.pth": files.checkpoint, "vocab.txt": goldens.GOLDEN / "vocab_tiny.txt"}
    server.files |= {"tags.txt": files.tags, "thresholds.txt": files.thresholds}
    lists = {name: (f"{name}.txt", _sha256(getattr(files, name))) for name in ("tags", "thresholds")}
    return Release("tag2text", HubFile("someone/tiny", "tiny.pth"), lists, HubFile("someone/bert", "vocab.txt"))


@pytest.mark.lengthy
def test_pull_makes_a_bundle_and_records_where_it_came_from(server, release, tmp_path):
    """Checkpoint, lists and tokenizer arrive, convert, and leave commit and checksums behind."""
    out = tmp_path / "bundle"
    pulled = pull(release, out, lists_url=server.url)
    golden = goldens.load_golden("tiny_tag2text")
    assert list(ramcore.load(out, device="cpu").tag(goldens.as_picture(golden["image0"])).tag_ids) == list(
        golden["tags0"]
    )
    record = json.loads((out / "source.json").read_text())
    assert record["repository"] == "someone/tiny"
    assert record["revision"] == pulled.revision == COMMIT
    assert record["sha256"] == {name: _sha256(path) for name, path in server.files.items()}


@pytest.mark.lengthy
def test_what_is_in_the_cache_is_not_fetched_again(server, release, tmp_path):
    """A second pull asks whether the checkpoint has changed, and no more."""
    pull(release, tmp_path / "one", lists_url=server.url)
    server.requests.clear()
    pull(release, tmp_path / "two", lists_url=server.url)
    assert not [request for request in server.requests if request[0] == "GET" and request[1].endswith(".pth")]


@pytest.mark.lengthy
def test_connection_that_breaks_off_is_taken_up_where_it_broke(server, release, tmp_path):
    """The part that has arrived is not fetched again."""
    server.breaks_once = "tiny.pth"
    pulled = pull(release, tmp_path / "out", lists_url=server.url)
    ranges = [request[2] for request in server.requests if request[0] == "GET" and request[1].endswith(".pth")]
    assert ranges == [None, f"bytes={server.files['tiny.pth'].stat().st_size * 9 // 10}-"]
    assert pulled.sha256["tiny.pth"] == _sha256(server.files["tiny.pth"])


_PULL = """
import sys
from pipeline.hub import HubFile, Release, pull

pull(Release("ram", HubFile("someone/tiny", "tiny.pth"), {}), sys.argv[1])
"""


@pytest.mark.lengthy
def test_killed_pull_goes_on_where_it_was(server, release, tmp_path):
    """After SIGKILL in the middle of the checkpoint the next pull asks for the missing bytes only."""
    server.hangs = "tiny.pth"
    size = server.files["tiny.pth"].stat().st_size
    killed = subprocess.Popen(
        [sys.executable, "-c", _PULL, str(tmp_path / "out")], env=os.environ | {"HF_HOME": str(tmp_path / "hf")}
    )
    part = tmp_path / "hf" / "ramfleet" / "someone--tiny" / COMMIT / "tiny.pth.part"
    while not (part.exists() and part.stat().st_size == size * 9 // 10):
        assert killed.poll() is None
        time.sleep(0.01)
    killed.kill()
    killed.wait()
    server.let_go.set()
    server.hangs = None
    server.requests.clear()
    pulled = pull(release, tmp_path / "out", lists_url=server.url)
    gets = [request for request in server.requests if request[0] == "GET" and request[1].endswith(".pth")]
    assert [get[2] for get in gets] == [f"bytes={size * 9 // 10}-"]
    assert pulled.sha256["tiny.pth"] == _sha256(server.files["tiny.pth"])
    assert not part.exists()


def test_two_pulls_of_one_file_do_not_mix(tmp_path):
    """A file that another process is fetching is left to that one."""
    part = tmp_path / "x.part"
    with part.open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DownloadError, match="another process is fetching it"):
            download(lambda: Source("http://127.0.0.1:9/x", 1), tmp_path / "x")


def test_server_without_ranges_sends_the_file_anew(server, tmp_path):
    """What is on disk is not put before a whole file."""
    server.files["x"] = tmp_path / "whole"
    server.files["x"].write_bytes(b"0123456789")
    server.knows_ranges = False
    (tmp_path / "x.part").write_bytes(b"01234")
    download(lambda: Source(f"{server.url}/x", 10), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_part_that_is_too_long_is_dropped(server, tmp_path):
    """A part with more bytes than the file has is of something else."""
    server.files["x"] = tmp_path / "whole"
    server.files["x"].write_bytes(b"0123456789")
    (tmp_path / "x.part").write_bytes(b"y" * 11)
    download(lambda: Source(f"{server.url}/x", 10), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"0123456789"


def test_download_that_brings_nothing_gives_up(tmp_path, monkeypatch):
    """After five attempts in vain the error is that of the last one, and nothing is at the target."""
    monkeypatch.setattr("pipeline.download._FIRST_PAUSE_S", 0.001)
    asked = []
    with pytest.raises(DownloadError, match="refused"):
        download(lambda: asked.append(1) or Source("http://127.0.0.1:9/x", 10), tmp_path / "x")
    assert len(asked) == 5
    assert not (tmp_path / "x").exists()


def test_checkpoint_with_another_checksum_is_refused(server, release, tmp_path):
    """A checkpoint that is pinned and has changed is not converted; it says what to do."""
    pinned = dataclasses.replace(release, checkpoint=dataclasses.replace(release.checkpoint, sha256="0" * 64))
    with pytest.raises(HubError, match=r"is not the released tiny\.pth: its sha256 is .*, not 0000"):
        pull(pinned, tmp_path / "out", lists_url=server.url)
    assert not (tmp_path / "out").exists()


@pytest.mark.lengthy
def test_pinned_checkpoint_on_disk_needs_no_network(server, release, tmp_path, monkeypatch, tiny_tag2text_release):
    """With its checksum known beforehand, nobody is asked about a file that is there."""
    files = [release.checkpoint, release.tokenizer]
    known = [dataclasses.replace(file, sha256=_sha256(server.files[file.name])) for file in files]
    pinned = dataclasses.replace(release, checkpoint=known[0], tokenizer=known[1])
    pull(pinned, tmp_path / "one", lists_url=server.url)
    server.requests.clear()
    pulled = pull(pinned, tmp_path / "two", lists=tiny_tag2text_release.tags.parent)
    assert server.requests == []
    assert pulled.revision == COMMIT


def test_text_model_arrives_and_goes_on(server, tmp_path, tiny_clip):
    """`model pull clip` fetches the files that open tags need, and takes up a part."""
    names = [path.name for path in tiny_clip.iterdir()]
    server.files |= {path.name: path for path in tiny_clip.iterdir()} | {"flax_model.msgpack": tiny_clip}
    server.siblings = [*names, "flax_model.msgpack"]
    out = tmp_path / "clip"
    out.mkdir()
    weights = (tiny_clip / "model.safetensors").read_bytes()
    (out / "model.safetensors.part").write_bytes(weights[:1000])
    hub.pull_text_model(out, "someone/clip")
    assert (out / "model.safetensors").read_bytes() == weights
    assert "bytes=1000-" in [request[2] for request in server.requests]
    assert not (out / "flax_model.msgpack").exists()
    assert TextTower(out, cache=tmp_path / "cache").encode(["dog"]).shape == (1, 512)


def test_list_with_another_checksum_is_refused(server, release, tmp_path):
    """A tag list that moved on, or an error page, never names tags."""
    changed = tmp_path / "tags.txt"
    changed.write_text("dog\ncat\n")
    server.files["tags.txt"] = changed
    with pytest.raises(HubError, match="is not the released list: its sha256 is"):
        pull(release, tmp_path / "out", lists_url=server.url)
    assert not (tmp_path / "out").exists()


@pytest.mark.lengthy
def test_lists_at_hand_are_used_and_checked(server, release, tmp_path, tiny_tag2text_release):
    """With --lists nothing but the weights is fetched, and missing files are named."""
    folder = tiny_tag2text_release.tags.parent
    pull(release, tmp_path / "out", lists=folder)
    assert not [request for request in server.requests if request[1].endswith("tags.txt")]
    with pytest.raises(HubError, match=r"tags\.txt does not exist: --lists is the folder ram/data"):
        pull(release, tmp_path / "other", lists=tmp_path / "nowhere")


def test_without_a_network_it_says_what_to_do_by_hand(release, tmp_path, monkeypatch, tiny_tag2text_release):
    """The URL of every file and the command that converts them are in the message."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError) as caught:
        pull(release, tmp_path / "out", lists=tiny_tag2text_release.tags.parent)
    message = str(caught.value)
    assert "https://huggingface.co/someone/tiny/resolve/main/tiny.pth" in message
    assert "ramfleet model convert --kind tag2text --checkpoint tiny.pth --tags tags.txt" in message
    assert "--tokenizer vocab.txt" in message


def test_list_that_cannot_be_fetched_is_a_clear_error(server, release, tmp_path):
    """A list that is not there is named with its address."""
    del server.files["tags.txt"]
    with pytest.raises(HubError, match=r"/tags\.txt cannot be fetched \(HTTP Error 404"):
        pull(release, tmp_path / "out", lists_url=server.url)


def test_folder_in_use_is_refused_before_anything_is_fetched(server, release, tmp_path):
    """Gigabytes are not fetched in vain."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="is not empty"):
        pull(release, tmp_path, lists_url=server.url)
    assert server.requests == []


def test_unknown_name_lists_the_releases():
    """`model pull` without a known name is exit 2 with the choices."""
    result = CliRunner().invoke(app, ["pull", "yolo"], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert "ram_plus, ram, tag2text" in result.output


@pytest.mark.lengthy
def test_command_prints_the_checksums(server, release, tmp_path, monkeypatch, tiny_tag2text_release):
    """`model pull` says which revision and files it took."""
    monkeypatch.setattr(hub, "RELEASES", {"tag2text": release})
    lists = str(tiny_tag2text_release.tags.parent)
    result = CliRunner().invoke(app, ["pull", "tag2text", "--out", str(tmp_path / "out"), "--lists", lists])
    assert result.exit_code == 0, result.output
    assert COMMIT in result.output
    assert f"{_sha256(server.files['tiny.pth'])}  tiny.pth" in result.output


@pytest.mark.skipif("RAMFLEET_UPSTREAM" not in os.environ, reason="RAMFLEET_UPSTREAM names no copy of the lists")
@pytest.mark.parametrize("name", ["ram_plus", "ram", "tag2text"])
def test_recorded_checksums_are_those_of_the_released_lists(name):
    """The lists that a pull accepts are the reference's."""
    for file, checksum in RELEASES[name].lists.values():
        assert _sha256(Path(os.environ["RAMFLEET_UPSTREAM"]) / "vocab" / file) == checksum
