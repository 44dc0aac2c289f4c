"""A run on rented nodes, simulated: discrete events, all chance from one seed, work handed out by the real policy.

Nodes start, load the model, decode and fetch what they can, work, die and are replaced. Who gets which images is
decided by `pipeline.fleet.leases.LeaseBook`, the very bookkeeping that the Fleet runs on. Left out: Ray's own
overheads, failures of single processes, images that are rejected.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import RunError
from pipeline.fleet.leases import LeaseBook, Replica, Request, Work
from pipeline.quoting.fleet_file import Assumptions

SPLITS = ("start", "load", "busy", "preempted", "idle")
"""What a node's paid time goes into; preempted: work that a node's death made void; idle: the rest."""
LONGEST_LEASE_S = 20.0
"""As the leasing policy has it: coarser chunks than this would change who does what."""
_CHUNKS_PER_CARD, _CHUNKS_BEFORE = 3, 2
"""As `pipeline.flow` has it: chunks under way for each replica, and those of a worker that is decoding and fetching."""
_NEVER = 1e12
_PATIENCE = 50.0
"""A run that takes so many times as long as its nodes need without interruption is given up."""


class EndlessError(RunError):
    """Nodes are preempted faster than they get anything done."""


@dataclass(frozen=True)
class NodeKind:
    """Nodes that are alike.

    cards: of a node, each taken as one replica of images_per_s; microbatch: of the policy's steps; startup_s, load_s:
    means; workers: processes that decode, one for each CPU; supply_per_s: images/s that all of them decode, None = no
    limit; link_bytes_per_s: that it receives, and sends at the same time, None = no limit; relative_times: of pieces
    of work, as measured, their mean 1; empty = drawn by `Assumptions.lease_spread`.
    """

    name: str
    images_per_s: float
    cards: int = 1
    microbatch: int = 1
    startup_s: float = 0.0
    load_s: float = 0.0
    startup_is_billed: bool = True
    preemptions_per_hour: float = 0.0
    workers: int = 1
    supply_per_s: float | None = None
    link_bytes_per_s: float | None = None
    relative_times: tuple[float, ...] = ()


@dataclass(frozen=True)
class Job:
    """What is to be done. image_bytes: fetched for an image; pixel_bytes: of it decoded, which other nodes are sent."""

    images: int
    chunk_rows: int = 256
    image_bytes: float = 0.0
    pixel_bytes: float = 0.0


@dataclass
class KindResult:
    """What became of the nodes of one kind. seconds: of nodes that are paid for, by split; their sum is paid_s."""

    name: str
    nodes: int
    images: int = 0
    preemptions: int = 0
    paid_s: float = 0.0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0.0))


@dataclass(frozen=True)
class SimulatedRun:
    """One run. seconds: from asking for nodes to the last table; redone: images tagged that were done again;
    travelled: images whose pixels crossed the network."""

    seconds: float
    images: int
    redone: int
    travelled: int
    leases: int
    kinds: tuple[KindResult, ...]


def simulate(
    kinds: Sequence[NodeKind], counts: Sequence[int], job: Job, assumptions: Assumptions, seed: int = 0
) -> SimulatedRun:
    """A run on so many nodes of each kind. The same arguments give the same run.

    Raises ValueError without any node or image, EndlessError where preemptions leave no time to work.
    """
    if job.images < 1 or sum(counts) < 1:
        raise ValueError(f"images={job.images} on {sum(counts)} node(s): there has to be one of each")
    return _Simulation(kinds, counts, job, assumptions, seed).run()


def coarse_rows(kinds: Sequence[NodeKind], counts: Sequence[int], job: Job, most_chunks: int) -> int:
    """Rows of chunks so that there are at most so many, as long as none is more than one lease of a middling card."""
    speeds = sorted(kind.images_per_s for kind, n in zip(kinds, counts, strict=True) for _ in range(n * kind.cards))
    longest = int(LONGEST_LEASE_S * speeds[len(speeds) // 2])
    return max(job.chunk_rows, min(math.ceil(job.images / most_chunks), longest))


@dataclass(eq=False)
class _Chunk:
    """A chunk that a node holds: images still to be tagged, and who tagged the others in how many seconds."""

    left: int
    pieces: list[tuple[KindResult, int, float]] = field(default_factory=list)


@dataclass(eq=False)
class _Node:
    name: str
    kind: NodeKind
    result: KindResult
    slowness: float
    paid_from: float
    joined_at: float = _NEVER
    alive: bool = False
    received_at: float = 0.0
    sent_at: float = 0.0
    cpus_free: float = 0.0
    held: dict[int, _Chunk] = field(default_factory=dict)
    cards: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _Piece:
    """A lease in a card's queue. pixels_at: when they are there; began_at: None while it waits."""

    lease_id: str
    holder: _Node
    pixels_at: float
    began_at: float | None = None


