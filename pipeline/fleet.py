"""The Fleet: one Ray actor that keeps the replicas of the model alive and leases them.

Every second it compares the cluster's nodes with its replicas. It holds no images and no progress: killed, it
starts again, finds its old replicas dead (Ray ends an actor with its owner) and puts new ones in their place.
"""

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from pipeline.cards import Slot, SlotPolicy
from pipeline.config import Config
from pipeline.errors import last_line
from pipeline.events import EventLog, read_events
from pipeline.leases import Lease, LeaseBook, Work
from pipeline.leases import Replica as ReplicaRecord
from pipeline.node_facts import NodeFacts
from pipeline.replica import Replica, ReplicaSpec
from pipeline.replica_actor import start_actor
from pipeline.store import RunStore

_RECONCILE_EVERY_S = 1.0
_HOLDER_TIMEOUT_S = 10.0
_NODE_VERDICT_S = 1.0
"""How long a node's death may take to show after the deaths of its processes."""
_NODE_VERDICT_ALONE_S = 5.0
"""The same where the verdict may make an image poison."""
_LONGEST_BACKOFF_S = 60.0
_MEMORY_KILLS_FORGIVEN = 3
_FAILURES_OF_ONE_REPLICA = 3
_FAILED_STARTS = 3


@dataclass(frozen=True)
class FleetSpec:
    """All that the Fleet needs to know of the run.

    session: the driver process it belongs to; policy: where there is room for replicas, decided once for the run;
    facts: of the nodes that were there at its start, by node id;
    replica_class: what a replica runs, a class with the constructor and methods of `pipeline.replica.Replica`.
    """

    config: Config
    store: RunStore
    session: str
    replica: ReplicaSpec
    policy: SlotPolicy
    facts: Mapping[str, NodeFacts]
    replica_class: type = Replica


@dataclass(frozen=True)
class Grant:
    """A lease as its holder sees it. handle: the replica's actor; card, node_type: where it runs."""

    lease_id: str
    replica_id: str
    handle: Any
    node_id: str
    node_type: str
    card: str


@dataclass
class FleetStatus:
    """What the driver shows: replicas that can work and that start, images under way.

    stalled: why there has been none for too long; broken: why there can never be one.
    """

    ready: int
    starting: int
    images_under_way: int
    leases: int
    stalled: str | None
    broken: str | None


@dataclass
class _Request:
    holder: str
    node_id: str
    work: Work
    granted: asyncio.Future[Grant | None] = field(default_factory=asyncio.Future)


@dataclass(frozen=True)
class _Failure:
    """Failed starts in one slot, one after the other."""

    count: int
    retry_at: float
    error: str


