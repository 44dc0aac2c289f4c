"""What ten million images ask of the driver, and what a user waits for at the start: `python -m tests.bench.scale`.

Each figure of time or memory is of a process of its own, see `tests.bench.child`. `make bench` leaves out the plan and
the tables of ten million images, unless RAMFLEET_BENCH_LARGE is set.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa
from rich.console import Console

from pipeline.chunks import chunk_name, commit_chunk
from pipeline.config import load_config
from pipeline.driver import Round
from pipeline.errors import ConfigError
from pipeline.events.log import EventLog, read_events
from pipeline.feed import waves
from pipeline.finalize import finalize
from pipeline.finished_run import FinishedRun
from pipeline.model_record import record_model, vocabulary_name, vocabulary_table
from pipeline.passes import FirstPass
from pipeline.pins import pins
from pipeline.plan import Plan, make_plan, read_plan
from pipeline.report.document import Options
from pipeline.report.page import write_report
from pipeline.status import run_status
from pipeline.stores.local_store import LocalStore
from pipeline.sync import BASE_PIN
from pipeline.tables.schemas import to_parquet, with_attempt
from pipeline.tag import Request, tag
from ramcore.bundle import bundle_hash, demo_bundle, save_bundle
from ramcore.config import ram_plus_preset
from tests.bench.child import Measured, measured, memory
from tests.bench.timing import Figure, figure_table, machine
from tests.committed_run import ATTEMPT, plan_run, tagged_rows
from tests.simulated_fleet import SimulatedFleet
from tests.synthetic_run import vocabulary

MILLION = 1_000_000
TEN_MILLION = 10 * MILLION
CHUNKS = 100_000
PENDING = 3
TAGS = 4585
CHUNK_ROWS = 256
FINALIZED = (200, 2_000)
DRIVEN = (1_000, CHUNKS)
HELPS = 5
MIB = 2**20
_LINKS = 1_000
"""Names of one file; ext4 lets it have 65,000."""
_INPUT = "/pictures"
_PICTURES = Path(__file__).parents[2] / "ramcore" / "demo" / "pictures"


def figures(large: bool = "RAMFLEET_BENCH_LARGE" in os.environ) -> Iterator[Figure]:
    """All of this module's figures."""
    for part in (_help_figures, _bundle_figures, _resume_figures, _driver_figures, _finalize_figures):
        yield from part()
    yield from _plan_figures((MILLION, TEN_MILLION) if large else (MILLION,))
    if large:
        yield from _table_figures()
    yield Figure(
        "ramfleet tag of the demo's pictures, command to first committed chunk", _seconds_to_commit(), "s", at_most=15
    )


# ---- plan ----


def _plan_figures(sizes: tuple[int, ...]) -> Iterator[Figure]:
    each = []
    for rows in sizes:
        done = measured(_plan, rows)
        each.append(done.cpu_s / rows)
        yield Figure(f"planning {rows:,} rows", done.wall_s, "s")
        yield Figure("… peak memory of the process", done.peak / MIB, "MiB", at_most=2048)
    if len(each) > 1:
        yield Figure(f"… CPU time of a row, {sizes[-1]:,} / {sizes[0]:,}", each[-1] / each[0], "×", at_most=1.2)


def _plan(rows: int) -> None:
    with _folder() as folder:
        make_plan(_rows(rows), LocalStore(folder), CHUNK_ROWS, None, {})


def _rows(rows: int) -> Iterator[pa.RecordBatch]:
    for first in range(0, rows, 65_536):
        ids = [f"image-{row:09d}" for row in range(first, min(first + 65_536, rows))]
        yield pa.RecordBatch.from_pydict({"image_id": ids, "uri": [f"{_INPUT}/{name}.jpg" for name in ids]})


# ---- resume ----


def _resume_figures() -> Iterator[Figure]:
    with _folder() as folder:
        measured(_begin_run, folder, CHUNKS, 1)
        yield from _of(f"resume of {CHUNKS:,} chunks, until it is known what is pending", measured(_resume, folder), 10)
        yield from _of("… what is asked of the run again before the first round", measured(_ask, folder))
        yield from _of(f"ramfleet status, {CHUNKS:,} chunks", measured(_status, folder))


