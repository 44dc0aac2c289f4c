"""A run's objects on a real S3 server: who wins, who waits, what is told when it does not work."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from committed_run import plan_run, tagged_rows
from s3server import S3Server

from pipeline.chunks import commit_chunk
from pipeline.errors import StoreError
from pipeline.events.log import EventLog, events_in_order, read_events
from pipeline.finalize import finalize
from pipeline.stores import bucket_lock
from pipeline.stores.opening import open_store
from pipeline.stores.run_store import RunStore
from pipeline.verify import verify

pytestmark = pytest.mark.integration
SECRET = "AWS_SECRET_ACCESS_KEY"


@pytest.fixture
def store(s3_run: str) -> RunStore:
    return open_store(s3_run)


def test_create_replace_read_list_delete(store: RunStore, tmp_path: Path) -> None:
    """The whole interface, as on disk."""
    assert store.is_empty()
    assert store.create("chunks/a", b"one")
    assert not store.create("chunks/a", b"two")
    store.create("chunks/deeper/b", b"not of this folder")
    store.create("chunks/.tmp-x", b"nobody's")
    assert (store.read("chunks/a"), list(store.list("chunks/"))) == (b"one", ["chunks/a"])
    store.replace("run.json", b"1")
    store.replace("run.json", b"2")
    assert [(entry.name, entry.size) for entry in store.entries("")] == [("run.json", 1)]
    assert abs(next(iter(store.entries(""))).modified_at - time.time()) < 60
    store.delete("run.json")
    store.delete("run.json")
    assert not store.exists("run.json")
    with pytest.raises(FileNotFoundError, match=r"s3://.*/runs/one/run\.json"):
        store.read("run.json")
    with pytest.raises(FileNotFoundError):
        store.open("run.json")


def test_large_objects_go_up_in_pieces_and_are_read_by_range(store: RunStore, tmp_path: Path) -> None:
    """What is asked for comes, from anywhere in the object, and nothing beyond its end."""
    content = os.urandom(40 << 20)
    (tmp_path / "part").write_bytes(content)
    assert store.upload("tags/part", tmp_path / "part")
    assert not store.upload("tags/part", tmp_path / "part")
    with store.open("tags/part") as file:
        assert file.seek(-8, os.SEEK_END) == len(content) - 8
        assert file.read() == content[-8:]
        file.seek(12_345_678)
        assert file.read(3_000_000) == content[12_345_678:15_345_678]
        assert file.read(0) == b""


def test_sixteen_writers_race_on_every_chunk(store: RunStore, tiny_bundle: Path) -> None:
    """Sixteen clients commit all chunks at once: each chunk is there once, and the run is sound."""
    plan = plan_run(store, tiny_bundle, [f"i{number}" for number in range(60)], chunk_rows=3)
    tables = [tagged_rows(plan, plan.read_chunk(store, chunk), {}) for chunk in range(plan.chunks)]
    start = threading.Barrier(16)

    def write(writer: int) -> list[bool]:
        own = pickle.loads(pickle.dumps(store))
        won = []
        for chunk, table in enumerate(tables):
            start.wait()
            won.append(commit_chunk(own, chunk, table))
        return won

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert [sum(of_chunk) for of_chunk in zip(*won, strict=True)] == [1] * plan.chunks
    finalize(store)
    assert verify(store).faults == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("AWS_ACCESS_KEY_ID", "nobody", r"does not know this access key: see AWS_ACCESS_KEY_ID \(InvalidAccessKeyId\)"),
        (SECRET, "wrong-secret", r"the secret key is wrong: see AWS_SECRET_ACCESS_KEY \(SignatureDoesNotMatch\)"),
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:9", r"the store at http://127.0.0.1:9 does not answer"),
    ],
)
def test_wrong_keys_and_endpoints_are_told_in_one_line(
    s3_run: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """The variable to look at is named, and no key is shown."""
    monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=words) as caught:
        open_store(s3_run)
    assert "\n" not in str(caught.value)
    assert value not in str(caught.value) or name == "AWS_ENDPOINT_URL"
    assert caught.value.exit_code == 2


def test_no_such_bucket_and_no_bucket(s3_run: str) -> None:
    """A bucket is not made by the way."""
    with pytest.raises(StoreError, match=r"s3://test-no-such/run: cannot list it: there is no such bucket"):
        open_store("s3://test-no-such/run")
    with pytest.raises(StoreError, match="names no bucket"):
        open_store("s3://")


def test_keys_without_the_right_to_write(s3_server: S3Server, s3_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket that others may only read: the probe refuses, before any work."""
    bucket = s3_run.split("/")[2]
    resources = f'["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]'
    allowed = '["s3:ListBucket","s3:GetObject"]'
    set_policy(s3_server, bucket, allowed, resources)
    for name in ("AWS_ACCESS_KEY_ID", SECRET):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with pytest.raises(StoreError, match=r"cannot (write|delete) .*grant them reading, writing, listing and deleting"):
        open_store(s3_run).probe()


