"""Metrics and spans to an OpenTelemetry collector, without a run."""

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from otlp_receiver import receiving

from pipeline.config import TelemetryConfig, load_config
from pipeline.errors import ConfigError
from pipeline.metrics.kinds import METRICS, Values
from pipeline.metrics.otlp import Otlp, check_packages

VALUES: Values = {
    "ramfleet_images_total": {("tagged",): 41.0, ("rejected",): 1.0},
    "ramfleet_images_left": {(): 7.0},
    "ramfleet_cost_total": {("t4", "USD"): 0.25},
}


def sent(endpoint: str, said: list[str], every_s: float = 60.0) -> Otlp:
    return Otlp(
        TelemetryConfig(otlp_endpoint=endpoint, export_every_s=every_s), "/runs/one", lambda: VALUES, said.append
    )


@pytest.mark.lengthy
def test_values_arrive_with_kind_unit_and_labels() -> None:
    """The last ones when it is closed, however long the interval is; nothing is said."""
    said: list[str] = []
    with receiving() as receiver:
        sent(receiver.endpoint, said).close()
    run = ("run", "/runs/one")
    assert receiver.values == {
        "ramfleet_images_total": {
            frozenset({run, ("result", "tagged")}): 41,
            frozenset({run, ("result", "rejected")}): 1,
        },
        "ramfleet_images_left": {frozenset({run}): 7},
        "ramfleet_cost_total": {frozenset({run, ("node_type", "t4"), ("currency", "USD")}): 0.25},
    }
    assert receiver.kinds["ramfleet_images_total"] == "sum"
    assert receiver.kinds["ramfleet_images_left"] == "gauge"
    assert receiver.units == {name: METRICS[name].unit for name in VALUES}
    assert receiver.resources[-1]["service.name"] == "ramfleet"
    assert said == []


@pytest.mark.lengthy
def test_spans_nest_and_note_what_went_wrong() -> None:
    """An error that ends a stage is in its span, and goes on its way."""
    with receiving() as receiver:
        otlp = sent(receiver.endpoint, [])
        with pytest.raises(ValueError), otlp.span("ramfleet tag"), otlp.span("round", chunks=3):
            raise ValueError("no more")
        otlp.close()
    inner, outer = receiver.spans
    assert (inner.name, outer.name) == ("round", "ramfleet tag")
    assert inner.parent_span_id == outer.span_id
    assert inner.events[0].name == "exception"
    assert {pair.key: pair.value.int_value for pair in inner.attributes}["chunks"] == 3


@pytest.mark.lengthy
def test_headers_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every OpenTelemetry exporter takes them: a key for the collector is no configuration of a run."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=abc")
    with receiving() as receiver:
        sent(receiver.endpoint, []).close()
    assert receiver.headers["api-key"] == "abc"


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def refused() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return f"http://me:secret@127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_a_collector_that_is_away_is_told_of_once(kind: str, request: pytest.FixtureRequest) -> None:
    """In one line that names the key, without the password; closing comes to an end."""
    said: list[str] = []
    otlp = sent(request.getfixturevalue(kind), said)
    with otlp.span("plan"):
        pass
    otlp.close()
    (line,) = said
    assert re.match(r"telemetry\.otlp_endpoint=http://127\.0\.0\.1:\d+: metrics and spans cannot be sent; ", line)
    assert "\n" not in line
    assert "secret" not in line


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http", "opentelemetry"])
def test_missing_packages_are_named_with_the_remedy(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with field, value and what to install, exit code 2; without an endpoint they are not missed."""
    monkeypatch.setitem(sys.modules, missing, None)
    check_packages(TelemetryConfig())
    with pytest.raises(ConfigError) as caught:
        check_packages(TelemetryConfig(otlp_endpoint="http://me:secret@host:4318"))
    assert re.fullmatch(
        r"telemetry\.otlp_endpoint='http://host:4318': needs the package [\w.]+, which is not installed: "
        r"pip install 'ramfleet\[otlp\]', or leave the key out",
        str(caught.value),
    )
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "3"])
def test_other_endpoints_are_refused(endpoint: str) -> None:
    """The line names the key: OTLP goes over HTTP here."""
    with pytest.raises(ConfigError, match=r"^telemetry\.otlp_endpoint="):
        load_config(None, [f"telemetry.otlp_endpoint={endpoint}"])


def test_the_extras_are_those_that_are_named() -> None:
    """What messages tell people to install exists."""
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {"metrics", "otlp"} <= project["optional-dependencies"].keys()
