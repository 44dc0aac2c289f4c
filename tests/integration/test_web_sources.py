"""Images from the web: a server that misbehaves in every way known here, and addresses that may not be reached."""

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

import pytest
import trustme
from bad_server import BIG_BYTES, PICTURE, BadServer, serving

from pipeline.config import FetchConfig
from pipeline.error_kinds import ERROR_KINDS
from pipeline.fetching.addresses import guarded_socket
from pipeline.fetching.fetcher import Fetcher
from ramcore.errors import ImageError
from ramcore.images import decode

pytestmark = pytest.mark.integration

QUICK = FetchConfig(
    allow_hosts=("127.0.0.1", "localhost"),
    connect_timeout_s=1,
    read_timeout_s=0.4,
    total_timeout_s=1.2,
    retries=2,
    backoff_s=0.02,
    max_backoff_s=5,
    max_image_bytes=10 << 20,
)
"""Time-outs that tests can wait for."""


@pytest.fixture(scope="module")
def server() -> Iterator[BadServer]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def fetcher() -> Iterator[Fetcher]:
    with Fetcher(QUICK) as running:
        yield running


def outcome(fetcher: Fetcher, uri: str) -> tuple[str | None, int, str]:
    """(error kind of fetching or decoding, or None; attempts; detail) of one image."""
    fetched = fetcher.begin(uri).result()
    if fetched.error is not None:
        return fetched.error.kind, fetched.attempts, fetched.error.detail
    try:
        decode(fetched.data or b"", 64, "fast", 10**8)
    except ImageError as fault:
        return fault.kind, fetched.attempts, fault.detail
    return None, fetched.attempts, ""


MISBEHAVIOUR = [
    # path, error kind, attempts
    ("/fine", None, 1),
    ("/slow", None, 1),
    ("/hang", "timeout", 3),
    ("/hang-in-body", "timeout", 3),
    ("/drip", "timeout", 3),
    ("/reset", "connection", 3),
    ("/nothing", "connection", 3),
    ("/short", "connection", 3),
    ("/long", "bad_response", 3),
    ("/429", None, 2),
    ("/429-for-long", "throttled", 1),
    ("/503-twice", None, 3),
    ("/redirect", None, 1),
    ("/loop", "too_many_redirects", 1),
    ("/to-private", "blocked_address", 1),
    ("/to-metadata", "blocked_address", 1),
    ("/to-decimal", "blocked_address", 1),
    ("/to-file", "bad_response", 3),
    ("/to-nowhere", "bad_response", 3),
    ("/html", "not_an_image", 1),
    ("/empty", "empty", 1),
    ("/pour", "too_large", 1),
    ("/says-big", "too_large", 1),
    ("/bomb", "too_large", 1),
    ("/gzip", None, 1),
    ("/gzip-cut", "connection", 3),
    ("/brotli", "bad_response", 1),
    ("/noai", "robots", 1),
    ("/for-others", None, 1),
    ("/garbage", "bad_response", 3),
    ("/endless-header", "bad_response", 3),
    ("/status/401", "forbidden", 1),
    ("/status/403", "forbidden", 1),
    ("/status/404", "not_found", 1),
    ("/status/408", "timeout", 3),
    ("/status/410", "not_found", 1),
    ("/status/418", "http_4xx", 1),
    ("/status/429", "throttled", 3),
    ("/status/451", "forbidden", 1),
    ("/status/500", "http_5xx", 3),
    ("/status/504", "http_5xx", 3),
    ("/status/204", "bad_response", 3),
    ("/status/999", "bad_response", 3),
]


@pytest.mark.parametrize(("path", "kind", "attempts"), MISBEHAVIOUR, ids=[path for path, _, _ in MISBEHAVIOUR])
def test_each_misbehaviour_has_its_kind(
    server: BadServer, fetcher: Fetcher, path: str, kind: str | None, attempts: int
) -> None:
    """The kind, the number of requests that were made, and an end within the time-outs of that many attempts."""
    start = time.monotonic()
    found = outcome(fetcher, server.url(path + "?token=sesame"))
    assert found[:2] == (kind, attempts), found
    assert kind is None or kind in ERROR_KINDS
    assert "sesame" not in found[2]
    if path not in ("/redirect", "/loop"):
        assert server.requests[path + "?token=sesame"] == attempts
    assert time.monotonic() - start < attempts * QUICK.total_timeout_s + 2 * QUICK.backoff_s + 1.5