def set_policy(server: S3Server, bucket: str, actions: str, resources: str) -> None:
    statement = f'{{"Effect":"Allow","Principal":"*","Action":{actions},"Resource":{resources}}}'
    policy = f'{{"Version":"2012-10-17","Statement":[{statement}]}}'
    server.files().call_s3("put_bucket_policy", Bucket=bucket, Policy=policy)


def test_a_store_carries_its_keys_to_other_processes_without_showing_them(
    s3_server: S3Server, store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker on another node has none of the driver's environment; and nobody prints keys by printing the store."""
    store.create("a", b"1")
    sent = pickle.dumps(store)
    for name in s3_server.environment:
        monkeypatch.delenv(name)
    received = pickle.loads(sent)
    assert received.read("a") == b"1"
    for shown in (repr(received), str(received), repr(vars(received))):
        assert s3_server.environment[SECRET] not in shown
        assert s3_server.environment["AWS_ACCESS_KEY_ID"] not in shown


def test_the_event_log_grows_in_numbered_objects(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is in the bucket some seconds later without anybody's doing, the rest when the log is closed; in order."""
    log = EventLog(store, "s", "driver")
    log.write("first")
    deadline = time.monotonic() + 20
    while not list(read_events(store)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    monkeypatch.setattr("pipeline.stores.bucket_log._ROLL_BYTES", 1000)
    for number in range(60):
        log.write("line", number=number, text="x" * 100)
        if number % 20 == 19:
            log._log._flush()
    log.close()
    log.close()
    assert [event.get("number") for event in events_in_order(store)] == [None, *range(60)]
    assert len(list(store.list("events/"))) == 3


def test_a_lock_is_held_by_one(store: RunStore) -> None:
    """Eight at once: never two within, and all get their turn."""
    within: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        with pickle.loads(pickle.dumps(store)).alone("finalize"):
            within.append(number)
            most.append(len(within))
            time.sleep(0.05)
            within.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert (max(most), len(most)) == (1, 8)
    assert len(list(store.list("locks/"))) == 1


HOLD = """
import sys, time
from pipeline.stores.opening import open_store
with open_store(sys.argv[1]).alone("finalize"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_the_lock_of_a_killed_holder_is_taken(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lives keeps it, however long it works; after SIGKILL it is free when nothing has changed for a while."""
    monkeypatch.setattr(bucket_lock, "STALE_S", 5.0)
    with subprocess.Popen([sys.executable, "-c", HOLD, store.root], stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            taken = threading.Event()

            def take() -> None:
                with store.alone("finalize"):
                    taken.set()

            waiting = threading.Thread(target=take)
            waiting.start()
            assert not taken.wait(8)
        finally:
            holder.send_signal(signal.SIGKILL)
        assert taken.wait(30)
        waiting.join()


@contextmanager
def forgetful(server: S3Server) -> Iterator[str]:
    """The endpoint of a store that does not know If-None-Match: a proxy that leaves the header out."""
    host, port = server.endpoint.removeprefix("http://").split(":")

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "if-none-match"}
            upstream = HTTPConnection(host, int(port), timeout=30)
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length)
            self.end_headers()
            self.wfile.write(data)
            upstream.close()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = forward  # noqa: N815

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        thread = threading.Thread(target=proxy.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
            thread.join()


def test_a_store_that_overwrites_is_refused_or_has_one_writer(
    s3_server: S3Server, s3_run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found out by the probe; with the flag, `create` asks first, and that travels with the store."""
    bucket = s3_run.split("/")[2]
    set_policy(s3_server, bucket, '"s3:*"', f'["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]')
    with forgetful(s3_server) as endpoint:
        # Without a signature, which would cover the header that the proxy leaves out.
        for name in ("AWS_ACCESS_KEY_ID", SECRET):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = open_store(s3_run)
        with pytest.raises(StoreError, match=r"overwrites an object .*--set run\.single_writer=true"):
            store.probe()
        store.probe(single_writer=True)
        received = pickle.loads(pickle.dumps(store))
        assert [received.create("a", b"1"), received.create("a", b"2"), received.read("a")] == [True, False, b"1"]
