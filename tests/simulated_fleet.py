"""The leasing policy against a simulated fleet: events in order of time, no Ray, no clock, no chance but the seed."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.fleet.leases import LeaseBook, Replica, Request, Work


@dataclass
class SimulatedFleet:
    """Replicas of given speeds work on chunks of equal size.

    speeds: images/s of each replica; in_flight: chunks that wait or run at once, None = three for each replica;
    noise: relative spread of the time that a lease takes; nodes: over which replicas and requests are spread.
    local_images: after a run, those whose pixels did not leave their node.
    """

    speeds: Sequence[float]
    chunks: int
    chunk_rows: int = 64
    microbatch: int = 4
    noise: float = 0.0
    in_flight: int | None = None
    nodes: int = 1
    seed: int = 0
    makespan: float = field(default=0.0, init=False)
    images: Counter[int] = field(default_factory=Counter, init=False)
    grants: int = field(default=0, init=False)
    local_images: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._book = LeaseBook(1e12, 1e12)
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, str, str]] = []
        self._running: dict[str, list[str]] = {}
        self._left: dict[int, int] = {}
        self._fed = 0
        self._now = 0.0

    @property
    def ideal(self) -> float:
        """Seconds that the work takes if all replicas work all the time."""
        return self.chunks * self.chunk_rows / sum(self.speeds)

    def run(self) -> "SimulatedFleet":
        """Work until every chunk is done."""
        self._book.expect(self.chunks * self.chunk_rows)
        for index in range(len(self.speeds)):
            replica = Replica(str(index), f"n{index % self.nodes}", str(index), self.microbatch)
            self._book.replicas[replica.replica_id] = replica
            self._running[replica.replica_id] = []
            self._book.open(replica)
        for _ in range(self.in_flight or 3 * len(self.speeds)):
            self._feed()
        self._dispatch()
        self._push(1.0, "tick", "")
        while self._left or self._fed < self.chunks:
            self._now, _, event, name = heapq.heappop(self._events)
            getattr(self, f"_on_{event}")(name)
        self.makespan = self._now
        return self

    def _feed(self) -> None:
        if self._fed < self.chunks:
            chunk, self._fed = self._fed, self._fed + 1
            self._left[chunk] = self.chunk_rows
            self._book.arrive(chunk, self.chunk_rows)
            self._book.request(Request("holder", f"n{chunk % self.nodes}", Work(chunk, 0, self.chunk_rows), self._now))

    def _dispatch(self) -> None:
        for request, replica, work in self._book.grants(self._now):
            self.grants += 1
            self.local_images += len(work) * (request.node_id == replica.node_id)
            lease = self._book.grant(str(next(self._numbers)), request, replica, work, self._now)
            rest = request.work.split(len(work))[1]
            if rest is not None:
                self._book.request(Request(request.holder, request.node_id, rest, self._now))
            queue = self._running[replica.replica_id]
            queue.append(lease.lease_id)
            if len(queue) == 1:
                self._begin(replica, len(work))
            self._look(replica)

    def _begin(self, replica: Replica, images: int) -> None:
        spread = self._random.uniform(1 - self.noise, 1 + self.noise)
        seconds = images / self.speeds[int(replica.replica_id)] * spread
        self._push(self._now + seconds, "end", replica.replica_id)

    def _look(self, replica: Replica) -> None:
        wait = self._book.look(replica, self._now)
        if wait is not None:
            self._push(self._now + wait, "room", replica.replica_id)

    def _on_end(self, name: str) -> None:
        queue = self._running[name]
        lease = self._book.release(queue.pop(0), self._now)
        self.images[int(name)] += len(lease.work)
        replica = self._book.replicas[name]
        if queue:
            self._begin(replica, len(self._book.leases[queue[0]].work))
        self._left[lease.work.chunk] -= len(lease.work)
        if not self._left[lease.work.chunk]:
            del self._left[lease.work.chunk]
            self._feed()
        self._look(replica)
        self._dispatch()

    def _on_room(self, name: str) -> None:
        self._look(self._book.replicas[name])
        self._dispatch()

    def _on_tick(self, _: str) -> None:
        self._book.unpark()
        self._dispatch()
        self._push(self._now + 1.0, "tick", "")

    def _push(self, at: float, event: str, name: str) -> None:
        heapq.heappush(self._events, (at, next(self._numbers), event, name))
