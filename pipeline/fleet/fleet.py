"""The Fleet: one Ray actor that keeps the replicas of the model alive and leases them.

Every second, and whenever a node's daemon ends, it compares the cluster's nodes with its replicas. It holds no images
and no progress: killed, it starts again, finds its old replicas dead (Ray ends an actor with its owner) and puts new
ones in their place.
"""

import asyncio
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError

from pipeline.cards.slot_policy import Slot, decode_cpus
from pipeline.errors import last_line
from pipeline.events.kinds import EVENTS
from pipeline.events.log import EventLog, events_in_order
from pipeline.fleet.background import Background
from pipeline.fleet.blame import Blame
from pipeline.fleet.holders import HolderBook
from pipeline.fleet.journal import Journal
from pipeline.fleet.known_nodes import KnownNodes
from pipeline.fleet.leases import Lease, LeaseBook, Replica, Request, Work
from pipeline.fleet.messages import CardStatus, FleetSpec, FleetStatus, Grant, Orders
from pipeline.fleet.node_links import NodeLinks
from pipeline.fleet.node_log import NodeLog
from pipeline.fleet.node_probe import unreachable
from pipeline.fleet.replica_actor import start_actor
from pipeline.fleet.slots import SlotBook
from pipeline.fleet.standing import Standing
from pipeline.metrics.tally import Tally
from pipeline.ray_private import draining_nodes

_RECONCILE_EVERY_S = 1.0
_HOLDER_TIMEOUT_S = 10.0
_NODE_VERDICT_S = 1.0
"""How long a node's death may take to show after the deaths of its processes."""
_NODE_VERDICT_ALONE_S = 5.0
"""The same where the verdict may make an image poison."""
_FAILURES_OF_ONE_REPLICA = 3


