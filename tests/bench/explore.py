"""How fast the page of `ramfleet explore` answers over many images: `python -m tests.bench.explore [--images N]`.

A synthetic run of 1,000,000 images with some 9 tags each, of 4,585, the first ones on a third of all images. Each
figure is of whole requests through the application, from the query to the JSON. Needs 700 MiB of memory, 2 GB of disk.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from starlette.testclient import TestClient

import pipeline.index
from pipeline.explore.app import make_app
from pipeline.explore.browse import Browser, BrowserSettings
from pipeline.finished_run import FinishedRun
from pipeline.index.feed import feed
from pipeline.index.kinds import open_writer
from pipeline.index.source import open_source
from pipeline.stores.local_store import LocalStore
from ramcore.vocabulary import Vocabulary
from tests.synthetic_run import write_run

IMAGES = 1_000_000
TAGS = 4_585
TIMES = 40
PAGE = 48

Figure = tuple[str, float, str]
Asked = dict[str, str | int | float]


def figures(images: int = IMAGES, times: int = TIMES) -> Iterator[Figure]:
    """(what, value, unit)."""
    with tempfile.TemporaryDirectory(prefix="ramfleet-bench-") as name:
        folder = Path(name)
        store = LocalStore(folder / "run")
        names = tuple(f"tag {n}" for n in range(TAGS))
        write_run(store, images, 1, names=Vocabulary(names, ("",) * TAGS, np.full(TAGS, 0.68, np.float32)))
        start = time.perf_counter()
        with open_writer("sqlite", str(folder / "run" / "index.sqlite")) as writer:
            feed(open_source(store), writer, "sqlite")
        yield "making the index", time.perf_counter() - start, "s"
        run = FinishedRun(store)
        start = time.perf_counter()
        with (
            pipeline.index.open(run.root) as index,
            pipeline.index.open(run.root) as again,
            Browser(run, index, BrowserSettings(folder / "cache"), for_facets=again) as browser,
        ):
            yield "sorting the scores", time.perf_counter() - start, "s"
            yield "memory so far, at most", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB"
            with TestClient(make_app(browser), base_url="http://127.0.0.1:8000") as client:
                yield from _answers(client, images, times)
        yield "memory, at most", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "MiB"


def _requests(images: int) -> Sequence[tuple[str, str, Callable[[], Asked]]]:
    """(what, path, what draws the parameters of one request)."""
    draw = np.random.default_rng(5)
    last = max(0, images - PAGE)

    def tags(number: int, most: int = TAGS * 4 // 5) -> list[str]:
        # As in a vocabulary by frequency: each power of two of places as often as the next.
        return [f'"tag {int(most ** draw.random()) - 1}"' for _ in range(number)]

    def image() -> str:
        return f"image-{draw.integers(images):07d}"

    def search(query: Callable[[], str], offset: Callable[[], int] = lambda: 0) -> Callable[[], Asked]:
        return lambda: {"q": query(), "limit": PAGE, "offset": offset()}

    return [
        ("all images, first page", "search", search(lambda: "*")),
        ("all images, page 1,000", "search", search(lambda: "*", lambda: min(1_000 * PAGE, last))),
        ("all images, last page", "search", search(lambda: "*", lambda: last)),
        ("one tag, any", "search", search(lambda: tags(1)[0])),
        ("the most frequent tag", "search", search(lambda: '"tag 0"')),
        ("the most frequent tag, page 1,000", "search", search(lambda: '"tag 0"', lambda: 1_000 * PAGE)),
        ("two tags", "search", search(lambda: " ".join(tags(2)))),
        ("one of two, not a third", "search", search(lambda: "({} OR {}) -{}".format(*tags(3)))),
        ("facets of all images", "facets", lambda: {"q": "*", "limit": 24}),
        ("facets of the most frequent tag", "facets", lambda: {"q": '"tag 0"', "limit": 24}),
        ("facets of any tag", "facets", lambda: {"q": tags(1)[0], "limit": 24}),
        ("completion", "complete", lambda: {"start": f"tag {draw.integers(90)}", "limit": 10}),
        ("an image", "image", lambda: {"id": image()}),
        ("its neighbours", "neighbours", lambda: {"id": image(), "limit": 12}),
        (
            "a step of the slider, any tag",
            "threshold",
            lambda: {"tag_id": draw.integers(TAGS), "threshold": draw.random()},
        ),
        ("… the most frequent tag", "threshold", lambda: {"tag_id": 0, "threshold": 0.6 + 0.4 * draw.random()}),
    ]


def _answers(client: TestClient, images: int, times: int) -> Iterator[Figure]:
    for what, path, parameters in _requests(images):
        taken, cpu = [], []
        for _ in range(times):
            given = parameters()
            start, cpu_start = time.perf_counter(), time.process_time()
            answer = client.get(f"/api/{path}", params=given)
            taken.append(1000 * (time.perf_counter() - start))
            cpu.append(1000 * (time.process_time() - cpu_start))
            answer.raise_for_status()
        yield f"{what}, p50", float(np.percentile(taken, 50)), "ms"
        yield "… p95", float(np.percentile(taken, 95)), "ms"
        yield "… the first", taken[0], "ms"
        # What a busy machine makes others wait for is not in these.
        yield "… p50, CPU time", float(np.percentile(cpu, 50)), "ms"
        yield "… p95, CPU time", float(np.percentile(cpu, 95)), "ms"
        yield "… the first, CPU time", cpu[0], "ms"


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--times", type=int, default=TIMES)
    given = parser.parse_args()
    for what, value, unit in figures(given.images, given.times):
        print(f"{what:60} {value:10,.1f} {unit}", flush=True)  # noqa: T201 - a command of its own


if __name__ == "__main__":
    main()
