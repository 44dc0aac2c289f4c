"""How long the comparison of two runs of a million images takes, and what memory: `python -m tests.bench.comparing`."""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from jobs.main import app
from pipeline.stores.local_store import LocalStore
from ramcore.vocabulary import Vocabulary
from tests.bench.child import measured
from tests.synthetic_run import vocabulary, write_run

IMAGES = 1_000_000
_TAGS = 400
_ATTEMPT = 32


def figures(images: int = IMAGES) -> list[tuple[str, float, str]]:
    """Of `ramfleet compare`, where the second run decides by higher thresholds, so that almost every image differs."""
    names = vocabulary(_TAGS)
    higher = Vocabulary(names.tags, names.tags_zh, np.full(_TAGS, 0.72, np.float32))
    with tempfile.TemporaryDirectory(prefix="ramfleet-bench-") as folder:
        for name, decided in (("a", names), ("b", higher)):
            write_run(LocalStore(Path(folder) / name), images, max(1, images // _ATTEMPT), names=decided)
        done = measured(_compare, folder)
    what = f"comparison of two runs of {images:,} images"
    return [
        (what, done.wall_s, "s"),
        (f"{what}, CPU", done.cpu_s, "s"),
        (f"{what}, memory", done.peak / 2**20, "MiB"),
        (f"{what}, memory beyond imports", done.grown / 2**20, "MiB"),
    ]


def _compare(folder: str) -> None:
    done = CliRunner().invoke(app, ["compare", f"{folder}/a", f"{folder}/b"])
    if done.exit_code:
        raise RuntimeError(f"ramfleet compare: exit {done.exit_code}: {done.output}") from done.exception


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    for what, value, unit in figures(parser.parse_args().images):
        print(f"{what:75} {value:8.3g} {unit}")  # noqa: T201 - a command of its own
