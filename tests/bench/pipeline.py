"""The whole job against its two limits: `python -m tests.bench.pipeline`.

Where the model is slow, against the bare model loop with the same micro-batch and threads; where the model costs
nothing, against a loop of plain Pillow in one process, times the number of CPUs.
"""

import io
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

import ramcore
from pipeline.config import load_config
from pipeline.events.log import read_events
from pipeline.fleet.replica import Replica
from pipeline.stores.local_store import LocalStore
from pipeline.tag import Request, tag
from ramcore.bundle import bundle_hash, read_config, read_vocabulary, save_bundle
from ramcore.images import decode
from ramcore.scenes.drawing import draw_scene
from tests.bench.model import full_size
from tests.bench.timing import Figure, figure_table, machine, photo
from tests.synthetic_run import vocabulary

DEMO_IMAGES = 4000
SLOW_IMAGES = 96
FREE_IMAGES = 1500
MEGAPIXELS_2 = (1633, 1225)
_MICROBATCH = 4


def main() -> None:
    """Measure and print."""
    Console().print(figure_table(list(figures()), machine("ray", "torch", "timm", "Pillow", "simplejpeg")))


def figures() -> Iterator[Figure]:
    """All of this module's figures."""
    with tempfile.TemporaryDirectory(prefix="ramfleet-bench-") as folder:
        yield from _demo(Path(folder))
        yield from _slow_model(Path(folder))
        yield from _free_model(Path(folder))


def _demo(folder: Path) -> Iterator[Figure]:
    """The small model that comes with the project: what the pipeline costs where an image takes a few milliseconds."""
    pictures = _scenes(folder / "scenes", DEMO_IMAGES)
    run = folder / "demo"
    tag(Request(str(pictures), str(run), load_config()), Console(file=io.StringIO()))
    through, bare = _steady_rate(run, DEMO_IMAGES), _bare_rate(ramcore.load(device="cpu"))
    yield Figure("demo bundle, bare model loop of 1 thread", bare, "images/s")
    yield Figure("demo bundle, whole job", through, "images/s")
    yield Figure("demo bundle, whole job / bare model loop", through / bare, "×")


def _slow_model(folder: Path) -> Iterator[Figure]:
    """Full-size RAM++ in fp32: the model alone should set the pace."""
    bundle, model = folder / "bundle", full_size()
    save_bundle(bundle, model, model.config, vocabulary(model.config.num_tags), "random weights, for a benchmark")
    del model
    settings = {"model.bundle": str(bundle), "model.dtype": "fp32", "model.microbatch": str(_MICROBATCH)}
    options = [f"{name}={value}" for name, value in (settings | {"plan.chunk_rows": "8"}).items()]
    run = folder / "slow"
    request = Request(str(_scenes(folder / "few", SLOW_IMAGES)), str(run), load_config(overrides=options))
    tag(request, Console(file=io.StringIO()))
    through = _steady_rate(run, SLOW_IMAGES)
    bare = _bare_rate(ramcore.load(bundle, device="cpu", dtype="fp32"), seconds=60)
    yield Figure("full-size RAM++ in fp32, bare model loop of 1 thread", bare, "images/s")
    yield Figure("full-size RAM++ in fp32, whole job", through, "images/s")
    yield Figure("full-size RAM++ in fp32, whole job / bare model loop", through / bare, "×", at_least=0.97)


class FreeReplica(Replica):
    """A replica on a card that computes in no time: every score is 0.5."""

    def _load(self) -> Any:
        names, config = read_vocabulary(self.spec.bundle), read_config(self.spec.bundle)
        scores = torch.full((self.placement.microbatch, len(names)), 0.5)

        def begin(pixels: NDArray[np.uint8]) -> SimpleNamespace:
            return SimpleNamespace(scores=lambda: scores[: len(pixels)])

        return SimpleNamespace(bundle_hash=bundle_hash(self.spec.bundle), vocabulary=names, config=config, begin=begin)

    def _peak_vram(self) -> int | None:
        return None


def _free_model(folder: Path) -> Iterator[Figure]:
    """JPEGs of two megapixels and a pretended card: decoding sets the pace, on all CPUs."""
    cpus = os.cpu_count() or 1
    data, pictures = photo(MEGAPIXELS_2), folder / "photos"
    pictures.mkdir()
    for number in range(FREE_IMAGES):
        (pictures / f"{number:05d}.jpg").write_bytes(data)
    run = folder / "free"
    with _pretended_card(cpus):
        request = Request(str(pictures), str(run), load_config(overrides=["model.dtype=fp32", "plan.chunk_rows=32"]))
        tag(request, Console(file=io.StringIO()), FreeReplica)
    through = _steady_rate(run, FREE_IMAGES)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < 10:
        decode(data, 384, "exact")
        done += 1
    plain = done / (time.perf_counter() - start) * cpus
    yield Figure("2 MP JPEGs, plain Pillow in one process, times CPUs", plain, "images/s")
    yield Figure("2 MP JPEGs, whole job with a model that costs nothing", through, "images/s")
    yield Figure("2 MP JPEGs, whole job / plain Pillow × CPUs", through / plain, "×", at_least=1.3)


@contextmanager
def _pretended_card(cpus: int) -> Iterator[None]:
    """A cluster of one node, all of this machine's CPUs and a card that is none."""
    import ray
    from ray.cluster_utils import Cluster

    labels = {"ray.io/accelerator-type": "T4", "ramfleet/vram-gib": "16"}
    path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    with _environment({"PYTHONPATH": path}):
        cluster = Cluster()
        cluster.add_node(
            num_cpus=cpus,
            num_gpus=1,
            labels=labels,
            resources={"accelerator_type:T4": 1},
            object_store_memory=500 << 20,
            include_dashboard=False,
        )
        try:
            with _environment({"RAY_ADDRESS": cluster.address}):
                yield
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _scenes(folder: Path, images: int) -> Path:
    """So many small JPEGs, 64 different ones."""
    folder.mkdir()
    for seed in range(min(images, 64)):
        Image.fromarray(draw_scene(10_000 + seed, 96).image).save(folder / f"{seed:05d}.jpg", quality=90)
    for number in range(64, images):
        os.link(folder / f"{number % 64:05d}.jpg", folder / f"{number:05d}.jpg")
    return folder


def _steady_rate(run: Path, images: int) -> float:
    """Images/s from the first commit to the last, the first chunk's images not counted."""
    commits = sorted(event["at"] for event in read_events(LocalStore(run)) if event["event"] == "commit")
    return images * (1 - 1 / len(commits)) / (commits[-1] - commits[0])


def _bare_rate(tagger: Any, seconds: float = 10) -> float:
    """Images/s of the model alone, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    size = tagger.config.image_size
    pixels = np.random.default_rng(0).integers(0, 256, (_MICROBATCH, size, size, 3), dtype=np.uint8)
    step = partial(tagger.scores, pixels)
    step()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        done += len(pixels)
    rate = done / (time.perf_counter() - start)
    torch.set_num_threads(threads)
    return rate


if __name__ == "__main__":
    from tests.bench.pipeline import main as importable_main  # the workers import FreeReplica from that module

    importable_main()
