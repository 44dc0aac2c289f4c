"""What the benchmarks share: figures with what they are to reach, and timing in alternation."""

import io
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One line of the table; at_least, at_most: what it is to reach, if anything."""

    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """What it is to reach and whether it does, "" where nothing is asked."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g} {'✓' if self.value >= self.at_least else '✗'}"
        if self.at_most is not None:
            return f"≤ {self.at_most:g} {'✓' if self.value <= self.at_most else '✗'}"
        return ""


def figure_table(figures: list[Figure], title: str) -> Table:
    """To be printed."""
    table = Table("figure", "value", "unit", "target", title=title)
    for figure in figures:
        table.add_row(figure.what, f"{figure.value:.3g}", figure.unit, figure.target)
    return table


def alternate(variants: Mapping[str, Callable[[], object]], rounds: int = 12) -> dict[str, float]:
    """Median seconds of each variant, run in turn, so that what else the machine does falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def machine(*packages: str) -> str:
    """Processor, versions of Python and of the packages, date."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{model}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {versions}, {datetime.now(UTC):%Y-%m-%d}"
    )


def photo(size: tuple[int, int]) -> bytes:
    """A JPEG with the detail of a photograph: coarse blobs and grain. size: width and height in pixels."""
    random = np.random.default_rng(0)
    blobs = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = random.normal(0, 8, (size[1], size[0], 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(blobs) + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()
