"""What the driver tells the outside while it works: the same metrics to Prometheus and to OpenTelemetry, and spans."""

import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from rich.console import Console

from pipeline.config import Config
from pipeline.metrics.kinds import Values
from pipeline.metrics.otlp import Otlp, check_packages
from pipeline.metrics.ray_metrics import WITHOUT_AGENT, RayMetrics, prometheus_address
from pipeline.metrics.tally import Tally


class Meter:
    """The metrics of one driver: those that the Fleet counted of its events, and those of the driver's own.

    Counters begin at zero with each driver.
    """

    def __init__(self, run: str, config: Config, console: Console) -> None:
        self._console = console
        self._run = run
        self._tally = Tally()
        self._values: Values = {}
        self._ray: RayMetrics | None = None
        telemetry = config.telemetry
        self._otlp = None if telemetry.otlp_endpoint is None else Otlp(telemetry, run, lambda: self._values, self._say)

    def join(self) -> None:
        """A cluster is there: metrics go to it from now on. Says where they are to be read."""
        self._ray = RayMetrics(self._run)
        address = prometheus_address()
        if address is not None:
            self._say(f"Metrics for Prometheus: {address}, and every node's")
        elif "RAY_ADDRESS" in os.environ:  # nobody scrapes the Ray that a single command starts for itself
            self._say(WITHOUT_AGENT)

    def take(self, event: Mapping[str, Any]) -> None:
        """An event that is not the Fleet's."""
        self._tally.take(event)

    def update(self, fleet: Values, planned: int, left: int, chunks_left: int) -> None:
        """How it stands. fleet: what the Fleet counted; planned, left: images of the run, and unfinished ones."""
        progress: Values = {
            "ramfleet_images_planned": {(): float(planned)},
            "ramfleet_images_left": {(): float(left)},
            "ramfleet_chunks_left": {(): float(chunks_left)},
        }
        own = {name: series for name, series in self._tally.values().items() if series}
        self._values = {**fleet, **own, **progress}
        if self._ray is not None:
            self._ray.update(self._values)

    def span(self, name: str, **attributes: Any) -> AbstractContextManager[None]:
        """Within: a span of this name, where there is a collector for it."""
        return nullcontext() if self._otlp is None else self._otlp.span(name, **attributes)

    def close(self) -> None:
        """Send what is left."""
        if self._otlp is not None:
            self._otlp.close()

    def _say(self, line: str) -> None:
        self._console.print(line, style="dim", soft_wrap=True, highlight=False, markup=False)


@contextmanager
def metered(run: str, command: str, config: Config, console: Console) -> Iterator[Meter]:
    """Within: metrics and spans of a command's work on a run are told, as `telemetry.*` says.

    Raises ConfigError if the packages for that are not there.
    """
    check_packages(config.telemetry)
    meter = Meter(run, config, console)
    try:
        with meter.span(f"ramfleet {command}"):
            yield meter
    finally:
        meter.close()
