"""`ramfleet submit`, with Ray's own client and a real HTTP server that speaks the few endpoints of a job server."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from aiohttp import web
from typer.testing import CliRunner

from pipeline.errors import ClusterError, ConfigError
from pipeline.submit import JobServer, Submission, runtime_environment

# Of Ray's client, which hands aiohttp a value that is going out of use.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")


class Server:
    """A job server with one job, whose log is told in pieces; it breaks the connection `breaks` times on the way."""

    def __init__(self, status: str = "SUCCEEDED", token: str | None = None, breaks: int = 0, ends: bool = True) -> None:
        self.status, self.token, self.breaks, self.ends = status, token, breaks, ends
        self.submitted: dict[str, Any] = {}
        self.packages: dict[str, int] = {}
        self.log = ["starting\n", "tagged 7 images\n", "done\n"]
        self.is_over = False
        self.address = ""

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=1 << 26)
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/packages/{protocol}/{name}", self._package)
        app.router.add_put("/api/packages/{protocol}/{name}", self._upload)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get("/api/jobs/{job}", self._info)
        app.router.add_get("/api/jobs/{job}/logs", self._logs)
        app.router.add_get("/api/jobs/{job}/logs/tail", self._tail)
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=403 if "Authorization" in request.headers else 401, text="no")
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": ray.__version__, "ray_commit": "x"})

    async def _package(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if request.match_info["name"] in self.packages else 404)

    async def _upload(self, request: web.Request) -> web.Response:
        self.packages[request.match_info["name"]] = len(await request.read())
        return web.Response()

    async def _submit(self, request: web.Request) -> web.Response:
        self.submitted = await request.json()
        job = self.submitted.get("submission_id") or "raysubmit_1"
        return web.json_response({"job_id": job, "submission_id": job})

    async def _info(self, request: web.Request) -> web.Response:
        if request.match_info["job"] == "none":
            return web.Response(status=404, text="Job none does not exist")
        code = {"SUCCEEDED": 0, "FAILED": 3}.get(self.status)
        status = self.status if self.is_over else "RUNNING"
        told = {"type": "SUBMISSION", "entrypoint": "x", "status": status, "message": "it\nended"}
        return web.json_response(told | ({"driver_exit_code": code} if self.is_over else {}))

    async def _logs(self, request: web.Request) -> web.Response:
        return web.json_response({"logs": "".join(self.log)})

    async def _tail(self, request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse()
        await connection.prepare(request)
        await connection.send_str(self.log[0])
        if self.breaks:
            self.breaks -= 1
            assert request.transport is not None
            request.transport.abort()
            return connection
        for text in self.log[1:]:
            await connection.send_str(text)
        while not self.ends:
            await asyncio.sleep(0.05)
        self.is_over = True
        await connection.close()
        return connection


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    loop, ready = asyncio.new_event_loop(), threading.Event()
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(30)
        yield server
    finally:
        server.ends = True
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address or token of the machine that tests; what a JobServer sets is taken back."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "")
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str) -> tuple[int, str]:
    from jobs.main import app

    result = CliRunner().invoke(app, ["submit", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


@pytest.mark.lengthy
def test_a_command_is_sent_and_its_log_followed(tmp_path: Path) -> None:
    """Words with spaces stay one word; environment and folder go along; the log comes once and whole."""
    (tmp_path / "photos.csv").write_text("uri\n")
    with serving(Server()) as server:
        code, said = run(
            "--address", server.address, "--working-dir", str(tmp_path), "--env", "A=b c", "--pip", "numpy",
            "--", "tag", "my photos", "--out", "s3://bucket/run",
        )  # fmt: skip
    assert code == 0
    assert server.submitted["entrypoint"] == "ramfleet tag 'my photos' --out s3://bucket/run"
    environment = server.submitted["runtime_env"]
    assert environment["env_vars"] == {"A": "b c"}
    assert "numpy" in json.dumps(environment["pip"])
    assert environment["working_dir"].startswith("gcs://_ray_pkg_")
    assert len(server.packages) == 1
    assert said.count("tagged 7 images") == said.count("done") == 1


@pytest.mark.lengthy
def test_a_connection_that_breaks_is_made_again() -> None:
    """Nothing of the log is lost or told twice."""
    with serving(Server(breaks=2)) as server:
        written: list[str] = []
        end = JobServer(server.address).follow("raysubmit_1", written.append)
    assert "".join(written) == "".join(server.log)
    assert (end.status, end.code, end.message) == ("SUCCEEDED", 0, "it ended")


@pytest.mark.lengthy
def test_a_job_that_fails_gives_its_exit_code() -> None:
    """3 = the same command goes on."""
    with serving(Server("FAILED")) as server:
        code, said = run("--address", server.address, "--", "tag", "x", "--out", "y")
    assert code == 3
    assert "job raysubmit_1 failed: it ended" in said


@pytest.mark.lengthy
def test_an_interrupt_leaves_the_job_running() -> None:
    """And says how to follow it again."""
    with serving(Server(ends=False)) as server:
        command = [sys.executable, "-m", "jobs.main", "submit", "--address", server.address, "--", "tag", "x"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in server.log] == server.log
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert f"ramfleet submit --address {server.address} --follow raysubmit_1" in said
        assert not server.is_over


@pytest.mark.lengthy
def test_a_job_is_followed_again() -> None:
    """From the beginning of its log; nothing is sent."""
    with serving(Server()) as server:
        code, said = run("--address", server.address, "--follow", "raysubmit_1")
    assert code == 0
    assert "".join(server.log) in said
    assert not server.submitted


def test_an_address_that_does_not_answer_is_one_line() -> None:
    """With the remedy."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ClusterError, match="nothing answers there: give the address") as caught:
            JobServer(f"http://127.0.0.1:{taken.getsockname()[1]}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_token_that_is_missing_or_wrong_is_one_line(token: str | None) -> None:
    """With where to give it."""
    with serving(Server(token="right")) as server, pytest.raises(ClusterError, match="give --token-file") as caught:
        JobServer(server.address, token)
    assert "\n" not in str(caught.value)


@pytest.mark.lengthy
def test_a_token_is_read_from_a_file(tmp_path: Path) -> None:
    """And sent with every request, those for the log too."""
    (tmp_path / "token").write_text("right\n")
    with serving(Server(token="right")) as server:
        code, said = run("--address", server.address, "--token-file", str(tmp_path / "token"), "--", "tag", "x")
    assert code == 0
    assert "tagged 7 images" in said


def test_a_job_that_is_not_there_is_one_line() -> None:
    """The server's own words."""
    with serving(Server()) as server, pytest.raises(ClusterError, match="Job none does not exist") as caught:
        JobServer(server.address).follow("none", print)
    assert "\n" not in str(caught.value)


def test_the_given_address_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's client would take the other one without a word."""
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    with serving(Server()) as server:
        JobServer(server.address).submit(Submission(("ramfleet", "--version")))
        assert server.submitted["entrypoint"] == "ramfleet --version"


@pytest.mark.parametrize(
    ("submission", "said"),
    [
        (Submission(("x",), working_dir="/not/there"), "working_dir=/not/there: not there"),
        (Submission(("x",), image="mine:1", pip=("numpy",)), "leave out working_dir and pip"),
    ],
)
def test_what_cannot_be_sent_is_refused(submission: Submission, said: str) -> None:
    """Before anything is asked of the server."""
    with pytest.raises(ConfigError, match=said):
        runtime_environment(submission)


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "PGPASSWORD", "api_key"])
def test_keys_are_not_handed_to_where_ray_shows_them(name: str) -> None:
    """A job's variables stand in the dashboard and in logs: refused by name, never by value."""
    with pytest.raises(ConfigError, match=f"env={name}: Ray shows") as caught:
        runtime_environment(Submission(("x",), environment={name: "do not tell", "AWS_ACCESS_KEY_ID": "public"}))
    assert "do not tell" not in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" not in str(caught.value)


def test_an_image_is_named_in_the_environment() -> None:
    """And nothing else, where nothing else is given."""
    assert runtime_environment(Submission(("x",), image="mine:1")) == {"image_uri": "mine:1"}


def test_a_variable_without_a_value_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not set here is refused."""
    monkeypatch.setenv("RAMFLEET_TEST", "mine")
    assert os.environ["RAMFLEET_TEST"] == "mine"
    with serving(Server()) as server:
        assert run("--address", server.address, "--env", "RAMFLEET_TEST", "--no-wait", "--", "tag", "x")[0] == 0
        assert server.submitted["runtime_env"]["env_vars"] == {"RAMFLEET_TEST": "mine"}
        assert run("--address", server.address, "--env", "NOT_SET_HERE", "--", "tag", "x")[0] == 2
