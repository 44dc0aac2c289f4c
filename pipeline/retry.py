"""`ramfleet retry`: the rejects of some kinds tagged once more, each affected chunk into its next generation."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from pipeline.chunks import generations, pending_chunks, read_chunk
from pipeline.config import Config
from pipeline.error_kinds import ERROR_KINDS
from pipeline.errors import ConfigError, InputError, PinnedError, StoppedError
from pipeline.finished_run import published
from pipeline.fleet.replica import Replica
from pipeline.metrics.meter import metered
from pipeline.passes import RetryPass
from pipeline.plan import Plan, read_plan
from pipeline.stores.opening import open_store
from pipeline.stores.read_ahead import read_ahead
from pipeline.stores.read_only import refuse_if_cleaned
from pipeline.stores.run_store import RunStore
from pipeline.tag import Request, Result, RunCommand
from ramcore.bundle import bundle_hash


@dataclass(frozen=True)
class Retried:
    """What came of it. asked: rejects that were tagged again; by_kind: these by kind; result: of the whole run."""

    asked: int
    by_kind: dict[str, int]
    result: Result


def retriable_kinds(only: str | None) -> frozenset[str]:
    """The kinds that `--only` names, "timeout,http_5xx"; None: all that may succeed without the image being changed.

    Raises ConfigError for an unknown kind, and for one that no second attempt can change.
    """
    if only is None:
        return frozenset(name for name, kind in ERROR_KINDS.items() if kind.retriable)
    names = [name.strip() for name in only.split(",") if name.strip()]
    can = [name for name, kind in ERROR_KINDS.items() if kind.stage != "plan"]
    for name in names:
        if name not in ERROR_KINDS:
            raise ConfigError(f"--only {name}: no such error kind; there are {', '.join(can)}")
        if name not in can:
            raise ConfigError(f"--only {name}: it was decided when the run was planned: {ERROR_KINDS[name].remedy}")
    if not names:
        raise ConfigError(f"--only names no error kind; there are {', '.join(can)}")
    return frozenset(names)


def planned_run(store: RunStore) -> Plan:
    """The plan of a run all of whose chunks are committed. Raises InputError, ReadOnlyError or StoppedError."""
    plan = read_plan(store)
    if plan is None:
        raise InputError(f"{store.root} holds no run: there is no plan/plan.json in it")
    refuse_if_cleaned(store)
    missing = len(pending_chunks(store, plan))
    if missing:
        raise StoppedError(
            f"{store.root}: {missing} of {plan.chunks} chunks are not yet done: "
            "run the command that began the run again, then retry its rejects"
        )
    return plan


def find_rejects(store: RunStore, plan: Plan, kinds: frozenset[str]) -> tuple[RetryPass, Counter[str]]:
    """The pass over all chunks that have rejects of these kinds now, and how many rejects of each."""
    there = generations(store)
    base: dict[int, int] = {}
    found: Counter[str] = Counter()

    def read(chunk: int) -> tuple[int, Counter[str]]:
        rejects = read_chunk(store, plan, chunk, there[chunk])["error_kind"].drop_null().to_pylist()
        return chunk, Counter(kind for kind in rejects if kind in kinds)

    for chunk, of_chunk in read_ahead(read, _candidates(store, plan)):
        if of_chunk:
            base[chunk] = there[chunk]
            found += of_chunk
    return RetryPass(kinds, base, found.total()), found


def _candidates(store: RunStore, plan: Plan) -> Iterable[int]:
    """Chunks that may have rejects: those of the published table, since nothing but a retry changes them later."""
    document = published(store)
    if document is None or document["status"] != "complete" or document["plan_hash"] != plan.hash:
        return range(plan.chunks)
    chunks: set[int] = set()
    for name in document["parts"]["rejects"]:
        try:
            with store.open(name) as file:
                chunks.update(pc.unique(pq.read_table(file, columns=["chunk"])["chunk"]).to_pylist())
        except FileNotFoundError:
            return range(plan.chunks)
    return sorted(chunks)


def retry(run: str, kinds: frozenset[str], config: Config, console: Console, replica_class: type = Replica) -> Retried:
    """Tag the rejects of these kinds again and publish the tables.

    config: with the result keys of the run, see `pipeline.pins.pinned_tree`, and `model.bundle` set.
    Raises RunError or RamcoreError; after a StoppedError the same call goes on where this one stopped.
    """
    store = open_store(run)
    plan = planned_run(store)
    store.probe(config.run.single_writer)
    request = Request(plan.pinned["INPUT"], run, config, plan.pinned["--limit"])
    if bundle_hash(request.bundle) != plan.pinned["bundle"]:
        raise PinnedError(f"{store.root}: --model {request.bundle} is not the bundle that the run was planned with")
    with console.status("looking for rejects"):
        work, by_kind = find_rejects(store, plan, kinds)
    with metered(store.root, "retry", config, console) as meter:
        command = RunCommand(request, store, meter, console, replica_class)
        images, seconds = 0, 0.0
        if work.base:
            command.check_model()
            images, seconds = command.work_on(plan, work)
        result = command.publish(images, seconds)
    return Retried(by_kind.total(), dict(by_kind), result)
