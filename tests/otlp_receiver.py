"""An OpenTelemetry collector for tests: takes OTLP over HTTP on a port of its own, and keeps what it was sent."""

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

Labels = frozenset[tuple[str, str]]


@dataclass
class Receiver:
    """What came in. values: of each metric the latest by its labels; headers: of the latest request."""

    endpoint: str = ""
    values: dict[str, dict[Labels, float]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    requests: int = 0

    def take_metrics(self, body: bytes) -> None:
        self.requests += 1
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.resources.append(dict(labels_of(resource.resource.attributes)))
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                kind = metric.WhichOneof("data")
                points = getattr(metric, kind).data_points
                self.kinds[metric.name], self.units[metric.name] = kind, metric.unit
                self.values[metric.name] = {labels_of(p.attributes): p.as_double or p.as_int for p in points}

    def take_spans(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.spans += [span for scope in resource.scope_spans for span in scope.spans]


def labels_of(attributes: "list[KeyValue]") -> Labels:
    return frozenset((pair.key, pair.value.string_value) for pair in attributes)


@contextmanager
def receiving() -> Iterator[Receiver]:
    """A collector that listens within."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            receiver.headers = dict(self.headers)
            {"/v1/metrics": receiver.take_metrics, "/v1/traces": receiver.take_spans}[self.path](body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    receiver.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