class Fleet:
    """See the module. Runs as an async Ray actor: every method runs on one event loop, so none may block."""

    def __init__(self, spec: FleetSpec) -> None:
        self._spec = spec
        self._book = LeaseBook(spec.config.fleet.lease_timeout_s, _HOLDER_TIMEOUT_S)
        self._slots = SlotBook()
        self._nodes = KnownNodes(spec.facts, spec.proof, spec.unusable)
        self._placed: dict[str, Slot] = {}
        self._handles: dict[str, Any] = {}
        self._holders = HolderBook(lambda name: self._book.is_silent(name, time.monotonic()))
        self._decode_cpus: dict[str, float] = {}
        self._lost: dict[str, Lease] = {}
        self._verdicts: dict[str, asyncio.Future[None]] = {}
        self._under_way: Counter[str] = Counter()
        self._decoding: Counter[int] = Counter()
        self._blame = Blame()
        self._standing = Standing(spec.config.fleet.stall_timeout_s, time.monotonic())
        self._outcomes: list[dict[str, Any]] = []
        self._is_told = False
        self._numbers = itertools.count()
        self._background = Background()
        self._links = NodeLinks(self._background)
        self._tally = Tally()
        log = EventLog(spec.store, spec.session, "fleet", heard=self._tally.take)
        self._node_log = NodeLog(log, spec.prices, spec.policy, spec.seen_at)
        self._recall()
        self._journal = Journal(log)

    # ---- what the driver asks ----

    async def expect(self, images: int) -> None:
        """A round begins, with so many images to do."""
        self._start()
        self._is_told = True
        self._book.expect(images)
        self._holders.forget_dead()

    async def status(self, left: int) -> FleetStatus:
        """How it stands. left: images that the driver waits for. Raises what ended the reconciling, if anything did."""
        self._start()
        if not self._is_told:  # this process began in the middle of a round
            self._is_told = True
            self._book.expect(max(0, left - self._book.waiting.images))
        self._background.check()
        outcomes, self._outcomes = self._outcomes, []
        return FleetStatus(
            ready=self._book.ready(),
            starting=len(self._book.replicas) - self._book.ready(),
            images_under_way=sum(self._under_way.values()),
            leases=len(self._book.leases),
            stalled=self._standing.stalled(self._book.ready(), time.monotonic(), self._slots.account),
            broken=None if self._book.ready() else self._slots.unusable(),
            cards=self._cards(),
            notices=self._standing.take(),
            outcomes=tuple(outcomes),
            chunks_in_hand=self._holders.in_hand() | self._holders.stranded(),
            dead_holders=self._holders.dead(),
            idle_holders=self._holders.idle(time.monotonic()),
            metrics=self._tally.values(),
        )

    async def strand(self, chunks: frozenset[int]) -> None:
        """Nobody has these chunks, though Ray Data has given them out: living holders take them over."""
        self._holders.strand(chunks)

    # ---- what the workers on chunks ask ----

    async def decode_begins(self, chunk: int) -> int:
        """How many attempts to decode this chunk began before and never ended."""
        self._start()
        unfinished = self._decoding[chunk]
        self._decoding[chunk] += 1
        return unfinished

    async def decode_ends(self, chunk: int, images: int) -> None:
        """The chunk is decoded, with so many planned images, whatever became of each."""
        self._decoding.pop(chunk, None)
        self._book.arrive(chunk, images)

    async def lease(self, holder: str, node_id: str, work: Work) -> Grant | None:
        """A replica for the first images of this work, or all; None if the work is struck out and must be cut up."""
        self._start()
        self._book.hear(holder, time.monotonic())
        if self._book.struck_out(work):
            return None
        granted: asyncio.Future[Grant | None] = asyncio.Future()
        self._book.request(Request(holder, node_id, work, time.monotonic(), granted))
        self._grant_waiting()
        return await granted

    async def release(
        self, lease_id: str, replica_id: str, microbatch: int, is_finite: bool, model_s: float, ended_at: float
    ) -> None:
        """A replica has done the work of a lease. microbatch: what it runs now, less if memory ran out.

        is_finite: whether all scores are; if not, the holder comes with a `doubt`. model_s, ended_at: how long the
        model worked on it, and until when, seconds since 1970. Nobody may be left to commit what it found.
        """
        self._lost.pop(lease_id, None)
        self._journal.lease_done(lease_id, replica_id, model_s, ended_at)
        lease = self._book.release(lease_id, time.monotonic())
        if lease is not None:
            if is_finite:
                self._convict(lease)
            self._book.replicas[lease.replica_id].failures = 0
            self._note_microbatch(lease.replica_id, microbatch)
            self._after(lease)

    async def failed(self, lease_id: str, error: str) -> None:
        """The model raised an error on the work of a lease: a strike. A replica that goes on failing is replaced."""
        lease, ran_s = self._book.leases.get(lease_id), 0.0
        if lease is not None:
            ran_s = self._book.replicas[lease.replica_id].ran_s(lease, time.monotonic())
        lease = self._book.abandon(lease_id, time.monotonic())
        if lease is None:
            return
        self._journal.lease_failed(lease, ran_s)
        replica = self._book.replicas[lease.replica_id]
        replica.failures += 1
        self._strike(lease, f"error: {error}")
        if replica.failures >= _FAILURES_OF_ONE_REPLICA:
            self._retire(replica.replica_id, f"failed {replica.failures} times without a success, the last: {error}")
        self._after(lease)

    async def doubt(self, replica_id: str, work: Work) -> bool:
        """Some scores that a replica found for this work are not finite: whether that is to be believed.

        If not, the card may be at fault: it gets no more work, and a second replica is to be asked. What that one
        says is believed; if it finds nothing wrong, the first card is out of use for good.
        """
        first = self._blame.settle(work)
        if first is not None:
            self._slots.back_in_use(first)
            return True
        slot = self._placed.get(replica_id)
        if slot is not None:
            self._blame.doubt(work, slot)
            self._book.indivisible.add(work)
            self._retire(replica_id, "its scores are not finite")
            if self._slots.in_use() > 1:
                self._slots.out_of_use(slot, "its scores are not finite")
            self._grant_waiting()
        return False

    async def lost(self, lease_id: str) -> None:
        """The replica of a lease did not answer: returns when it is known whether that is a strike."""
        lease = self._book.leases.get(lease_id)
        if lease is not None:
            await self._on_death(lease.replica_id, "its connection was lost")
        verdict = self._verdicts.pop(lease_id, None)
        if verdict is not None:
            await verdict

    async def hear(self, holder: str, node_id: str, chunks: frozenset[int], spare: bool) -> Orders:
        """A holder of leases is alive and has these chunks in hand: what it has to do from now on.

        spare: it is the driver's own, which only takes chunks over.
        """
        self._start()
        self._book.hear(holder, time.monotonic())
        take_over = self._holders.hear(holder, node_id, chunks, time.monotonic(), spare)
        if take_over:
            self._journal.taken_over(holder, take_over)
        cpus = 1 if spare else round(self._decode_cpus.get(node_id, 0) / self._holders.living_on(node_id))
        return Orders(max(1, cpus), take_over)

    async def taken_over(self, outcome: dict[str, Any]) -> None:
        """What became of a chunk that a holder took over, for the driver: Ray Data knows nothing of it."""
        self._outcomes.append(outcome)

    async def progress(self, replica_id: str, images: int) -> None:
        """A replica has done some more images of its present lease, which is longer for it."""
        if replica_id in self._book.replicas:
            self._under_way[replica_id] += images
            self._book.extend(replica_id, time.monotonic())

    async def sample(self, replica_id: str, sample: dict[str, Any]) -> None:
        """How hard a replica's card works, and its node, see `pipeline.fleet.sampler`."""
        slot = self._placed.get(replica_id)
        if slot is not None:
            self._journal.sample(slot.node_id, sample)

    # ---- leases ----

    def _grant_waiting(self) -> None:
        for request, replica, work in self._book.grants(time.monotonic()):
            if work.alone and replica.served:
                self._replace_for(request, replica)
            else:
                self._grant(request, replica, work)

    def _grant(self, request: Request, replica: Replica, work: Work) -> None:
        lease = self._book.grant(uuid.uuid4().hex, request, replica, work, time.monotonic())
        slot, handle = self._placed[replica.replica_id], self._handles[replica.replica_id]
        request.ticket.set_result(
            Grant(lease.lease_id, work, replica.replica_id, handle, slot.node_id, slot.node_type, slot.card, slot.place)
        )
        self._journal.lease(lease)
        self._look(replica)

    def _replace_for(self, request: Request, replica: Replica) -> None:
        """Work that runs alone gets a process that has done nothing before."""
        self._book.waiting.remove(request)
        slot = self._placed[replica.replica_id]
        self._retire(replica.replica_id, "replaced by a fresh one")
        self._begin_replica(slot, request)

    def _after(self, lease: Lease) -> None:
        """A lease has ended: its replica may take the next, if it is still there."""
        if lease.replica_id in self._book.replicas:
            self._under_way[lease.replica_id] = max(0, self._under_way[lease.replica_id] - len(lease.work))
        self._look_again(lease.replica_id)

    def _look(self, replica: Replica) -> None:
        """Have the replica considered now, or a little before its lease is expected to end."""
        wait = self._book.look(replica, time.monotonic())
        if wait is not None:
            asyncio.get_running_loop().call_later(wait, self._look_again, replica.replica_id)

    def _look_again(self, replica_id: str) -> None:
        if replica_id in self._book.replicas:
            self._look(self._book.replicas[replica_id])
        self._grant_waiting()

    def _strike(self, lease: Lease, cause: str) -> None:
        strikes = self._book.strike(lease.work, lease.slot)
        self._journal.strike(lease.work, lease.replica_id, strikes, cause)

    def _recall(self) -> None:
        """Strikes outlive the Fleet's own process, and so do nodes and metrics."""
        for event in events_in_order(self._spec.store, self._spec.session):
            self._node_log.recall(event)
            if EVENTS[event["event"]].writer == "fleet":
                self._tally.take(event)
            if event["event"] == "strike":
                self._book.strike(Work(*event["work"]))

    # ---- the life of replicas ----

    def _begin_replica(self, slot: Slot, request: Request | None = None) -> None:
        """Take a free slot and start a replica in it; the request that it is for, if any, gets it first."""
        replica_id = f"{slot.card}-{next(self._numbers)}-{uuid.uuid4().hex[:4]}"
        self._book.replicas[replica_id] = Replica(
            replica_id, slot.node_id, slot.slot, slot.placement.microbatch, slot.images_per_s or 0.0
        )
        self._placed[replica_id] = slot
        self._background.spawn(self._start_replica(replica_id, slot, request))

    async def _start_replica(self, replica_id: str, slot: Slot, request: Request | None) -> None:
        self._journal.replica_started(replica_id, slot)
        me = ray.get_runtime_context().current_actor
        every_s = self._spec.config.fleet.sample_every_s
        handle = start_actor(slot, self._spec.replica_class, self._spec.replica, me, replica_id, every_s)
        self._handles[replica_id] = handle
        try:
            process = await handle.ready.remote()
        except RayError as error:
            self._on_failed_start(slot, replica_id, last_line(error))
        replica = self._book.replicas.get(replica_id)
        if replica is None:  # it could not start, or its node died meanwhile
            if request is not None:
                self._book.request(request)
                self._grant_waiting()
            return
        self._slots.worked(slot)
        self._journal.replica_ready(replica_id, slot, process)
        self._background.spawn(self._watch(replica_id, handle))
        self._book.open(replica)
        if request is not None:
            self._grant(request, replica, request.work)
        self._grant_waiting()

    def _on_failed_start(self, slot: Slot, replica_id: str, error: str) -> None:
        self._retire(replica_id, f"could not start: {error}")
        if self._slots.failed(slot, error, time.monotonic()):
            self._standing.say(f"a replica on {slot.card}, node {slot.node_id[:8]}, could not start: {error}")

    async def _watch(self, replica_id: str, handle: Any) -> None:
        try:
            await handle.watch.remote()
        except RayError as error:
            if isinstance(error, OutOfMemoryError):
                self._blame.ended_for_memory(replica_id)
            await self._on_death(replica_id, last_line(error))

    async def _on_death(self, replica_id: str, cause: str) -> None:
        """A replica's process is gone: end its leases, and find out whether the work that it did is to blame.

        Of its leases only the first had begun. It may be done all the same, and its release still on the way.
        """
        if replica_id not in self._book.replicas:
            return
        replica, died_at = self._book.replicas[replica_id], time.time()
        is_drained = replica.state == "draining"
        cause = self._blame.cause(replica_id, cause)
        leases = self._retire(replica_id, cause)
        if not leases:
            return
        ran_s = replica.ran_s(leases[0], time.monotonic())
        verdict: asyncio.Future[None] = asyncio.Future()
        for lease in leases:
            self._lost[lease.lease_id] = lease
            self._verdicts[lease.lease_id] = verdict
        await asyncio.sleep(_NODE_VERDICT_ALONE_S if leases[0].work.alone else _NODE_VERDICT_S)
        undone = [lease for lease in leases if self._lost.pop(lease.lease_id, None) is not None]
        node_gone = bool(undone) and (is_drained or not await _is_there(replica.node_id))
        for lease in undone:
            begun = lease is undone[0]
            self._journal.lease_lost(lease, begun, ran_s if begun and lease is leases[0] else 0.0, died_at, node_gone)
        if undone and not node_gone and self._blame.is_of_the_work(replica_id, undone[0].work):
            self._strike(undone[0], cause)
        verdict.set_result(None)

    def _retire(self, replica_id: str, cause: str) -> list[Lease]:
        """Forget a replica and end its process; the leases on it, which have ended."""
        handle = self._handles.pop(replica_id, None)
        if handle is not None:
            ray.kill(handle)
        self._placed.pop(replica_id, None)
        self._under_way.pop(replica_id, None)
        leases = self._book.drop(replica_id)
        self._journal.replica_gone(replica_id, cause)
        return leases

    def _convict(self, lease: Lease) -> None:
        """Work that another card had no finite scores for is done: so that card is at fault."""
        self._book.indivisible.discard(lease.work)
        slot = self._blame.settle(lease.work)
        if slot is not None:
            self._standing.say(f"{slot.card} on node {slot.node_id[:8]} is not used any more: wrong scores")
            self._journal.card_fault(slot)

    def _note_microbatch(self, replica_id: str, microbatch: int) -> None:
        """Remember what memory allows on this kind of card."""
        slot, replica = self._placed[replica_id], self._book.replicas[replica_id]
        replica.microbatch = microbatch
        if self._slots.fits(slot, microbatch):
            self._journal.out_of_memory(replica_id, slot.card, microbatch)
            self._standing.say(f"{slot.card}: memory ran out, its micro-batch is {microbatch} now")

    # ---- reconciling ----

    def _start(self) -> None:
        """Begin to reconcile: there is no event loop yet when the constructor runs."""
        self._background.keep(self._look_at_cluster, _RECONCILE_EVERY_S)

    async def _look_at_cluster(self) -> None:
        nodes, draining = await asyncio.gather(asyncio.to_thread(ray.nodes), asyncio.to_thread(draining_nodes))
        alive = [node for node in nodes if node["Alive"]]
        gone = await unreachable(alive)
        there = [node for node in alive if node["NodeID"] not in gone]
        self._links.keep(there)
        reasons = {node["NodeID"]: node.get("DeathReason") for node in nodes if not node["Alive"]}
        self._node_log.look(there, self._nodes.facts, draining, reasons)
        self._reconcile(there, draining)

    def _reconcile(self, nodes: Sequence[Mapping[str, Any]], draining: set[str]) -> None:
        """Compare the cluster's nodes with the replicas, and the leases with the clock."""
        now = time.monotonic()
        usable = [node for node in nodes if node["NodeID"] not in draining]
        self._read_new(usable)
        self._slots.update(self._spec.policy.slots(usable, self._nodes.facts))
        self._decode_cpus = {
            node["NodeID"]: decode_cpus([node], [s for s in self._slots.slots.values() if s.node_id == node["NodeID"]])
            for node in nodes
        }
        alive = {node["NodeID"] for node in nodes}
        for name in self._holders.not_on(alive):
            self._book.forget(name)
        for replica in list(self._book.replicas.values()):
            if replica.node_id not in alive:
                self._background.spawn(self._on_death(replica.replica_id, "its node is gone"))
            elif replica.node_id in draining:
                self._drain(replica)
        self._fill_slots(now)
        self._check_leases(now)
        self._book.unpark()
        self._grant_waiting()
        self._standing.look(self._book.ready(), self._slots.has_worked, now)

    def _read_new(self, nodes: Sequence[Mapping[str, Any]]) -> None:
        """Have nodes that joined read; what replicas cannot use of them is told once."""
        for node in self._nodes.unread(nodes):
            self._background.spawn(self._nodes.read(node))
        for item in self._spec.policy.unusable(nodes, self._nodes.facts):
            if self._nodes.is_news(item):
                self._standing.say(f"{item.card} on {item.host} cannot be used: {item.why}")

    def _drain(self, replica: Replica) -> None:
        """A replica on a node that is about to go finishes what it has, and gets nothing more."""
        if replica.state in ("ready", "settling"):
            self._journal.replica_draining(replica.replica_id)
            self._book.drain(replica)
        if replica.state == "draining" and not replica.leases:
            self._retire(replica.replica_id, "its node drains")

    def _fill_slots(self, now: float) -> None:
        """Start replicas where there is room, but no more than `fleet.max_replicas` in all."""
        taken = {replica.slot for replica in self._book.replicas.values()}
        most = self._spec.config.fleet.max_replicas or len(self._slots.slots)
        for slot in self._slots.free(taken, now):
            if len(self._book.replicas) < most:
                self._begin_replica(slot)

    def _check_leases(self, now: float) -> None:
        """Free the leases of the dead, and end replicas that hang."""
        for lease in self._book.orphaned(now):
            self._journal.lease_orphaned(lease)
            self._background.spawn(self._settle(lease.replica_id))
        self._book.withdraw(now)
        for replica_id in {lease.replica_id for lease in self._book.overdue(now)}:
            timeout = self._spec.config.fleet.lease_timeout_s
            self._blame.will_end(replica_id, f"hung: no answer within fleet.lease_timeout_s={timeout:g}")
            ray.kill(self._handles[replica_id])

    async def _settle(self, replica_id: str) -> None:
        """A replica whose holder died is leased again when it has come to the end of what it was doing."""
        handle = self._handles.get(replica_id)
        if handle is None:
            return
        try:
            await asyncio.wait_for(_answer(handle.ready.remote()), self._spec.config.fleet.lease_timeout_s)
        except TimeoutError:
            self._blame.will_end(replica_id, "hung: no answer after its holder died")
            ray.kill(handle)
            return
        except RayError:
            return  # its watch tells of the death
        replica = self._book.replicas.get(replica_id)
        if replica is not None and replica.state == "settling":
            self._under_way.pop(replica_id, None)
            self._book.open(replica)
            self._look(replica)
            self._grant_waiting()

    # ---- how it stands ----

    def _cards(self) -> dict[str, CardStatus]:
        cards: dict[str, CardStatus] = {}
        for replica in self._book.replicas.values():
            if replica.state != "starting":
                card = self._placed[replica.replica_id].card
                before = cards.get(card, CardStatus(0, 0.0))
                speed = replica.images_per_s if replica.is_measured else 0.0
                cards[card] = CardStatus(before.replicas + 1, before.images_per_s + speed)
        return dict(sorted(cards.items()))


async def _is_there(node_id: str) -> bool:
    """Whether a node is alive and answers."""
    nodes = await asyncio.to_thread(ray.nodes)
    node = next((node for node in nodes if node["NodeID"] == node_id and node["Alive"]), None)
    return node is not None and not await unreachable([node])


async def _answer(reference: Any) -> Any:
    """Ray's awaitable as a coroutine, which `asyncio.wait_for` can cancel."""
    return await reference
