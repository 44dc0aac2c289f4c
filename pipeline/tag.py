"""The main job: plan → fetch → decode → tag → commit → finalize."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
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

    replica_class: what a replica runs, see `pipeline.fleet.messages.FleetSpec`.
    Raises RunError or RamcoreError; after a StoppedError the same call goes on where this one stopped.
    """
    store = open_store(request.out)
    with metered(store.root, "tag", request.config, console) as meter:
        return RunCommand(request, store, meter, console, replica_class).tag()


@dataclass(frozen=True)
class RunCommand:
    """A command at work on a run: what its steps have in common, and the steps.

    store: the run folder; replica_class: what a replica runs, as for `tag`.
    """

    request: Request
    store: RunStore
    meter: Meter
    console: Console
    replica_class: type = Replica

    def tag(self) -> Result:
        """All of the main path: plan → fetch → decode → tag → commit → finalize."""
        request = self.request
        asked = pins(request.config, request.input, request.limit, bundle_hash(request.bundle))
        asked[BASE_PIN] = None if request.base is None else absolute(request.base).rstrip("/")
        opened = self._open(asked)
        images, seconds = self._begin(opened, asked) if isinstance(opened, Input) else self._go_on(opened)
        if request.quote is not None:
            keep_quote(self.store, request.quote)
        return self.publish(images, seconds)

    def _begin(self, source: Input, asked: dict[str, Any]) -> tuple[int, float]:
        """Plan the run and tag all of it; as `work_on`."""
        base = self._open_base(asked)
        self._check()
        dtype = None if base is None else base.document["pinned"]["model.dtype"]
        with self._on_cluster(asked["bundle"], dtype) as shape:
            with self.meter.span("plan"):
                plan = self._plan(source, base, asked, shape)
            return self._tag_pending(plan, FirstPass(), shape)

    def _go_on(self, plan: Plan) -> tuple[int, float]:
        """Tag what is left of a planned run; as `work_on`."""
        self._check()
        return self.work_on(plan, FirstPass()) if pending_chunks(self.store, plan) else (0, 0.0)

    def work_on(self, plan: Plan, work: Pass) -> tuple[int, float]:
        """Start or join a cluster and do some work on a run that was planned with the request's bundle.

        Images finished, and the seconds that took. To be called after `check_model`.
        """
        with self._on_cluster(plan.pinned["bundle"], plan.pinned["model.dtype"]) as shape:
            return self._tag_pending(plan, work, shape)

    def publish(self, images: int, seconds: float) -> Result:
        """The tables and the report, from all committed chunks. images, seconds: what this command did."""
        config = self.request.config
        with self.console.status("writing the tables"), self.meter.span("finalize"):
            published = finalize(self.store, Options.of(config) if config.run.report else None)
        return Result(self.store, published, images, seconds, config.run.report)

    def check_model(self) -> None:
        """Refuse what the bundle cannot do, before a cluster starts. Raises ConfigError."""
        check_before_cluster(self.request.config, read_config(self.request.bundle))

    def _check(self) -> None:
        """Refuse what cannot work, before a cluster starts."""
        self.check_model()
        self.store.probe(self.request.config.run.single_writer)

    def _open(self, asked: dict[str, Any]) -> Plan | Input:
        """The plan of the run that is there, or else INPUT; what cannot work is refused before a cluster starts."""
        out = self.request.out
        plan = read_plan(self.store)
        if plan is None:
            if next(committed(self.store), None) is not None:
                raise InputError(
                    f"--out {out} holds the chunks of a run but no plan for them: "
                    "restore its plan/ folder, or choose another --out"
                )
            if self.store.exists("run.json"):
                raise PinnedError(f"--out {out} was made by `ramfleet threshold`, not by tagging: choose another")
            return open_input(self.request.input, config=self.request.config)
        check_pins(plan, asked, out)
        refuse_if_cleaned(self.store)
        return plan

    def _open_base(self, asked: dict[str, Any]) -> BaseRun | None:
        base = self.request.base
        if base is None:
            return None
        if asked[BASE_PIN] == self.store.root:
            raise InputError(f"--base {base} is --out itself: name another folder for the new run")
        return open_base(open_store(base), asked, self.request.config.run.carry_by_uri)

    @contextmanager
    def _on_cluster(self, bundle: str, dtype: str | None) -> Iterator[ClusterShape]:
        """Within: the cluster is joined, and what it offers was looked at and shown.

        bundle: its hash, which takes a second to compute; dtype: where it is decided already.
        """
        request, config, console = self.request, self.request.config, self.console
        load_prices(config.prices)  # wrong files are refused before a cluster starts
        captions = writes_captions(config.output.captions, read_config(request.bundle))
        load = model_load(request.bundle, bundle, captions)
        with (
            joined(console),
            requested_cards(config),
            proof_of(self.store, request.input, request.bundle, config) as proof,
        ):
            shape = survey(config, load, dtype, proof, console)
            if dtype is None:
                dtype = checked_dtype(self.store, config, request.bundle, shape.policy.dtype, shape.slots, console)
                shape = shape.computing_in(dtype, config)
            for line in fleet_lines(shape):
                console.print(line)
            self.meter.join()
            yield shape

    def _plan(self, source: Input, base: BaseRun | None, asked: dict[str, Any], shape: ClusterShape) -> Plan:
        """Cut the input into chunks, once; another driver may be first, and its plan is taken if it is the same."""
        request, config = self.request, self.request.config

        def rows_per_chunk(rows: int) -> int:
            if config.plan.chunk_rows != "auto":
                return config.plan.chunk_rows
            return auto_chunk_rows(rows, len(shape.slots))

        with self.console.status("planning"):
            record_model(self.store, request.bundle, asked["bundle"])
            captions = writes_captions(config.output.captions, read_config(request.bundle))
            resolved = asked | {"model.dtype": shape.policy.dtype, "output.captions": captions}
            if base is not None:
                resolved |= {"base.plan_hash": base.document["plan_hash"]}
            rows = with_versions(source.batches(), config.plan.versions)
            plan = make_plan(rows, self.store, rows_per_chunk, request.limit, resolved, base=base)
        check_pins(plan, asked, request.out)
        return plan

    def _tag_pending(self, plan: Plan, work: Pass, shape: ClusterShape) -> tuple[int, float]:
        """Start the Fleet and drive the pending chunks through it; as `work_on`."""
        if not work.pending(self.store, plan):  # all was carried over
            return 0, 0.0
        job = self._job(plan, work)
        shape = shape.computing_in(job.dtype, job.config)
        flow = _flow_shape(job, plan, shape)
        source_exists = partial(still_there, self.request.input, job.config)
        with at_work(self.store, job.session, work.command, job.bundle):
            fleet = start_fleet(self._fleet_spec(job, plan, shape))
            total, done = work.extent(self.store, plan)
            with RunProgress(self.console, total=total, done=done) as progress:
                drive(job, plan, fleet, flow, progress, self.meter, source_exists)
        return progress.finished, progress.elapsed_s

    def _job(self, plan: Plan, work: Pass) -> Job:
        """What every process of the run is told, by a driver process with a name of its own."""
        request = self.request
        return Job(
            config=for_fetching(request.config, request.input),
            store=self.store,
            session=f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}",
            bundle=str(request.bundle),
            image_size=read_config(request.bundle).swin.image_size,
            dtype=plan.pinned["model.dtype"],
            plan_hash=plan.hash,
            work=work,
        )

    def _fleet_spec(self, job: Job, plan: Plan, shape: ClusterShape) -> FleetSpec:
        output = job.config.output
        captions = plan.pinned.get("output.captions", False)
        return FleetSpec(
            config=job.config,
            store=job.store,
            session=job.session,
            replica=ReplicaSpec(job.bundle, plan.pinned["bundle"], output.score_floor, output.top_k, captions),
            policy=shape.policy,
            facts=shape.facts,
            unusable=shape.unusable,
            proof=shape.proof,
            seen_at=shape.seen_at,
            prices=load_prices(job.config.prices),
            replica_class=self.replica_class,
        )


def _flow_shape(job: Job, plan: Plan, shape: ClusterShape) -> FlowShape:
    return FlowShape(
        workers=shape.decoders,
        replicas=len(shape.slots),
        chunk_bytes=max(plan.chunk_rows(0), 1) * job.image_size**2 * 3,
        worker_bytes=shape.worker_bytes,
    )
