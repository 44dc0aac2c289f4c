"""The main job: plan → fetch → decode → tag → commit → finalize."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.cards.node_facts import proof_of
from pipeline.cards.sizing import model_load
from pipeline.chunks import committed, pending_chunks
from pipeline.config import Config
from pipeline.costs.price_files import load_prices
from pipeline.driver import drive
from pipeline.errors import InputError, PinnedError
from pipeline.events.presence import at_work
from pipeline.finalize import finalize
from pipeline.fleet.cluster import ClusterShape, joined, requested_cards, start_fleet, survey
from pipeline.fleet.messages import FleetSpec
from pipeline.fleet.replica import Replica, ReplicaSpec
from pipeline.fleet.table import fleet_lines
from pipeline.flow import FlowShape
from pipeline.job import Job
from pipeline.manifests.manifest import Input, open_input
from pipeline.manifests.places import for_fetching, still_there
from pipeline.manifests.versions import with_versions
from pipeline.metrics.meter import Meter, metered
from pipeline.model_choice import check_before_cluster, writes_captions
from pipeline.model_record import record_model
from pipeline.parity_gate import checked_dtype
from pipeline.passes import FirstPass, Pass
from pipeline.pins import absolute, check_pins, pins
from pipeline.plan import Plan, auto_chunk_rows, make_plan, read_plan
from pipeline.progress import RunProgress
from pipeline.quoting.saved_quote import keep_quote
from pipeline.report.document import Options
from pipeline.stores.opening import open_store
from pipeline.stores.read_only import refuse_if_cleaned
from pipeline.stores.run_store import RunStore
from pipeline.sync import BASE_PIN, BaseRun, open_base
from pipeline.tables.accounting import Published
from ramcore.bundle import bundle_hash, demo_bundle, read_config


@dataclass(frozen=True)
class Request:
    """What a user asks for.

    input: INPUT as given; out: the run folder; limit: only so many rows of the input; base: a finished run, from which
    unchanged images are carried over; quote: what `ramfleet quote --json` wrote, for the report.
    """

    input: str
    out: str
    config: Config
    limit: int | None = None
    base: str | None = None
    quote: bytes | None = None

    @property
    def bundle(self) -> Path:
        """Folder of the model."""
        bundle = self.config.model.bundle
        return demo_bundle() if bundle is None else Path(bundle).absolute()


@dataclass(frozen=True)
class Result:
    """What came of it. images: finished by this driver in `seconds`, replicas' start included; has_report: whether
    report.html was written."""

    store: RunStore
    published: Published
    images: int
    seconds: float
    has_report: bool


def tag(request: Request, console: Console, replica_class: type = Replica) -> Result:
    """Tag all images of an input into a run folder, or go on with the run that is there.

    replica_class: what a replica runs, see `pipeline.fleet.fleet.FleetSpec`.
    Raises RunError or RamcoreError; after a StoppedError the same call goes on where this one stopped.
    """
    store = open_store(request.out)
    with metered(store.root, "tag", request.config, console) as meter:
        return _tag(request, store, meter, console, replica_class)


def _tag(request: Request, store: RunStore, meter: Meter, console: Console, replica_class: type) -> Result:
    asked = pins(request.config, request.input, request.limit, bundle_hash(request.bundle))
    asked[BASE_PIN] = None if request.base is None else absolute(request.base).rstrip("/")
    opened = _open(store, request, asked)
    base = _open_base(store, request, asked) if isinstance(opened, Input) else None
    check_before_cluster(request.config, read_config(request.bundle))
    store.probe(request.config.run.single_writer)
    images, seconds = 0, 0.0
    if isinstance(opened, Input) or pending_chunks(store, opened):
        of_base = None if base is None else base.document["pinned"]["model.dtype"]
        dtype = of_base if isinstance(opened, Input) else opened.pinned["model.dtype"]
        with _on_cluster(request, asked["bundle"], store, dtype, meter, console) as shape:
            plan = opened
            if isinstance(plan, Input):
                with meter.span("plan"):
                    plan = _plan(store, plan, base, request, asked, shape, console)
            images, seconds = _tag_pending(request, store, plan, FirstPass(), shape, meter, console, replica_class)
    if request.quote is not None:
        keep_quote(store, request.quote)
    with console.status("writing the tables"), meter.span("finalize"):
        published = finalize(store, Options.of(request.config) if request.config.run.report else None)
    return Result(store, published, images, seconds, request.config.run.report)


def work_on(
    request: Request,
    store: RunStore,
    plan: Plan,
    work: Pass,
    meter: Meter,
    console: Console,
    replica_class: type = Replica,
) -> tuple[int, float]:
    """Start or join a cluster and do some work on a run that was planned with the request's bundle.

    Images finished, and the seconds that took.
    """
    check_before_cluster(request.config, read_config(request.bundle))
    with _on_cluster(request, plan.pinned["bundle"], store, plan.pinned["model.dtype"], meter, console) as shape:
        return _tag_pending(request, store, plan, work, shape, meter, console, replica_class)


@contextmanager
def _on_cluster(
    request: Request, bundle: str, store: RunStore, dtype: str | None, meter: Meter, console: Console
) -> Iterator[ClusterShape]:
    """Within: the cluster is joined, and what it offers was looked at and shown.

    bundle: its hash, which takes a second to compute; dtype: where it is decided already.
    """
    config = request.config
    load_prices(config.prices)  # wrong files are refused before a cluster starts
    description = read_config(request.bundle)
    captions = writes_captions(config.output.captions, description)
    load = model_load(request.bundle, bundle, captions)
    with joined(console), requested_cards(config), proof_of(store, request.input, request.bundle, config) as proof:
        shape = survey(config, load, dtype, proof, console)
        if dtype is None:
            dtype = checked_dtype(store, config, request.bundle, shape.policy.dtype, shape.slots, console)
            shape = shape.computing_in(dtype, config)
        for line in fleet_lines(shape):
            console.print(line)
        meter.join()
        yield shape


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
    refuse_if_cleaned(store)
    return plan


def _open_base(store: RunStore, request: Request, asked: dict[str, Any]) -> BaseRun | None:
    if request.base is None:
        return None
    if asked[BASE_PIN] == store.root:
        raise InputError(f"--base {request.base} is --out itself: name another folder for the new run")
    return open_base(open_store(request.base), asked, request.config.run.carry_by_uri)


def _plan(
    store: RunStore,
    source: Input,
    base: BaseRun | None,
    request: Request,
    asked: dict[str, Any],
    shape: ClusterShape,
    console: Console,
) -> Plan:
    """Cut the input into chunks, once; another driver may be first, and then its plan is taken if it is the same."""
    config = request.config

    def rows_per_chunk(rows: int) -> int:
        if config.plan.chunk_rows != "auto":
            return config.plan.chunk_rows
        return auto_chunk_rows(rows, len(shape.slots))

    with console.status("planning"):
        record_model(store, request.bundle, asked["bundle"])
        captions = writes_captions(config.output.captions, read_config(request.bundle))
        resolved = asked | {"model.dtype": shape.policy.dtype, "output.captions": captions}
        if base is not None:
            resolved |= {"base.plan_hash": base.document["plan_hash"]}
        rows = with_versions(source.batches(), config.plan.versions)
        plan = make_plan(rows, store, rows_per_chunk, request.limit, resolved, base=base)
    check_pins(plan, asked, request.out)
    return plan


def _tag_pending(
    request: Request,
    store: RunStore,
    plan: Plan,
    work: Pass,
    shape: ClusterShape,
    meter: Meter,
    console: Console,
    replica_class: type,
) -> tuple[int, float]:
    """Start the Fleet and drive the pending chunks through it; images finished, and the seconds that took."""
    if not work.pending(store, plan):  # all was carried over
        return 0, 0.0
    config = for_fetching(request.config, request.input)
    size = read_config(request.bundle).swin.image_size
    shape = shape.computing_in(plan.pinned["model.dtype"], config)
    session = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
    job = Job(config, store, session, str(request.bundle), size, shape.policy.dtype, plan.hash, work)
    output = config.output
    captions = plan.pinned.get("output.captions", False)
    replica = ReplicaSpec(job.bundle, plan.pinned["bundle"], output.score_floor, output.top_k, captions)
    flow = FlowShape(
        workers=shape.decoders,
        replicas=len(shape.slots),
        chunk_bytes=max(plan.chunk_rows(0), 1) * size * size * 3,
        worker_bytes=shape.worker_bytes,
    )
    with at_work(store, session, work.command, str(request.bundle)):
        fleet = start_fleet(
            FleetSpec(
                config=config,
                store=store,
                session=session,
                replica=replica,
                policy=shape.policy,
                facts=shape.facts,
                unusable=shape.unusable,
                proof=shape.proof,
                seen_at=shape.seen_at,
                prices=load_prices(config.prices),
                replica_class=replica_class,
            )
        )
        total, done = work.extent(store, plan)
        with RunProgress(console, total=total, done=done) as progress:
            drive(job, plan, fleet, flow, progress, meter, lambda: still_there(request.input, config))
    return progress.finished, progress.elapsed_s