class _Simulation:
    def __init__(
        self,
        kinds: Sequence[NodeKind],
        counts: Sequence[int],
        job: Job,
        assumptions: Assumptions,
        seed: int,
    ) -> None:
        self._kinds, self._counts = kinds, counts
        self._job, self._assume = job, assumptions
        self._random = random.Random(seed)
        self._book = LeaseBook(_NEVER, _NEVER)
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._results = [KindResult(kind.name, n) for kind, n in zip(kinds, counts, strict=True)]
        self._nodes: dict[str, _Node] = {}
        self._paying: dict[str, _Node] = {}
        self._node_of: dict[str, _Node] = {}
        self._queues: dict[str, deque[_Piece]] = {}
        self._chunks = math.ceil(job.images / job.chunk_rows)
        self._next_chunk = 0
        self._again: deque[int] = deque()
        self._now = 0.0
        self._done = self._redone = self._leases = self._travelled = 0
        cards, workers = (
            sum(getattr(kind, name) * n for kind, n in zip(kinds, counts, strict=True)) for name in ("cards", "workers")
        )
        self._chunks_per_worker = -(-_CHUNKS_PER_CARD * cards // workers) + _CHUNKS_BEFORE

    def run(self) -> SimulatedRun:
        speed = sum(kind.images_per_s * kind.cards * n for kind, n in zip(self._kinds, self._counts, strict=True))
        slowest = max(kind.startup_s + kind.load_s for kind, n in zip(self._kinds, self._counts, strict=True) if n)
        patience = _PATIENCE * (slowest + self._job.images / speed + 3600)
        self._book.expect(self._job.images)
        for kind, result in zip(self._kinds, self._results, strict=True):
            for _ in range(result.nodes):
                self._rent(kind, result)
        self._at(1.0, self._tick)
        while self._done < self._job.images:
            self._now, _, happen, arguments = heapq.heappop(self._events)
            happen(*arguments)
            if self._now > patience:
                raise EndlessError(
                    f"preemptions: after {self._now / 3600:,.0f} simulated hours {self._done:,} of "
                    f"{self._job.images:,} images are done; nodes die before they have started and done their work"
                )
        end = self._now + self._assume.run_seconds
        for node in list(self._paying.values()):
            self._pay(node, end)
        return SimulatedRun(end, self._done, self._redone, self._travelled, self._leases, tuple(self._settled()))

    # ---- nodes ----

    def _rent(self, kind: NodeKind, result: KindResult) -> None:
        startup = kind.startup_s * self._spread(self._assume.startup_spread)
        node = _Node(
            name=f"{kind.name}/{next(self._numbers)}",
            kind=kind,
            result=result,
            slowness=self._spread(self._assume.node_spread),
            paid_from=self._now if kind.startup_is_billed else self._now + startup,
        )
        self._paying[node.name] = node
        self._at(startup, self._join, node)

    def _join(self, node: _Node) -> None:
        node.alive, node.joined_at = True, self._now
        self._nodes[node.name] = node
        if node.kind.startup_is_billed:
            node.result.seconds["start"] += self._now - node.paid_from
        if node.kind.preemptions_per_hour:
            self._at(self._random.expovariate(node.kind.preemptions_per_hour / 3600), self._preempt, node)
        for _ in range(node.kind.cards):
            self._at(node.kind.load_s * self._spread(self._assume.startup_spread), self._open, node)
        self._feed(node)

    def _open(self, node: _Node) -> None:
        """A card of the node has loaded the model."""
        if not node.alive:
            return
        name = f"{node.name}/{next(self._numbers)}"
        node.result.seconds["load"] += (self._now - node.joined_at) / node.kind.cards
        node.cards.append(name)
        self._node_of[name] = node
        self._queues[name] = deque()
        replica = Replica(name, node.name, name, node.kind.microbatch, node.kind.images_per_s)
        self._book.replicas[name] = replica
        self._book.open(replica)
        self._dispatch()

    def _preempt(self, node: _Node) -> None:
        """The node is gone: what it held and what its cards worked on is done again, on others or on its successor."""
        node.alive = False
        node.result.preemptions += 1
        del self._nodes[node.name]
        loading = node.kind.cards - len(node.cards)
        node.result.seconds["load"] += loading * (self._now - node.joined_at) / node.kind.cards
        for card in node.cards:
            self._kill(node, card)
        for chunk in node.held.values():
            for result, images, seconds in chunk.pieces:
                self._void(result, images, seconds)
        self._book.forget(node.name)
        self._book.withdraw(self._now)
        if node.held:
            self._at(self._assume.notice_seconds, self._return, list(node.held))
        self._pay(node, self._now)
        self._rent(node.kind, node.result)

    def _kill(self, node: _Node, card: str) -> None:
        queue = self._queues.pop(card)
        if queue and (began := queue[0].began_at) is not None:
            node.result.seconds["preempted"] += max(0.0, self._now - began) / node.kind.cards
        for lease, piece in zip(self._book.drop(card), queue, strict=True):
            if piece.holder.alive and piece.holder is not node:
                self._at(self._assume.notice_seconds, self._ask, piece.holder, lease.work)
        del self._node_of[card]

    def _void(self, result: KindResult, images: int, seconds: float) -> None:
        self._redone += images
        result.images -= images
        result.seconds["busy"] -= seconds
        result.seconds["preempted"] += seconds

    def _pay(self, node: _Node, until: float) -> None:
        del self._paying[node.name]
        paid = max(0.0, until - node.paid_from)
        node.result.paid_s += paid
        if node.joined_at == _NEVER and node.kind.startup_is_billed:
            node.result.seconds["start"] += paid

    # ---- what waits for a card ----

    def _return(self, chunks: list[int]) -> None:
        self._again.extend(chunks)
        for node in list(self._nodes.values()):
            self._feed(node)

    def _feed(self, node: _Node) -> None:
        """Fetch and decode as many chunks as the node may hold; the link and the CPUs take one after the other."""
        while node.alive and len(node.held) < self._chunks_per_worker * node.kind.workers:
            if self._again:
                chunk = self._again.popleft()
            elif self._next_chunk < self._chunks:
                chunk, self._next_chunk = self._next_chunk, self._next_chunk + 1
            else:
                return
            rows = min(self._job.chunk_rows, self._job.images - chunk * self._job.chunk_rows)
            node.held[chunk] = _Chunk(rows)
            here = self._now
            if node.kind.link_bytes_per_s:
                seconds = rows * self._job.image_bytes / node.kind.link_bytes_per_s
                node.received_at = here = max(here, node.received_at) + seconds
            if node.kind.supply_per_s:
                node.cpus_free = here = max(here, node.cpus_free) + rows / node.kind.supply_per_s
            self._at(here - self._now, self._ask, node, Work(chunk, 0, rows))

    def _send(self, images: int, holder: _Node, worker: _Node) -> float:
        """When the pixels of so many images are on the worker's node; each link carries one thing after the other."""
        if holder is worker:
            return self._now
        self._travelled += images
        size = images * self._job.pixel_bytes
        there = self._now
        if holder.kind.link_bytes_per_s:
            there = holder.sent_at = max(self._now, holder.sent_at) + size / holder.kind.link_bytes_per_s
        if worker.kind.link_bytes_per_s:
            worker.received_at = max(self._now, worker.received_at) + size / worker.kind.link_bytes_per_s
            there = max(there, worker.received_at)
        return there

    def _ask(self, holder: _Node, work: Work) -> None:
        if holder.alive:
            self._book.arrive(work.chunk, len(work))
            self._book.request(Request(holder.name, holder.name, work, self._now))
            self._dispatch()

    def _dispatch(self) -> None:
        for request, replica, work in self._book.grants(self._now):
            lease = self._book.grant(str(next(self._numbers)), request, replica, work, self._now)
            self._leases += 1
            rest = request.work.split(len(work))[1]
            if rest is not None:
                self._book.request(Request(request.holder, request.node_id, rest, request.asked_at))
            card, holder = replica.replica_id, self._nodes[request.holder]
            pixels_at = self._send(len(work), holder, self._node_of[card])
            queue = self._queues[card]
            queue.append(_Piece(lease.lease_id, holder, pixels_at))
            if len(queue) == 1:
                self._begin(card)
            self._look(card)

    def _look(self, card: str) -> None:
        wait = self._book.look(self._book.replicas[card], self._now)
        if wait is not None:
            self._at(wait, self._room, card)

    def _room(self, card: str) -> None:
        if card in self._queues:
            self._look(card)
            self._dispatch()

    def _tick(self) -> None:
        """Replicas that were left out in the end are considered again, every second when it matters."""
        self._book.unpark()
        self._dispatch()
        left = self._job.images - self._done
        speed = sum(replica.images_per_s for replica in self._book.replicas.values())
        self._at(max(1.0, min(60.0, left / speed / 10 if speed else 1.0)), self._tick)

    # ---- work ----

    def _begin(self, card: str) -> None:
        piece, node = self._queues[card][0], self._node_of[card]
        piece.began_at = max(self._now, piece.pixels_at)
        images = len(self._book.leases[piece.lease_id].work)
        seconds = images / node.kind.images_per_s * node.slowness * self._slowness(node.kind)
        self._at(piece.began_at + seconds - self._now, self._end, card, piece)

    def _slowness(self, kind: NodeKind) -> float:
        if kind.relative_times:
            return self._random.choice(kind.relative_times)
        slow = self._spread(self._assume.lease_spread)
        return slow * self._assume.straggler_factor if self._random.random() < self._assume.straggler_share else slow

    def _end(self, card: str, piece: _Piece) -> None:
        if card not in self._queues:
            return
        lease = self._book.release(piece.lease_id, self._now)
        queue = self._queues[card]
        if lease is None or piece.began_at is None or queue.popleft() is not piece:
            raise RuntimeError(f"lease {piece.lease_id} of {card} ended out of turn")
        if queue:
            self._begin(card)
        node = self._node_of[card]
        self._count(node, piece, lease.work, (self._now - piece.began_at) / node.kind.cards)
        self._look(card)
        self._dispatch()

    def _count(self, node: _Node, piece: _Piece, work: Work, seconds: float) -> None:
        """Take in what was tagged; it counts when its chunk is complete, if who holds that lives until then."""
        node.result.seconds["busy"] += seconds
        node.result.images += len(work)
        if not piece.holder.alive:
            self._void(node.result, len(work), seconds)
            return
        chunk = piece.holder.held[work.chunk]
        chunk.left -= len(work)
        chunk.pieces.append((node.result, len(work), seconds))
        if not chunk.left:
            self._done += sum(images for _, images, _ in chunk.pieces)
            del piece.holder.held[work.chunk]
            self._feed(piece.holder)

    # ---- the rest ----

    def _settled(self) -> list[KindResult]:
        """Work that others were still doing when the last chunk was complete cannot be: all of it is done."""
        for result in self._results:
            spent = sum(result.seconds[split] for split in SPLITS if split != "idle")
            result.seconds["idle"] = result.paid_s - spent
        return self._results

    def _spread(self, relative: float) -> float:
        """A factor about 1, log-normal with this coefficient of variation."""
        if not relative:
            return 1.0
        variance = math.log1p(relative**2)
        return self._random.lognormvariate(-variance / 2, math.sqrt(variance))

    def _at(self, wait: float, happen: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._events, (self._now + wait, next(self._numbers), happen, arguments))
