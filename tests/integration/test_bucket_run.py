"""The whole main job with its run on a real S3 server: the same results as on disk, whatever is killed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
from runs import Run, assert_adds_up, assert_same_results, draw_pictures, ended, fetched, finish, kill, wait_until
from s3server import S3Server

from pipeline.chunks import chunk_name, committed
from pipeline.stores.opening import open_store
from pipeline.stores.run_store import RunStore
from pipeline.verify import verify

pytestmark = pytest.mark.integration

PICTURES = 120
CHUNK_ROWS = 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder, PICTURES, (1200, 800))
    (folder / "empty.jpg").touch()
    return folder


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on local disk: what those in a bucket must equal."""
    run = Run(pictures, tmp_path_factory.mktemp("local") / "run", tiny_bundle, [f"plan.chunk_rows={CHUNK_ROWS}"])
    run.finish()
    return run.out


@pytest.fixture
def run(pictures: Path, tiny_bundle: Path, s3_run: str) -> Run:
    return Run(pictures, s3_run, tiny_bundle, [f"plan.chunk_rows={CHUNK_ROWS}"])


def chunks(store: RunStore) -> int:
    return sum(1 for _ in committed(store))


def command(*arguments: str, environment: dict[str, str] | None = None, code: int = 0) -> str:
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    return finish(process, code=code)


@pytest.fixture
def manifest(s3_server: S3Server, pictures: Path) -> str:
    """A manifest in a bucket, with the pictures beside it."""
    files, bucket = s3_server.files(), s3_server.new_bucket()
    names = sorted(path.name for path in pictures.iterdir())
    for name in names:
        files.pipe_file(f"{bucket}/in/{name}", (pictures / name).read_bytes())
    files.pipe_file(f"{bucket}/in/list.csv", "\n".join(["path", *names]).encode())
    return f"s3://{bucket}/in/list.csv"


