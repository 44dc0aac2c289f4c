"""What the account of a run costs: CPU time for each chunk, against the work on the smallest chunk there is.

`python -m tests.bench.bookkeeping`. The work is that of 16 drawn scenes of 96 pixels: read, decoded, tagged by the demo
bundle and committed. Chunks of real runs hold more and larger images, and the model is larger.
"""

import io
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
from PIL import Image
from rich.console import Console

from pipeline.config import FleetConfig
from pipeline.costs.run_costs import cost_summary, ledger_of
from pipeline.events.log import EventLog, events_in_order
from pipeline.fleet.sampler import Sampler
from pipeline.stores.local_store import LocalStore
from pipeline.tables.schemas import TELEMETRY_SCHEMA
from ramcore.images import decode
from ramcore.scenes.drawing import draw_scene

CHUNKS = 20_000
CHUNK_ROWS = 16
CHUNK_S = 0.25
"""How long a chunk of a real run takes a replica: 256 images at the 1,000 images/s of a large card, at best."""
NODES = 50


def figures() -> Iterator[tuple[str, float, str]]:
    """(what, value, unit)."""
    work = _work_ms()
    yield f"work on a chunk of {CHUNK_ROWS} scenes, demo bundle, CPU time", work, "ms"
    with tempfile.TemporaryDirectory(prefix="ramfleet-bench-") as folder:
        store = LocalStore(folder)
        writing = _cpu_ms(lambda: _write_events(store)) / CHUNKS
        reading = _cpu_ms(lambda: cost_summary(ledger_of(events_in_order(store), _telemetry()))) / CHUNKS
    sampling = _sample_ms() * CHUNK_S / FleetConfig().sample_every_s
    yield "events of a chunk, CPU time", writing, "ms"
    yield f"samples while a chunk of {CHUNK_S:g} s is tagged, CPU time", sampling, "ms"
    yield "ledger of a run, for each chunk, CPU time", reading, "ms"
    yield "all of the account / work on a chunk", 100 * (writing + sampling + reading) / work, "%"


def _cpu_ms(call: Callable[[], object]) -> float:
    """CPU time of this process, all threads."""
    start = time.process_time()
    call()
    return (time.process_time() - start) * 1000


def _work_ms() -> float:
    """Of 16 images from bytes to tags on one thread, the median of 15 rounds."""
    import torch

    import ramcore

    torch.set_num_threads(1)
    tagger = ramcore.load(device="cpu")
    files = []
    for seed in range(CHUNK_ROWS):
        buffer = io.BytesIO()
        Image.fromarray(draw_scene(10_000 + seed, 96).image).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    size = tagger.config.swin.image_size

    def work() -> None:
        pixels = np.stack([decode(data, size, "fast").pixels for data in files])
        for first in range(0, CHUNK_ROWS, 4):
            tagger.scores(pixels[first : first + 4])

    work()
    return float(np.median([_cpu_ms(work) for _ in range(15)]))


def _write_events(store: LocalStore) -> None:
    log = EventLog(store, "s", "bench")
    for number in range(NODES):
        log.write("node_joined", node=f"n{number}", since=0.0, gpus=1, node_type="t4", card="T4", price=None)
        log.write("replica_started", replica=f"r{number}", node=f"n{number}", lane=0, num_gpus=1.0)
        log.write("replica_ready", replica=f"r{number}", node=f"n{number}", num_gpus=1.0, gpus=["0"], load_s=0.1)
    for chunk in range(CHUNKS):
        replica, ended_at = f"r{chunk % NODES}", round(time.time(), 3)
        log.write("lease", lease=f"{chunk:032x}", replica=replica, work=[chunk, 0, CHUNK_ROWS, False, False])
        log.write("lease_done", lease=f"{chunk:032x}", replica=replica, model_s=0.123, ended_at=ended_at)
        log.write("commit", chunk=chunk, generation=0, first=True, commit_s=0.001234, rejects={})
    log.write("driver_ended")
    log.close()


def _telemetry() -> pa.Table:
    draw, now = random.Random(0), round(time.time() * 1000)
    rows = [
        {
            "chunk": chunk,
            "outcome": "committed",
            "node_id": f"n{chunk % NODES}",
            "node_type": "t4",
            "card": "T4",
            "replica": f"r{chunk % NODES}",
            "images": CHUNK_ROWS,
            "rejects": 0,
            "model_s": 0.123,
            "ended_at": now - draw.randrange(10_000),
        }
        for chunk in range(CHUNKS)
    ]
    return pa.Table.from_pylist(rows, schema=TELEMETRY_SCHEMA)


def _sample_ms() -> float:
    sampler = Sampler([], machine=True)
    rounds = 200
    return _cpu_ms(lambda: [json.dumps(sampler.read()) for _ in range(rounds)]) / rounds


def main() -> None:
    """Print the figures."""
    for what, value, unit in figures():
        Console().print(f"{what:<60} {value:8.3f} {unit}", markup=False, highlight=False)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
