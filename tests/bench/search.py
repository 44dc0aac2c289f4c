"""How fast runs become search indexes, and how fast these answer: `python -m tests.bench.search [KIND…]`.

Of 200,000 images with some 9 tags each, drawn so that the first tags are on a third of all images and the last on few.
`--images 5000000` takes some minutes: for the memory that building takes.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

import pipeline.index
from pipeline.index import Index
from pipeline.index.feed import feed
from pipeline.index.kinds import KINDS, SERVERS, open_writer
from pipeline.index.search import MOST_HITS
from pipeline.index.source import open_source
from pipeline.stores.local_store import LocalStore
from ramcore.vocabulary import Vocabulary
from tests.synthetic_run import write_run

IMAGES = 200_000
TAGS = 4_585
QUERIES = 1_000

Figure = tuple[str, float, str]


def figures(kinds: Sequence[str], images: int = IMAGES) -> Iterator[Figure]:
    """(what, value, unit)."""
    with tempfile.TemporaryDirectory(prefix="ramfleet-bench-") as folder:
        run = Path(folder) / "run"
        names = tuple(f"tag {n}" for n in range(TAGS))
        write_run(LocalStore(run), images, 1, names=Vocabulary(names, ("",) * TAGS, np.full(TAGS, 0.68, np.float32)))
        for kind in kinds:
            out = str(Path(folder) / f"index.{kind}")
            # In a process of its own, so that its memory is its own.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                wall_s, cpu_s, peak = pool.apply(_build, (kind, str(run), out))
            yield f"{kind}: building, images a second", images / wall_s, "images/s"
            yield f"{kind}: … of CPU time, all threads", images / cpu_s, "images/s"
            yield f"{kind}: … memory of the process", peak / 2**20, "MiB"
            yield f"{kind}: … on disk", _size(Path(out)) / images, "B/image"
            with pipeline.index.open(out) as index:
                yield from _answers(kind, index)


def _build(kind: str, run: str, out: str) -> tuple[float, float, int]:
    start, cpu = time.perf_counter(), time.process_time()
    with open_writer(kind, out) as writer:
        feed(open_source(LocalStore(run)), writer, kind)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return time.perf_counter() - start, time.process_time() - cpu, peak


def _answers(kind: str, index: Index) -> Iterator[Figure]:
    rare, frequent = _pairs(index)
    forms: dict[str, tuple[list[tuple[str, ...]], Callable[..., str]]] = {
        "two tags": (rare, '"{}" AND "{}"'.format),
        "two tags, each as often as images have them": (frequent, '"{}" AND "{}"'.format),
        "two tags, score:0.8": (rare, '"{}" AND "{}" score:0.8'.format),
        "one of two, not a third": (rare, '("{}" OR "{}") -"tag 1"'.format),
    }
    for what, (pairs, written) in forms.items():
        wall, cpu, found = [], [], []
        for pair in pairs:
            start, cpu_start = time.perf_counter(), time.thread_time()
            found.append(index.search(written(*pair)).total)
            wall.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (time.thread_time() - cpu_start))
        yield f"{kind}: {what} ({np.median(found):,.0f} images), p50", float(np.percentile(wall, 50)), "ms"
        yield f"{kind}: … p95", float(np.percentile(wall, 95)), "ms"
        # What a busy machine makes others wait for is not in these; nor what other threads of a kind do.
        yield f"{kind}: … p50, CPU time of the thread", float(np.percentile(cpu, 50)), "ms"
        yield f"{kind}: … p95, CPU time of the thread", float(np.percentile(cpu, 95)), "ms"


def _pairs(index: Index) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Pairs of tags that some image has both of: the two rarest of an image, and any two of it."""
    draw = np.random.default_rng(5)
    images = index.search("*", MOST_HITS).hits
    rare, frequent = [], []
    for place in draw.integers(0, len(images), QUERIES).tolist():
        tags = [tag.tag for tag in images[place].tags]
        if len(tags) > 1:
            rare.append(tuple(sorted(tags, key=lambda tag: int(tag.split()[1]))[-2:]))
            frequent.append(tuple(str(tag) for tag in draw.choice(tags, 2, replace=False)))
    return rare, frequent


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def main() -> None:
    """Print the figures."""
    local = [kind for kind in KINDS if kind not in SERVERS and kind != "opensearch"]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["sqlite", "tantivy"], metavar="KIND", help=", ".join(local))
    parser.add_argument("--images", type=int, default=IMAGES)
    given = parser.parse_args()
    for what, value, unit in figures(given.kinds, given.images):
        print(f"{what:86} {value:10,.2f} {unit}", flush=True)  # noqa: T201 - a command of its own


if __name__ == "__main__":
    main()