def test_the_whole_job(
    run: Run,
    manifest: str,
    undisturbed: Path,
    s3_server: S3Server,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Manifest, images and run in buckets: tagged, published, reported, verified and read back by pandas; the same rows
    as on disk; and no key is left anywhere."""
    run.input = manifest
    # Short, as Ray's sockets lie below it.
    temporary = Path(tempfile.mkdtemp(prefix="rf-"))
    request.addfinalizer(lambda: shutil.rmtree(temporary))
    run.environment = {"TMPDIR": str(temporary), "RAY_TMPDIR": str(temporary)}
    output = run.finish()
    assert run.out in output
    store = open_store(run.out)
    copy = fetched(store, tmp_path / "copy")
    assert assert_adds_up(copy, PICTURES + 1)["rejected"] == 1
    assert_same_results(copy, undisturbed)
    assert verify(store).faults == []
    secret = s3_server.environment["AWS_SECRET_ACCESS_KEY"].encode()
    everything = [name for name in s3_server.files().find(run.out) if name]
    assert len(everything) > 20
    assert not [name for name in everything if secret in s3_server.files().cat_file(name)]
    logs = [path for path in temporary.rglob("*") if path.is_file() and path.stat().st_size]
    assert logs
    assert not [path for path in logs if secret in path.read_bytes()]
    key = s3_server.environment["AWS_ACCESS_KEY_ID"]
    options = {"key": key, "secret": secret.decode(), "endpoint_url": s3_server.endpoint}
    assert len(pd.read_parquet(f"{run.out}/tags", storage_options=options)) == PICTURES
    status = json.loads(command("status", run.out, "--json"))
    assert (status["state"], status["images_done"], status["rejects"]) == ("complete", PICTURES + 1, {"empty": 1})
    assert b"<img" in store.read("report.html")  # its pictures were read from the bucket once more
    figures = json.loads(command("report", run.out, "--json"))
    assert figures["cost"]["run"]["images"] == PICTURES + 1
    same = json.loads(command("compare", run.out, run.out, "--json"))
    assert same["agreement"]["same"] == PICTURES
    assert "no fault" in command("verify", run.out)
    assert "complete" in command("finalize", run.out)
    assert "nothing was left to do" in run.finish()
    assert "read-only now" in command("clean", run.out)
    assert chunks(store) == 0
    assert "is read-only" in finish(run.start(), code=2)


def test_driver_killed_and_run_again(run: Run, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL of the driver in mid-run; the same command does the chunks that are missing, and no other."""
    store = open_store(run.out)
    with ended(run.start()) as process:
        wait_until(process, lambda: chunks(store) >= 4)
        kill(psutil.Process(process.pid))
        process.wait()
    before = {entry.name: entry.modified_at for entry in store.entries("chunks/")}
    assert len(before) < PICTURES // CHUNK_ROWS
    run.finish()
    after = {entry.name: entry.modified_at for entry in store.entries("chunks/")}
    assert after == after | before
    copy = fetched(store, tmp_path / "copy")
    assert_adds_up(copy, PICTURES + 1)
    assert_same_results(copy, undisturbed)
    assert verify(store).faults == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong-secret", "the secret key is wrong: see AWS_SECRET_ACCESS_KEY"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", "does not answer"),
    ],
)
def test_wrong_key_is_an_error_before_any_work(run: Run, name: str, value: str, words: str) -> None:
    """Exit 2 and one line for every command, soon; no cluster is started and nothing is written."""
    store = open_store(run.out)
    run.environment = {name: value}
    output = finish(run.start(), 60, code=2)
    lines = [line for line in output.splitlines() if line.startswith("ramfleet:")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in output
    assert store.is_empty()
    for other in ("finalize", "retry", "verify", "status", "clean"):
        assert words in command(other, run.out, environment={name: value}, code=2)


class Gate:
    """A way to the server that can be closed: an outage of the store, as its clients see it."""

    def __init__(self, server: S3Server) -> None:
        host, port = server.endpoint.removeprefix("http://").split(":")
        self._upstream = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = True
        self._sockets: list[socket.socket] = []
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """From now on connections are ended at once, those that there are too."""
        self._open = False
        for one in self._sockets:
            with_shutdown(one)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if not self._open:
                client.close()
                continue
            upstream = socket.create_connection(self._upstream)
            self._sockets += [client, upstream]
            for source, target in ((client, upstream), (upstream, client)):
                threading.Thread(target=pump, args=(source, target), daemon=True).start()


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
    except OSError:
        pass
    with_shutdown(source)
    with_shutdown(target)


def with_shutdown(one: socket.socket) -> None:
    try:
        one.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


def test_the_store_goes_away_in_mid_run(run: Run, undisturbed: Path, s3_server: S3Server, tmp_path: Path) -> None:
    """Exit 3 with one line that says what to do; when the store is back, the same command finishes the run."""
    store = open_store(run.out)
    gate = Gate(s3_server)
    run.environment = {"AWS_ENDPOINT_URL": gate.endpoint}
    with ended(run.start()) as process:
        wait_until(process, lambda: chunks(store) >= 3)
        gate.close()
        output = finish(process, 300, code=3)
    lines = [line for line in output.splitlines() if line.startswith("ramfleet:")]
    assert len(lines) == 1
    assert "does not answer" in lines[0]
    assert lines[0].count("Run the same command again") == 1
    run.environment = {}
    run.finish()
    copy = fetched(store, tmp_path / "copy")
    assert_adds_up(copy, PICTURES + 1)
    assert_same_results(copy, undisturbed)


@contextmanager
def away(folder: Path, names: list[str]) -> Iterator[None]:
    """Within: some pictures are not there."""
    for name in names:
        (folder / name).rename(folder / f"{name}.away")
    try:
        yield
    finally:
        for name in names:
            (folder / f"{name}.away").rename(folder / name)


def test_retry_after_an_outage(tiny_bundle: Path, s3_run: str, tmp_path: Path) -> None:
    """Pictures that were away are tagged when they are back, by two retries at once; the others stay as they are."""
    draw_pictures(tmp_path / "pictures", 40)
    listed = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    (tmp_path / "pictures/list.csv").write_text("\n".join(["path", *listed]))
    run = Run(tmp_path / "pictures/list.csv", s3_run, tiny_bundle, ["plan.chunk_rows=4", "run.max_reject_share=1"])
    gone = listed[:2] + listed[20:22]
    with away(tmp_path / "pictures", gone):
        run.finish()
    store = open_store(s3_run)
    first = {name: store.read(name) for name in store.list("chunks/")}
    with ended(start_retry(s3_run, tiny_bundle)) as one, ended(start_retry(s3_run, tiny_bundle)) as two:
        said = [finish(one), finish(two)]
    assert any("4 not_found" in text for text in said)
    document = json.loads(store.read("run.json"))
    assert (document["counts"]["tagged"], document["counts"]["rejected"]) == (40, 0)
    assert verify(store).faults == []
    names = set(store.list("chunks/"))
    assert names - set(first) == {chunk_name(chunk, 1) for chunk in (0, 5)}
    assert first == {name: store.read(name) for name in first}
    assert "No reject of the kinds" in command("retry", s3_run)


def start_retry(out: str, bundle: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.main", "retry", out, "--model", str(bundle)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_sync_of_a_bucket(tiny_bundle: Path, s3_server: S3Server, s3_run: str, tmp_path: Path) -> None:
    """A prefix of a bucket in which an object was added and one overwritten since: only these are tagged."""
    draw_pictures(tmp_path, 8)
    data = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    files, prefix = s3_server.files(), s3_run.rpartition("/runs/")[0] + "/images"
    for number in range(6):
        files.pipe_file(f"{prefix}/{number}.jpg", data[number])
    Run(prefix, s3_run, tiny_bundle).finish()
    files.pipe_file(f"{prefix}/2.jpg", data[6])
    files.pipe_file(f"{prefix}/6.jpg", data[7])
    arguments = ["tag", prefix, "--out", f"{s3_run}-new", "--model", str(tiny_bundle), "--base", s3_run]
    assert "carried over" in command(*arguments)
    store = open_store(f"{s3_run}-new")
    counts = json.loads(store.read("run.json"))["counts"]
    assert (counts["tagged"], counts["carried"]) == (2, 5)
    assert verify(store).faults == []


def test_sync_with_a_base(tiny_bundle: Path, s3_run: str, tmp_path: Path) -> None:
    """A folder with pictures added, changed, removed and renamed since: only these are tagged."""
    # The base lies in a bucket, the new run on disk.
    pictures = tmp_path / "pictures"
    draw_pictures(pictures, 20)
    Run(pictures, s3_run, tiny_bundle).finish()
    draw_pictures(tmp_path / "more", 20)
    (tmp_path / "more/p00019.jpg").rename(pictures / "added.jpg")
    (pictures / "p00003.jpg").write_bytes((pictures / "p00004.jpg").read_bytes())
    (pictures / "p00005.jpg").unlink()
    (pictures / "p00006.jpg").rename(pictures / "renamed.jpg")
    out = tmp_path / "new"
    arguments = ["tag", str(pictures), "--out", str(out), "--model", str(tiny_bundle), "--base", s3_run]
    output = command(*arguments)
    assert "carried over" in output
    document = json.loads((out / "run.json").read_text())
    counts = {"input": 20, "tagged": 3, "rejected": 0, "duplicates": 0, "carried": 17, "missing": 0}
    assert document["counts"] == counts
    assert {name: document["base"][name] for name in ("new", "changed", "removed")} == {
        "new": 2, "changed": 1, "removed": 2,
    }  # fmt: skip
    tags = pd.read_parquet(out / "tags").set_index("image_id")
    assert tags.index[tags["chunk"].notna()].sort_values().tolist() == ["added.jpg", "p00003.jpg", "renamed.jpg"]
    assert tags.loc["p00003.jpg", "sha256"] == tags.loc["p00004.jpg", "sha256"]
    assert "nothing was left to do" in command(*arguments)
    assert verify(open_store(out)).faults == []
    refused = command(*arguments, "--set", "output.top_k=7", code=2)
    assert "output.top_k: the run was planned with 128, now asked with 7" in refused