class Fleet:
    """See the module. Runs as an async Ray actor: every method runs on one event loop, so none may block."""

    def __init__(self, spec: FleetSpec) -> None:
        self._spec = spec
        self._book = LeaseBook(spec.config.fleet.lease_timeout_s, _HOLDER_TIMEOUT_S)
        self._slots: dict[str, Slot] = {}
        self._placed: dict[str, Slot] = {}
        self._handles: dict[str, Any] = {}
        self._waiting: list[_Request] = []
        self._verdicts: dict[str, asyncio.Future[None]] = {}
        self._under_way: Counter[str] = Counter()
        self._decoding: Counter[int] = Counter()
        self._failures: dict[str, _Failure] = {}
        self._killed_because: dict[str, str] = {}
        self._killed_for_memory: set[str] = set()
        self._memory_kills: Counter[Work] = Counter()
        self._ready_at = time.monotonic()
        self._was_ready = False
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._broken: BaseException | None = None
        self._log = EventLog(spec.store, spec.session, "fleet")
        self._recall_strikes()
        self._log.write("fleet_started")

    # ---- what the hand-over and the decoders ask ----

    async def lease(self, holder: str, node_id: str, work: Work) -> Grant | None:
        """A replica for this work, when one is free; None if the work is struck out and must be cut up."""
        self._start()
        self._book.hear(holder, time.monotonic())
        if self._book.struck_out(work):
            return None
        request = _Request(holder, node_id, work)
        self._waiting.append(request)
        self._grant_waiting()
        return await request.granted

    async def release(self, lease_id: str) -> None:
        """The work of a lease is done."""
        lease = self._book.leases.get(lease_id)
        if lease is not None and self._book.release(lease_id):
            self._book.replicas[lease.replica_id].failures = 0
            self._under_way.pop(lease.replica_id, None)
            self._grant_waiting()

    async def failed(self, lease_id: str, error: str) -> None:
        """The model raised an error on the work of a lease: a strike. A replica that goes on failing is replaced."""
        lease = self._book.leases.get(lease_id)
        if lease is None:
            return
        self._strike(lease, f"error: {error}")
        failures = self._book.replicas[lease.replica_id].failures + 1
        await self.release(lease_id)
        self._book.replicas[lease.replica_id].failures = failures
        if failures >= _FAILURES_OF_ONE_REPLICA:
            self._retire(lease.replica_id, f"failed {failures} times without a success, the last: {error}")

    async def lost(self, lease_id: str) -> None:
        """The replica of a lease did not answer: returns when it is known whether that is a strike."""
        lease = self._book.leases.get(lease_id)
        if lease is not None:
            await self._on_death(lease.replica_id, "its connection was lost")
        verdict = self._verdicts.pop(lease_id, None)
        if verdict is not None:
            await verdict

    async def hear(self, holder: str) -> None:
        """A holder of leases is alive."""
        self._start()
        self._book.hear(holder, time.monotonic())

    async def progress(self, replica_id: str, images: int) -> None:
        """A replica has done some more images of its present lease, which is longer for it."""
        if replica_id in self._book.replicas:
            self._under_way[replica_id] += images
            self._book.extend(replica_id, time.monotonic())

    async def decode_begins(self, chunk: int) -> int:
        """How many attempts to decode this chunk began before and never ended."""
        self._start()
        unfinished = self._decoding[chunk]
        self._decoding[chunk] += 1
        return unfinished

    async def decode_ends(self, chunk: int) -> None:
        """The chunk is decoded."""
        self._decoding.pop(chunk, None)

    async def status(self) -> FleetStatus:
        """How it stands. Raises what ended the reconciling, if anything did."""
        self._start()
        if self._loop is not None and self._loop.done():
            self._loop.result()
        return FleetStatus(
            ready=self._book.ready(),
            starting=len(self._book.replicas) - self._book.ready(),
            images_under_way=sum(self._under_way.values()),
            leases=len(self._book.leases),
            stalled=self._stalled(),
            broken=self._cannot_start(),
        )

    # ---- leases ----

    def _grant_waiting(self) -> None:
        for request in list(self._waiting):
            replica = self._book.idle(request.node_id, fresh=request.work.alone)
            if replica is None:
                return
            self._waiting.remove(request)
            if request.work.alone and replica.served:
                self._replace_for(request, replica)
            else:
                self._grant(request, replica)

    def _grant(self, request: _Request, replica: ReplicaRecord) -> None:
        lease = self._book.grant(uuid.uuid4().hex, replica, request.holder, request.work, time.monotonic())
        slot = self._placed[replica.replica_id]
        handle = self._handles[replica.replica_id]
        request.granted.set_result(
            Grant(lease.lease_id, replica.replica_id, handle, slot.node_id, slot.node_type, slot.card)
        )
        self._log.write("lease", lease=lease.lease_id, replica=replica.replica_id, work=list(request.work))

    def _replace_for(self, request: _Request, replica: ReplicaRecord) -> None:
        """Work that runs alone gets a process that has done nothing before."""
        slot = self._placed[replica.replica_id]
        self._retire(replica.replica_id, "replaced by a fresh one")
        self._begin_replica(slot, request)

    def _strike(self, lease: Lease, cause: str) -> None:
        strikes = self._book.strike(lease.work)
        self._log.write("strike", work=list(lease.work), replica=lease.replica_id, strikes=strikes, cause=cause)

    def _recall_strikes(self) -> None:
        """Strikes outlive the Fleet's own process."""
        for event in read_events(self._spec.store, self._spec.session):
            if event["event"] == "strike":
                self._book.strike(Work(*event["work"]))

    # ---- the life of replicas ----

    def _begin_replica(self, slot: Slot, request: _Request | None = None) -> None:
        """Take a free slot and start a replica in it; the request that it is for, if any, gets it first."""
        replica_id = f"{slot.card}-{next(self._numbers)}-{uuid.uuid4().hex[:4]}"
        self._book.replicas[replica_id] = ReplicaRecord(replica_id, slot.node_id, slot.slot)
        self._placed[replica_id] = slot
        self._spawn(self._start_replica(replica_id, slot, request))

    async def _start_replica(self, replica_id: str, slot: Slot, request: _Request | None) -> None:
        started = time.monotonic()
        me = ray.get_runtime_context().current_actor
        handle = start_actor(slot, self._spec.replica_class, self._spec.replica, me, replica_id)
        self._handles[replica_id] = handle
        try:
            pid = await handle.ready.remote()
        except RayError as error:
            self._on_failed_start(slot, replica_id, last_line(error))
        record = self._book.replicas.get(replica_id)
        if record is None:  # it could not start, or its node died meanwhile
            if request is not None:
                self._waiting.insert(0, request)
            return
        record.state = "idle"
        self._failures.pop(slot.slot, None)
        self._was_ready = True
        load_s = round(time.monotonic() - started, 3)
        self._log.write(
            "replica_ready",
            replica=replica_id,
            node=slot.node_id,
            node_type=slot.node_type,
            card=slot.card,
            pid=pid,
            load_s=load_s,
        )
        self._spawn(self._watch(replica_id, handle))
        if request is not None:
            self._grant(request, record)
        self._grant_waiting()

    def _on_failed_start(self, slot: Slot, replica_id: str, error: str) -> None:
        self._retire(replica_id, f"could not start: {error}")
        failures = self._failures[slot.slot].count + 1 if slot.slot in self._failures else 1
        retry_at = time.monotonic() + min(2.0**failures, _LONGEST_BACKOFF_S)
        self._failures[slot.slot] = _Failure(failures, retry_at, error)

    async def _watch(self, replica_id: str, handle: Any) -> None:
        try:
            await handle.watch.remote()
        except RayError as error:
            if isinstance(error, OutOfMemoryError):
                self._killed_for_memory.add(replica_id)
            await self._on_death(replica_id, last_line(error))

    async def _on_death(self, replica_id: str, cause: str) -> None:
        """A replica's process is gone: end its lease, and find out whether its work is to blame."""
        if replica_id not in self._book.replicas:
            return
        node_id = self._book.replicas[replica_id].node_id
        cause = self._killed_because.pop(replica_id, cause)
        lease = self._retire(replica_id, cause)
        if lease is None:
            return
        verdict = self._verdicts[lease.lease_id] = asyncio.Future()
        await asyncio.sleep(_NODE_VERDICT_ALONE_S if lease.work.alone else _NODE_VERDICT_S)
        if await self._blames_work(node_id, replica_id, lease.work):
            self._strike(lease, cause)
        verdict.set_result(None)

    async def _blames_work(self, node_id: str, replica_id: str, work: Work) -> bool:
        """Whether a process's death counts against its work: not if its node died, or Ray needed the memory.

        Ray ends processes when memory runs low, whoever took it; the same work again and again is no coincidence.
        """
        nodes = await asyncio.to_thread(ray.nodes)
        if not any(node["NodeID"] == node_id and node["Alive"] for node in nodes):
            return False
        if replica_id not in self._killed_for_memory:
            return True
        self._memory_kills[work] += 1
        return self._memory_kills[work] > _MEMORY_KILLS_FORGIVEN

    def _retire(self, replica_id: str, cause: str) -> Lease | None:
        """Forget a replica and end its process; the lease on it, which has ended."""
        handle = self._handles.pop(replica_id, None)
        if handle is not None:
            ray.kill(handle)
        self._placed.pop(replica_id, None)
        self._under_way.pop(replica_id, None)
        lease = self._book.drop(replica_id)
        self._log.write("replica_gone", replica=replica_id, cause=cause, lease=lease and lease.lease_id)
        return lease

    # ---- reconciling ----

    def _start(self) -> None:
        """Begin to reconcile: there is no event loop yet when the constructor runs."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._reconcile_forever())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        """A background task that failed ends the reconciling with its error, which `status` raises."""
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._broken is None:
            self._broken = task.exception()

    async def _reconcile_forever(self) -> None:
        while True:
            if self._broken is not None:
                raise self._broken
            self._reconcile(await asyncio.to_thread(ray.nodes))
            await asyncio.sleep(_RECONCILE_EVERY_S)

    def _reconcile(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Compare the cluster's nodes with the replicas, and the leases with the clock."""
        now = time.monotonic()
        slots = self._spec.policy.slots(nodes, self._spec.facts)
        self._slots = {slot.slot: slot for slot in slots}
        alive = {node["NodeID"] for node in nodes if node["Alive"]}
        for record in list(self._book.replicas.values()):
            if record.node_id not in alive:
                self._spawn(self._on_death(record.replica_id, "its node is gone"))
        self._fill_slots(now)
        for lease in self._book.orphaned(now):
            self._log.write("lease_orphaned", lease=lease.lease_id, holder=lease.holder)
            self._spawn(self._settle(lease.replica_id))
        self._waiting = [request for request in self._waiting if not self._book.is_silent(request.holder, now)]
        for lease in self._book.overdue(now):
            self._killed_because[lease.replica_id] = f"hung: no answer within {self._book.lease_timeout_s:g} s"
            ray.kill(self._handles[lease.replica_id])
        if self._book.ready():
            self._ready_at = now
            self._was_ready = True

    def _fill_slots(self, now: float) -> None:
        """Start replicas where there is room, but no more than `fleet.max_replicas` in all."""
        taken = {record.slot for record in self._book.replicas.values()}
        most = self._spec.config.fleet.max_replicas or len(self._slots)
        for slot in self._slots.values():
            failure = self._failures.get(slot.slot)
            if slot.slot in taken or (failure is not None and now < failure.retry_at):
                continue
            if len(self._book.replicas) < most:
                self._begin_replica(slot)

    async def _settle(self, replica_id: str) -> None:
        """A replica whose holder died is leased again when it has come to the end of what it was doing."""
        handle = self._handles.get(replica_id)
        if handle is None:
            return
        try:
            await asyncio.wait_for(_answer(handle.ready.remote()), self._book.lease_timeout_s)
        except TimeoutError:
            self._killed_because[replica_id] = "hung: no answer after its holder died"
            ray.kill(handle)
            return
        except RayError:
            return  # its watch tells of the death
        if replica_id in self._book.replicas:
            self._book.replicas[replica_id].state = "idle"
            self._under_way.pop(replica_id, None)
            self._grant_waiting()

    def _cannot_start(self) -> str | None:
        """Why waiting is useless: every slot has failed again and again, and none has ever worked."""
        if self._book.ready() or self._was_ready or not self._slots:
            return None
        failures = [self._failures.get(slot) for slot in self._slots]
        if any(failure is None or failure.count < _FAILED_STARTS for failure in failures):
            return None
        errors = sorted({failure.error for failure in failures if failure is not None})
        return f"the model could not be loaded, {_FAILED_STARTS} times in every replica: {'; '.join(errors)}"

    def _stalled(self) -> str | None:
        """Why no replica can work, once that has lasted for `fleet.stall_timeout_s`."""
        timeout = self._spec.config.fleet.stall_timeout_s
        if self._book.ready() or time.monotonic() - self._ready_at < timeout:
            return None
        wanted = f"{len(self._slots)} replica(s) on {', '.join(sorted({s.card for s in self._slots.values()}))}"
        there = "; ".join(sorted({f"{f.count} failed starts, the last: {f.error}" for f in self._failures.values()}))
        if not self._slots:
            wanted, there = "at least one replica", "the cluster has no GPU and no CPU to spare for one"
        return f"no replica of the model for {timeout:g} s: wanted {wanted}; {there or 'none has started yet'}"


async def _answer(reference: Any) -> Any:
    """Ray's awaitable as a coroutine, which `asyncio.wait_for` can cancel."""
    return await reference
