"""The main job: plan → fetch → decode → tag → commit → finalize."""

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.accounting import Published
from pipeline.chunks import committed
from pipeline.cluster import ClusterShape, joined, requested_cards, start_fleet, survey
from pipeline.config import Config
from pipeline.driver import drive, pending_chunks
from pipeline.errors import InputError, PinnedError
from pipeline.finalize import finalize
from pipeline.fleet_messages import FleetSpec
from pipeline.fleet_table import fleet_lines
from pipeline.flow import FlowShape
from pipeline.job import Job
from pipeline.manifest import Input, open_input
from pipeline.model_choice import check_before_cluster, writes_captions
from pipeline.model_record import record_model
from pipeline.node_facts import Proof, proof_of
from pipeline.parity_gate import checked_dtype
from pipeline.pins import check_pins, pins
from pipeline.places import for_fetching, still_there
from pipeline.plan import Plan, make_plan, read_plan
from pipeline.progress import RunProgress
from pipeline.replica import Replica, ReplicaSpec
from pipeline.sizing import ModelLoad, model_load
from pipeline.store import RunStore
from ramcore.bundle import bundle_hash, demo_bundle, read_config

_CHUNKS_PER_REPLICA = 8
_FEWEST_CHUNK_ROWS, _MOST_CHUNK_ROWS = 16, 256


@dataclass(frozen=True)
class Request:
    """What a user asks for. input: INPUT as given; out: the run folder; limit: only so many rows of the input."""

    input: str
    out: str
    config: Config
    limit: int | None = None

    @property
    def bundle(self) -> Path:
        """Folder of the model."""
        bundle = self.config.model.bundle
        return demo_bundle() if bundle is None else Path(bundle).absolute()


@dataclass(frozen=True)
class Result:
    """What came of it. images: finished by this driver in `seconds`, replicas' start included."""

    store: RunStore
    published: Published
    images: int
    seconds: float


def tag(request: Request, console: Console, replica_class: type = Replica) -> Result:
    """Tag all images of an input into a run folder, or go on with the run that is there.

    replica_class: what a replica runs, see `pipeline.fleet.FleetSpec`.
    Raises RunError or RamcoreError; after a StoppedError the same call goes on where this one stopped.
    """
    store = RunStore(request.out)
    asked = pins(request.config, request.input, request.limit, bundle_hash(request.bundle))
    opened = _open(store, request, asked)
    check_before_cluster(request.config, read_config(request.bundle))
    store.probe()
    images, seconds = 0, 0.0
    if isinstance(opened, Input) or pending_chunks(store, opened):
        images, seconds = _on_cluster(request, store, opened, asked, console, replica_class)
    with console.status("writing the tables"):
        published = finalize(store)
    return Result(store, published, images, seconds)


def _on_cluster(
    request: Request,
    store: RunStore,
    opened: Plan | Input,
    asked: dict[str, Any],
    console: Console,
    replica_class: type,
) -> tuple[int, float]:
    """All that needs the cluster: plan what is not planned yet, and tag what is pending."""
    config = request.config
    load = _model_load(request, asked["bundle"])
    with (
        joined(console),
        requested_cards(config),
        proof_of(store, request.input, request.bundle) as proof,
    ):
        planned = None if isinstance(opened, Input) else opened.pinned["model.dtype"]
        shape = survey(config, load, planned, proof, console)
        if planned is None:
            dtype = checked_dtype(store, config, request.bundle, shape.policy.dtype, shape.slots, console)
            shape = shape.computing_in(dtype, config)
        for line in fleet_lines(shape):
            console.print(line)
        with console.status("planning"):
            plan = _plan(store, opened, request, asked, shape) if isinstance(opened, Input) else opened
        return _tag_pending(request, store, plan, shape, proof, console, replica_class)


def _open(store: RunStore, request: Request, asked: dict[str, Any]) -> Plan | Input:
    """The plan of the run that is there already, or else INPUT; what cannot work is refused before a cluster starts."""
    plan = read_plan(store)
    if plan is None:
        if next(committed(store), None) is not None:
            raise InputError(
                f"--out {request.out} holds the chunks of a run but no plan for them: "
                "restore its plan/ folder, or choose another --out"
            )
        if store.exists("run.json"):
            raise PinnedError(f"--out {request.out} was made by `ramfleet threshold`, not by tagging: choose another")
        return open_input(request.input, config=request.config)
    check_pins(plan, asked, request.out)
    return plan


def _plan(store: RunStore, source: Input, request: Request, asked: dict[str, Any], shape: ClusterShape) -> Plan:
    """Cut the input into chunks, once; another driver may be first, and then its plan is taken if it is the same."""
    chunk_rows = request.config.plan.chunk_rows

    def rows_per_chunk(rows: int) -> int:
        if chunk_rows != "auto":
            return chunk_rows
        even = -(-rows // (_CHUNKS_PER_REPLICA * len(shape.slots)))
        return min(max(even, _FEWEST_CHUNK_ROWS), _MOST_CHUNK_ROWS)

    record_model(store, request.bundle, asked["bundle"])
    captions = writes_captions(request.config.output.captions, read_config(request.bundle))
    resolved = asked | {"model.dtype": shape.policy.dtype, "output.captions": captions}
    plan = make_plan(source.batches(), store, rows_per_chunk, request.limit, resolved)
    check_pins(plan, asked, request.out)
    return plan


def _tag_pending(
    request: Request,
    store: RunStore,
    plan: Plan,
    shape: ClusterShape,
    proof: Proof,
    console: Console,
    replica_class: type,
) -> tuple[int, float]:
    """Start the Fleet and drive the pending chunks through it; images finished, and the seconds that took."""
    config = request.config
    size = read_config(request.bundle).swin.image_size
    shape = shape.computing_in(plan.pinned["model.dtype"], config)
    session = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    job = Job(
        for_fetching(config, request.input),
        store,
        session,
        str(request.bundle),
        size,
        shape.policy.dtype,
        plan.hash,
    )
    output = config.output
    captions = plan.pinned.get("output.captions", False)
    replica = ReplicaSpec(job.bundle, plan.pinned["bundle"], output.score_floor, output.top_k, captions)
    fleet = start_fleet(
        FleetSpec(config, store, session, replica, shape.policy, shape.facts, shape.unusable, proof, replica_class)
    )
    flow = FlowShape(
        workers=shape.decoders,
        replicas=len(shape.slots),
        chunk_bytes=max(plan.chunk_rows(0), 1) * size * size * 3,
        worker_bytes=shape.worker_bytes,
    )
    done = plan.counts["planned"] - sum(plan.chunk_rows(chunk) for chunk in pending_chunks(store, plan))
    with RunProgress(console, total=plan.counts["planned"], done=done) as progress:
        drive(job, plan, fleet, flow, progress, lambda: still_there(request.input, config))
    return progress.finished, progress.elapsed_s


def _model_load(request: Request, bundle_hash: str) -> ModelLoad:
    captions = writes_captions(request.config.output.captions, read_config(request.bundle))
    return model_load(request.bundle, bundle_hash, captions)
