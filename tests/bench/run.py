"""Figures of this machine: `make bench`. Prints a table and writes bench.json into the working directory.

Ratios are measured in one run; nothing else should be running.
"""

import io
import json
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from pipeline.config import load_config
from pipeline.events import read_events
from pipeline.feed import waves
from pipeline.stores.local_store import LocalStore
from pipeline.tag import Request, tag
from ramcore.images import decode
from ramcore.scenes.drawing import draw_scene
from tests.bench import bookkeeping, fetching, reporting, scale
from tests.simulated_fleet import SimulatedFleet

IMAGES = 4000
FED_CHUNKS = 100_000
LEASED_CHUNKS = 1_000_000


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    unit: str


def main() -> None:
    """Measure all figures."""
    with tempfile.TemporaryDirectory(prefix="ramfleet-bench-") as folder:
        parts = (
            decode_figures(),
            lease_figures(),
            pipeline_figures(Path(folder)),
            feed_figures(),
        )
        figures = [figure for part in parts for figure in part]
    figures += [Figure(*figure) for figure in (*bookkeeping.figures(), *reporting.figures(), *scale.figures())]
    if "AWS_ENDPOINT_URL" in os.environ:
        figures += [Figure(*figure) for figure in fetching.figures()]
    table = Table("figure", "value", "unit", title=machine())
    for figure in figures:
        table.add_row(figure.what, f"{figure.value:.3g}", figure.unit)
    Console().print(table)
    document = {"machine": machine(), "figures": [asdict(figure) for figure in figures]}
    Path("bench.json").write_text(json.dumps(document, indent=2) + "\n")


def machine() -> str:
    """Where and when."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{name} {version(name)}" for name in ("ray", "torch", "timm", "Pillow", "simplejpeg"))
    return (
        f"{model}, {os.cpu_count()} CPUs, Python {platform.python_version()}, {versions}, {datetime.now(UTC):%Y-%m-%d}"
    )


def decode_figures() -> Iterator[Figure]:
    """Decode modes against each other, alternating, on one thread."""
    for megapixels, size in ((12, (4000, 3000)), (2, (1633, 1225)), (0.3, (640, 480))):
        data = _photo(size)
        seconds = _alternate({mode: partial(decode, data, 384, mode) for mode in ("exact", "fast", "draft")})
        for mode in ("fast", "draft"):
            yield Figure(f"decode {mode} / exact, {megapixels} MP JPEG", seconds["exact"] / seconds[mode], "×")


def pipeline_figures(folder: Path) -> Iterator[Figure]:
    """The whole job against the bare model loop with the same micro-batch and threads (demo bundle)."""
    import ramcore

    pictures = folder / "pictures"
    pictures.mkdir()
    for seed in range(64):
        Image.fromarray(draw_scene(10_000 + seed, 96).image).save(pictures / f"{seed:05d}.jpg", quality=90)
    for number in range(64, IMAGES):
        os.link(pictures / f"{number % 64:05d}.jpg", pictures / f"{number:05d}.jpg")
    tag(Request(str(pictures), str(folder / "run"), load_config()), Console(file=io.StringIO()))
    events = list(read_events(LocalStore(folder / "run")))
    leases = [event["at"] for event in events if event["event"] == "lease"]
    commits = [event["at"] for event in events if event["event"] == "commit"]
    through = IMAGES / (max(commits) - min(leases))
    bare = _bare_images_per_s(ramcore.load(device="cpu"))
    yield Figure("bare model loop, demo bundle, 1 thread", bare, "images/s")
    yield Figure("whole job, first lease to last commit, 1 replica of 1 thread", through, "images/s")
    yield Figure("whole job / bare model loop", through / bare, "×")


def lease_figures() -> Iterator[Figure]:
    """The leasing policy on a simulated fleet of 500 cards of eight kinds, 50 to 1,595 images/s."""
    draw = random.Random(0)
    speeds = [draw.choice([50, 97, 123, 159, 166, 653, 1553, 1595]) for _ in range(500)]
    start = time.perf_counter()
    fleet = SimulatedFleet(speeds, LEASED_CHUNKS, chunk_rows=256, microbatch=32, noise=0.1, nodes=100).run()
    yield Figure("leasing a million chunks to 500 simulated cards", time.perf_counter() - start, "s")
    yield Figure("… their makespan over the ideal", fleet.makespan / fleet.ideal, "×")
    rows = fleet.chunks * fleet.chunk_rows
    shares = (fleet.images[i] / rows / (speed / sum(speeds)) for i, speed in enumerate(speeds))
    yield Figure("… share of a card over its speed share, at most off by", max(abs(x - 1) for x in shares), "×")


def feed_figures() -> Iterator[Figure]:
    """What the driver pays to build the datasets of 100,000 chunks."""
    import ray

    ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=2, ignore_reinit_error=True)
    start = time.perf_counter()
    for wave in waves(range(FED_CHUNKS), decoders=16):
        ray.data.from_items([{"chunks": span} for span in wave], override_num_blocks=len(wave))
    seconds = time.perf_counter() - start
    ray.shutdown()
    yield Figure("feeding 100,000 chunks, driver time for each", seconds / FED_CHUNKS * 1000, "ms")


def _bare_images_per_s(tagger: "object") -> float:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pixels = np.stack([draw_scene(10_000 + seed, 96).image for seed in range(4)])
    tagger.scores(pixels)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 10:
        tagger.scores(pixels)
        done += len(pixels)
    rate = done / (time.perf_counter() - start)
    torch.set_num_threads(threads)
    return rate


def _alternate(variants: dict[str, Callable[[], object]], rounds: int = 12) -> dict[str, float]:
    """Median seconds of each variant, run in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def _photo(size: tuple[int, int]) -> bytes:
    """A JPEG with the detail of a photograph: coarse blobs and grain."""
    random = np.random.default_rng(0)
    blobs = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = random.normal(0, 8, (size[1], size[0], 1))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(blobs) + grain, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