def _table_figures() -> Iterator[Figure]:
    with _folder() as folder:
        chunks = -(-TEN_MILLION // CHUNK_ROWS)
        measured(_begin_run, folder, chunks, CHUNK_ROWS)
        yield from _of(f"ramfleet status, {chunks:,} chunks of {CHUNK_ROWS} images", measured(_status, folder))
        yield from _of("… finalize, without a report", measured(_finalize, folder))
        yield from _of("… report", measured(_report, folder))


def _begin_run(folder: str, chunks: int, chunk_rows: int) -> None:
    """All but a few of the chunks are committed; of all the objects a few only have a content of their own."""
    store, bundle = LocalStore(folder), demo_bundle()
    digest = bundle_hash(bundle)
    # Reports look up the tags: there are as many as of the released model, not as of the demo's.
    store.create(vocabulary_name(digest), to_parquet(vocabulary_table(vocabulary(TAGS))))
    record_model(store, bundle, digest)
    resolved = {"model.dtype": "fp32", "output.captions": False, BASE_PIN: None}
    pinned = pins(load_config(), _INPUT, None, digest) | resolved
    plan = make_plan(_rows(chunks * chunk_rows), store, chunk_rows, None, pinned)
    for chunk in range(chunks - PENDING):
        if chunk % _LINKS:
            os.link(store.path(chunk_name(chunk // _LINKS * _LINKS)), store.path(chunk_name(chunk)))
        else:
            commit_chunk(store, chunk, _tagged(plan, plan.read_chunk(store, chunk), chunk))
    _write_events(store, chunks - PENDING, chunk_rows)


def _resume(folder: str) -> None:
    """The command itself; it reads the prices when it knows that something is pending, before it starts a cluster."""
    config = load_config(None, ["prices=/nowhere/prices.yaml"])
    try:
        tag(Request(_INPUT, folder, config), Console(file=io.StringIO()))
    except ConfigError as error:
        if "/nowhere/prices.yaml" not in str(error):
            raise
        return
    raise AssertionError("the resume did not come to the prices")


def _ask(folder: str) -> int:
    """`pipeline.tag` before the Fleet starts, and the driver before its first round."""
    store = LocalStore(folder)
    plan, work = _planned(store), FirstPass()
    work.pending(store, plan)
    work.extent(store, plan)
    return len(work.pending(store, plan))


def _status(folder: str) -> str:
    return run_status(LocalStore(folder)).state


def _finalize(folder: str) -> int:
    return finalize(LocalStore(folder)).counts.tagged


def _report(folder: str) -> None:
    write_report(FinishedRun(LocalStore(folder)), Options())


# ---- what grows with the chunks ----


def _driver_figures() -> Iterator[Figure]:
    found = []
    for chunks in DRIVEN:
        with _folder() as folder:
            measured(_plan_into, folder, chunks)
            found.append(measured(_drive, folder))
    few, many = found
    yield Figure(f"what the driver and the Fleet hold, {DRIVEN[0]:,} chunks, memory", few.grown / MIB, "MiB")
    yield Figure(f"… {DRIVEN[1]:,} chunks", many.grown / MIB, "MiB")
    yield Figure("… for each further chunk", (many.grown - few.grown) / (DRIVEN[1] - DRIVEN[0]), "bytes")


def _plan_into(folder: str, chunks: int) -> None:
    make_plan(_rows(chunks), LocalStore(folder), 1, None, {})


def _drive(folder: str) -> float:
    """Pending chunks, a round of them and its feed, and the leases of all of them, by the Fleet's own rules."""
    store = LocalStore(folder)
    pending = FirstPass().pending(store, _planned(store))
    nobody: object = None
    held = Round(nobody, nobody, nobody, nobody, pending), list(islice(waves(pending, 64), 1))
    fleet = SimulatedFleet([100.0] * 64, len(pending), chunk_rows=CHUNK_ROWS, microbatch=32, noise=0.1, nodes=16)
    return fleet.run().makespan if all(held) else 0.0


def _finalize_figures() -> Iterator[Figure]:
    found = []
    for chunks in FINALIZED:
        with _folder() as folder:
            measured(_commit_run, folder, chunks)
            found.append(measured(_finalize, folder))
        yield from _of(f"finalize, {chunks:,} chunks of {CHUNK_ROWS} images", found[-1])
    few, many = found
    yield Figure(
        "… for each further chunk, memory", (many.grown - few.grown) / (FINALIZED[1] - FINALIZED[0]) / 1024, "KiB"
    )


def _commit_run(folder: str, chunks: int) -> None:
    store = LocalStore(folder)
    ids = [f"image-{row:09d}" for row in range(chunks * CHUNK_ROWS)]
    plan = plan_run(store, demo_bundle(), ids, CHUNK_ROWS)
    for chunk in range(chunks):
        commit_chunk(store, chunk, _tagged(plan, plan.read_chunk(store, chunk), chunk))
    _write_events(store, chunks, CHUNK_ROWS)


def _tagged(plan: Plan, rows: pa.Table, chunk: int) -> pa.Table:
    """As a replica tags them: a dozen tags for each image."""
    random = np.random.default_rng(chunk)
    table = tagged_rows(plan, rows, {})
    ids = random.integers(0, TAGS, (len(table), 12), np.int32)
    columns = {
        "tags": [[f"tag {number}" for number in of_image] for of_image in ids],
        "tag_ids": list(ids),
        "scores": list(random.uniform(0.6, 1, ids.shape).astype(np.float32)),
    }
    for name, values in columns.items():
        position = table.schema.get_field_index(name)
        table = table.set_column(position, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    return with_attempt(table, {**ATTEMPT, "plan_hash": plan.hash, "pieces": [_piece(chunk, len(table))]})


def _piece(chunk: int, images: int) -> Mapping[str, object]:
    replica = chunk % 64
    return {
        "images": images,
        "node_id": f"n{replica}",
        "node_type": "t4",
        "card": "T4",
        "replica": f"r{replica}",
        "dtype": "fp16",
        "microbatch": 32,
        "wait_s": 0.01,
        "transfer_s": 0.01,
        "model_s": 1.0,
        "started_at": 1_790_000_000.0 + chunk,
        "ended_at": 1_790_000_001.0 + chunk,
    }


def _write_events(store: LocalStore, chunks: int, rows: int) -> None:
    """Of a run of one session, in two logs: that of the Fleet and that of one process which commits."""
    log, commits = EventLog(store, "20260101T000000-000000", "fleet"), EventLog(store, "20260101T000000-000000", "b")
    for number in range(64):
        log.write("node_joined", node=f"n{number}", since=0.0, gpus=1, node_type="t4", card="T4", price=None)
        log.write("replica_started", replica=f"r{number}", node=f"n{number}", lane=0, num_gpus=1.0)
        log.write("replica_ready", replica=f"r{number}", node=f"n{number}", num_gpus=1.0, gpus=["0"], load_s=0.1)
    for chunk in range(chunks):
        lease, replica = f"{chunk:032x}", f"r{chunk % 64}"
        log.write("lease", lease=lease, replica=replica, work=[chunk, 0, rows, False, False])
        log.write("lease_done", lease=lease, replica=replica, model_s=1.0, ended_at=1_790_000_001.0 + chunk)
        commits.write("commit", chunk=chunk, generation=0, first=True, commit_s=0.001, images=rows, rejects={})
    log.write("driver_ended")
    log.close()
    commits.close()


# ---- start ----


def _help_figures() -> Iterator[Figure]:
    seconds = []
    for _ in range(HELPS):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "jobs.main", "--help"], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    yield Figure(f"ramfleet --help, median of {HELPS}", median(seconds), "s", at_most=0.5)


def _bundle_figures() -> Iterator[Figure]:
    with _folder() as folder:
        measured(_write_bundle, folder)
        seconds, private = measured(_load, folder).value
        digest = measured(bundle_hash, folder)
    yield Figure("load of RAM++ Swin-L, 4,585 x 51, fp32 on a CPU, file in the page cache", seconds, "s", at_most=5)
    yield Figure("… memory of the process's own", private / MIB, "MiB")
    yield Figure("its hash, which a command and each replica take once", digest.wall_s, "s")


def _write_bundle(folder: str) -> None:
    """The architecture of the released model with weights of chance."""
    import torch

    from ramcore.weights import expected_shapes, model_class

    config = ram_plus_preset()
    chance = torch.Generator().manual_seed(0)
    state = {name: torch.rand(shape, generator=chance) * 0.02 for name, shape in expected_shapes(config).items()}
    model = model_class(config.kind).from_state(config, state)
    save_bundle(folder, model, config, vocabulary(TAGS), "weights of chance")


def _load(folder: str) -> tuple[float, int]:
    """Seconds without the imports, and bytes of memory that is not the file's."""
    import ramcore.loading  # PyTorch and timm, which are not to be timed

    before, start = memory("RssAnon"), time.perf_counter()
    tagger = ramcore.load(folder, device="cpu")
    seconds, private = time.perf_counter() - start, memory("RssAnon") - before
    if tagger.config.num_tags != len(tagger.vocabulary):
        raise AssertionError("another model")
    return seconds, private


def _seconds_to_commit() -> float:
    with _folder() as folder:
        run = Path(folder) / "run"
        start = time.time()
        command = [sys.executable, "-m", "jobs.main", "tag", str(_PICTURES), "--out", str(run)]
        subprocess.run(command, check=True, capture_output=True)
        return min(event["at"] for event in read_events(LocalStore(run)) if event["event"] == "commit") - start


# ---- common ----


def _of(what: str, done: Measured, most_s: float | None = None) -> Iterator[Figure]:
    yield Figure(what, done.wall_s, "s", at_most=most_s)
    yield Figure("… CPU", done.cpu_s, "s")
    yield Figure("… memory", done.grown / MIB, "MiB")


def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="ramfleet-bench-")


def _planned(store: LocalStore) -> Plan:
    plan = read_plan(store)
    if plan is None:
        raise AssertionError(f"{store.root} has no plan")
    return plan


def main() -> None:
    """Measure all and print."""
    Console().print(figure_table(list(figures(large=True)), machine("ray", "torch", "pyarrow")))


if __name__ == "__main__":
    main()
