"""Figures of this machine: `make bench`. Prints a table and writes bench.json into the working directory.

Ratios are measured in one run; nothing else should be running.
"""

import json
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from pipeline.feed import waves
from ramcore.images import decode
from tests.bench import bookkeeping, fetching, model, pipeline, reporting, scale
from tests.bench.timing import Figure, alternate, figure_table, machine, photo
from tests.simulated_fleet import SimulatedFleet

FED_CHUNKS = 100_000
LEASED_CHUNKS = 1_000_000
_FAST_DECODE = ((12, (4000, 3000), 2.4), (2, pipeline.MEGAPIXELS_2, 1.6), (0.3, (640, 480), 1.5))
"""Megapixels, size, and how many times as fast as plain Pillow `fast` is to be."""


def main() -> None:
    """Measure all figures."""
    figures = [*decode_figures(), *model.figures(), *pipeline.figures(), *lease_figures(), *feed_figures()]
    figures += [*scale.figures(), *(Figure(*figure) for figure in (*bookkeeping.figures(), *reporting.figures()))]
    if "AWS_ENDPOINT_URL" in os.environ:
        figures += [Figure(*figure) for figure in fetching.figures()]
    where = machine("ray", "torch", "timm", "Pillow", "simplejpeg")
    Console().print(figure_table(figures, where))
    document = {"machine": where, "figures": [asdict(figure) for figure in figures]}
    Path("bench.json").write_text(json.dumps(document, indent=2) + "\n")


def decode_figures() -> Iterator[Figure]:
    """Decode modes against plain Pillow (`exact`), alternating, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for megapixels, size, wanted in _FAST_DECODE:
        data = photo(size)
        seconds = alternate({mode: partial(decode, data, 384, mode) for mode in ("exact", "fast", "draft")})
        for mode, least in (("fast", wanted), ("draft", None)):
            ratio = seconds["exact"] / seconds[mode]
            yield Figure(f"decode {mode} / plain Pillow, {megapixels} MP JPEG", ratio, "×", at_least=least)
    torch.set_num_threads(threads)


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


if __name__ == "__main__":
    main()
