"""How long the report of a run of a million images takes, and what memory: `python -m tests.bench.reporting`."""

import tempfile
from pathlib import Path

from pipeline.finished_run import FinishedRun
from pipeline.report.document import Options, make_report
from pipeline.report.page import render
from pipeline.stores.local_store import LocalStore
from tests.bench.child import measured
from tests.synthetic_run import write_run

IMAGES = 1_000_000


def figures() -> list[tuple[str, float, str]]:
    """Of attempts as large as chunks are, and of as many attempts as images."""
    found = []
    for attempts in (IMAGES // 32, IMAGES):
        with tempfile.TemporaryDirectory(prefix="ramfleet-bench-") as folder:
            write_run(LocalStore(Path(folder) / "run"), IMAGES, attempts)
            done = measured(_report, folder)
        what = f"report of {IMAGES:,} images in {attempts:,} attempts"
        found += [
            (what, done.wall_s, "s"),
            (f"{what}, CPU", done.cpu_s, "s"),
            (f"{what}, memory", done.grown / 2**20, "MiB"),
        ]
    return found


def _report(folder: str) -> None:
    render(make_report(FinishedRun(LocalStore(Path(folder) / "run")), Options(pictures=24)))


if __name__ == "__main__":
    for what, value, unit in figures():
        print(f"{what:60} {value:8.3g} {unit}")  # noqa: T201 - a command of its own
