"""How long the report of a run of a million images takes, and what memory: `python -m tests.bench.reporting`."""

import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

from pipeline.finished_run import FinishedRun
from pipeline.report.document import Options, make_report
from pipeline.report.page import render
from pipeline.stores.local_store import LocalStore
from tests.synthetic_run import write_run

IMAGES = 1_000_000


def figures() -> list[tuple[str, float, str]]:
    """Of attempts as large as chunks are, and of as many attempts as images."""
    found = []
    for attempts in (IMAGES // 32, IMAGES):
        with tempfile.TemporaryDirectory(prefix="ramfleet-bench-") as folder:
            write_run(LocalStore(Path(folder) / "run"), IMAGES, attempts)
            # In a process of its own, so that its memory is its own.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                wall_s, cpu_s, grown = pool.apply(_measure, (folder,))
        what = f"report of {IMAGES:,} images in {attempts:,} attempts"
        found += [(what, wall_s, "s"), (f"{what}, CPU", cpu_s, "s"), (f"{what}, memory", grown / 2**20, "MiB")]
    return found


def _measure(folder: str) -> tuple[float, float, int]:
    before, start, cpu = _peak(), time.perf_counter(), time.process_time()
    render(make_report(FinishedRun(LocalStore(Path(folder) / "run")), Options(pictures=24)))
    return time.perf_counter() - start, time.process_time() - cpu, _peak() - before


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    for what, value, unit in figures():
        print(f"{what:60} {value:8.3g} {unit}")  # noqa: T201 - a command of its own