def test_a_large_body_is_not_read_to_its_end(server: BadServer, fetcher: Fetcher) -> None:
    """Of 100 MB without a stated length, little more than fetch.max_image_bytes is sent."""
    assert outcome(fetcher, server.url("/pour?again"))[0] == "too_large"
    assert server.sent < BIG_BYTES / 2


def test_a_hanging_host_does_not_hold_up_others(server: BadServer) -> None:
    """Fifty images of a host that hangs, and then fifty of one that works: these come before any of those ends."""
    with serving() as hanging, Fetcher(QUICK.model_copy(update={"concurrency": 12})) as fetcher:
        stuck = [fetcher.begin(hanging.url("/hang")) for _ in range(50)]
        fine = [fetcher.begin(server.url("/fine")) for _ in range(50)]
        assert all(future.result(30).data == PICTURE for future in fine)
        assert not any(future.done() for future in stuck[8:])


def test_a_host_that_asks_for_time_gets_it_from_all_its_images(server: BadServer) -> None:
    """After one 429 with Retry-After, the host's other images wait, too, and then all come."""
    with serving() as host, Fetcher(QUICK.model_copy(update={"concurrency_per_host": 1})) as fetcher:
        futures = [fetcher.begin(host.url(path)) for path in ("/429", "/fine", "/fine", "/fine")]
        start = time.monotonic()
        assert all(future.result(30).data == PICTURE for future in futures)
        assert time.monotonic() - start >= 0.9


def test_no_more_connections_to_a_host_than_allowed() -> None:
    """fetch.concurrency_per_host holds whatever fetch.concurrency is."""
    config = QUICK.model_copy(update={"concurrency_per_host": 3, "concurrency": 32, "retries": 0})
    with serving() as host, Fetcher(config) as fetcher:
        futures = [fetcher.begin(host.url(f"/hang/{number}")) for number in range(12)]
        time.sleep(0.2)
        assert sum(host.requests.values()) == 3
        assert all(future.result(30).error for future in futures)


def test_tls_that_is_not_trusted() -> None:
    """A certificate of an unknown authority, one of another name, and no TLS at all."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(context)
    with serving(context) as encrypted, serving() as plain, Fetcher(QUICK) as fetcher:
        for url in (encrypted.url("/fine", "https"), plain.url("/fine", "https")):
            found = outcome(fetcher, url)
            assert found[:2] == ("tls", 1), found
        assert "certificate verify failed" in outcome(fetcher, encrypted.url("/fine", "https"))[2]


def test_tls_that_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A certificate of an authority that SSL_CERT_FILE names is accepted, for its own name only."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    with serving(context) as encrypted, Fetcher(QUICK) as fetcher:
        assert fetcher.fetch(encrypted.url("/fine", "https", "localhost")) == PICTURE
        assert outcome(fetcher, encrypted.url("/fine", "https", "127.0.0.1"))[0] == "tls"


def test_nobody_listens(fetcher: Fetcher) -> None:
    """A closed port, and a name without an address."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert outcome(fetcher, f"http://127.0.0.1:{port}/")[:2] == ("connection", 3)
    assert outcome(fetcher, "http://nowhere.invalid/")[:2] == ("dns", 3)


