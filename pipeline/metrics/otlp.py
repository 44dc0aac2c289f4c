"""Metrics and spans to an OpenTelemetry collector, by OTLP over HTTP; the packages are an extra of the project."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError
from pipeline.fetching.redaction import redacted
from pipeline.metrics.kinds import METRICS, RUN, Metric, Values

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation

    from pipeline.config import TelemetryConfig

_SERVICE = "ramfleet"
_TIMEOUT_S = 3.0
"""For a request; in the end of the work, for the last metrics and the last spans each."""


def check_packages(config: "TelemetryConfig") -> None:
    """Raises ConfigError if an endpoint is given and the packages for it are not there."""
    if config.otlp_endpoint is None:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"telemetry.otlp_endpoint={redacted(config.otlp_endpoint)!r}: needs the package {error.name}, "
            "which is not installed: pip install 'ramfleet[otlp]', or leave the key out"
        ) from error


class Otlp:
    """Sends the latest values every so often, and spans as they end; nobody waits for either.

    A collector that does not answer is told of once. Headers, certificates and compression are those of the environment
    (OTEL_EXPORTER_OTLP_*), as everywhere. config.otlp_endpoint must be set; run: the run folder;
    read: the present values, asked in a thread; say: tells a person a line.
    """

    def __init__(
        self, config: "TelemetryConfig", run: str, read: Callable[[], Values], say: Callable[[str], None]
    ) -> None:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        base = str(config.otlp_endpoint).rstrip("/")
        self._run, self._read = run, read
        self._complaint = _Complaint(redacted(base), say)
        resource = Resource.create({"service.name": _SERVICE, "ramfleet.run": run})
        metrics = OTLPMetricExporter(endpoint=f"{base}/v1/metrics", timeout=_TIMEOUT_S)
        self._reader = PeriodicExportingMetricReader(
            metrics,
            export_interval_millis=config.export_every_s * 1000,
            export_timeout_millis=_TIMEOUT_S * 1000,
        )
        self._meters = MeterProvider([self._reader], resource, shutdown_on_exit=False)
        self._tracers = TracerProvider(resource=resource, shutdown_on_exit=False)
        spans = OTLPSpanExporter(endpoint=f"{base}/v1/traces", timeout=_TIMEOUT_S)
        self._exporters = (metrics, spans)
        self._tracers.add_span_processor(BatchSpanProcessor(spans, schedule_delay_millis=config.export_every_s * 1000))
        self._tracer = self._tracers.get_tracer(_SERVICE)
        meter = self._meters.get_meter(_SERVICE)
        for metric in METRICS.values():
            create = meter.create_observable_counter if metric.kind == "counter" else meter.create_observable_gauge
            create(metric.name, [self._observer(metric)], metric.unit, metric.meaning)

    @contextmanager
    def span(self, name: str, **attributes: Any) -> Iterator[None]:
        """Within: a span of this name, below the one that is open; an error that passes is noted in it."""
        with self._tracer.start_as_current_span(name, attributes={RUN: self._run, **attributes}):
            yield

    def close(self) -> None:
        """Send what is left, if the collector answers within seconds; one that did not answer before is not asked."""
        if self._complaint.said:
            for exporter in self._exporters:
                exporter.shutdown()
        self._meters.shutdown(timeout_millis=_TIMEOUT_S * 1000)
        self._tracers.force_flush(round(_TIMEOUT_S * 1000))
        self._tracers.shutdown()
        self._complaint.close()

    def _observer(self, metric: Metric) -> "Callable[[CallbackOptions], Iterable[Observation]]":
        def observe(_: "CallbackOptions") -> "Iterable[Observation]":
            from opentelemetry.metrics import Observation

            keys = (*metric.labels, RUN)
            for labels, value in self._read().get(metric.name, {}).items():
                yield Observation(value, dict(zip(keys, (*labels, self._run), strict=True)))

        return observe


class _Complaint(logging.Handler):
    """Listens to the exporters' log, which is where they say that they cannot send; the first time is passed on."""

    def __init__(self, endpoint: str, say: Callable[[str], None]) -> None:
        super().__init__(logging.ERROR)
        self._endpoint, self._say = endpoint, say
        self.said = False
        self._logger = logging.getLogger("opentelemetry")
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """An exporter gave up on something."""
        if not self.said:
            self.said = True
            self._say(
                f"telemetry.otlp_endpoint={self._endpoint}: metrics and spans cannot be sent; the run goes on without: "
                + " ".join(record.getMessage().split())[:200]
            )

    def close(self) -> None:
        """Listen no more."""
        self._logger.removeHandler(self)
        super().close()