class FakeDns:
    """A name service that gives another answer each time, as one under an attacker's control may."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, host: str, port: int) -> list[tuple[Any, Any, Any, Any, Any]]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answer
        ]


STRICT = QUICK.model_copy(update={"allow_hosts": (), "retries": 0})


@pytest.mark.parametrize(
    "answer",
    [["127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"], ["10.1.2.3", "192.168.0.1"], ["169.254.169.254"], ["0.0.0.0"]],
)
def test_names_of_private_addresses_are_blocked(server: BadServer, answer: list[str]) -> None:
    """The name is public, its address is not: nothing is sent."""
    before = sum(server.requests.values())
    with Fetcher(STRICT, lookup=FakeDns(answer)) as fetcher:
        assert outcome(fetcher, server.url("/fine", host="pictures.example"))[0] == "blocked_address"
    assert sum(server.requests.values()) == before


def test_dns_rebinding_is_blocked(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is first public, then loopback: the address that was checked is the one that is connected to."""
    tried: list[str] = []

    def never_connect(address: tuple[Any, Any, Any, Any, Any]) -> socket.socket:
        tried.append(address[4][0])
        guarded_socket(address).close()  # raises for what may not be reached
        raise ConnectionRefusedError  # nothing is sent to the public address of this test

    monkeypatch.setattr("pipeline.fetching.web.guarded_socket", never_connect)
    before = sum(server.requests.values())
    names = FakeDns(["8.8.8.8"], ["127.0.0.1"])
    url = server.url("/fine", host="rebind.example")
    with Fetcher(STRICT, lookup=names) as fetcher:
        assert outcome(fetcher, url)[0] == "connection"
        assert (tried, names.asked) == (["8.8.8.8"], 1)
        time.sleep(10.5)  # the answer is forgotten
        assert outcome(fetcher, url)[0] == "blocked_address"
    assert (tried, names.asked) == (["8.8.8.8"], 2)
    assert sum(server.requests.values()) == before


def test_the_address_is_checked_again_as_the_socket_is_made(server: BadServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a resolver that lets a private address through does not lead to a connection."""
    monkeypatch.setattr("pipeline.fetching.addresses.Resolver._public", lambda self, found: found)
    before = sum(server.requests.values())
    with Fetcher(STRICT, lookup=FakeDns(["127.0.0.1"])) as fetcher:
        assert outcome(fetcher, server.url("/fine", host="pictures.example"))[0] == "blocked_address"
    assert sum(server.requests.values()) == before


def test_hosts_that_are_allowed_by_name(server: BadServer) -> None:
    """fetch.allow_hosts takes names, names with ports and addresses, each for itself only."""
    for allowed in ("inside.example", f"INSIDE.example:{server.port}"):
        with Fetcher(STRICT.model_copy(update={"allow_hosts": (allowed,)}), lookup=FakeDns(["127.0.0.1"])) as fetcher:
            assert outcome(fetcher, server.url("/fine", host="inside.example"))[0] is None
            assert outcome(fetcher, server.url("/fine", host="other.example"))[0] == "blocked_address"
            assert outcome(fetcher, server.url("/fine"))[0] == "blocked_address"
    with Fetcher(
        STRICT.model_copy(update={"allow_hosts": ("inside.example:1",)}), lookup=FakeDns(["127.0.0.1"])
    ) as one:
        assert outcome(one, server.url("/fine", host="inside.example"))[0] == "blocked_address"


def test_a_name_service_that_hangs() -> None:
    """It costs its own images the time for connecting, and holds up no local file."""

    def hang(host: str, port: int) -> list[tuple[Any, Any, Any, Any, Any]]:
        time.sleep(8)
        return []

    with Fetcher(STRICT.model_copy(update={"connect_timeout_s": 0.3}), roots=(__file__,), lookup=hang) as fetcher:
        names = [fetcher.begin(f"http://host{number}.example/") for number in range(40)]
        assert fetcher.fetch(__file__)
        assert {future.result(30).error.kind for future in names} == {"dns"}


def test_robots_rules_can_be_set_aside(server: BadServer) -> None:
    """With permission of the owner."""
    with Fetcher(QUICK.model_copy(update={"robots": False})) as fetcher:
        assert outcome(fetcher, server.url("/noai"))[0] is None
    with Fetcher(QUICK.model_copy(update={"user_agent": "otherbot/1.0"})) as fetcher:
        assert outcome(fetcher, server.url("/for-others"))[0] == "robots"


def test_closing_gives_up_what_is_under_way(server: BadServer) -> None:
    """Nothing hangs, no thread stays, and closing again is no error."""
    fetcher = Fetcher(QUICK.model_copy(update={"total_timeout_s": 600, "read_timeout_s": 600}))
    futures = [fetcher.begin(server.url("/hang")) for _ in range(5)]
    time.sleep(0.2)
    fetcher.close()
    fetcher.close()
    assert all(future.cancelled() for future in futures)
