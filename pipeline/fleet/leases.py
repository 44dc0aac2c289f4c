"""Who works on what: replicas, requests, leases and strikes as plain bookkeeping, without Ray and without a clock.

Every method that needs the time is told it, in seconds, so that the rules can be tested in any order of events.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

STRIKES_OUT = 2
"""Deaths of a whole chunk before it is cut up, and of one image alone before it is poison."""
LOOK_AHEAD_S = 1.0
"""So long before a replica is expected to be idle it gets its next lease: the pixels travel while it works."""
LEASES_AT_ONCE = 2
"""Of one replica: the one that runs, and the next."""
_LONGEST_LEASE_S = 20.0
"""What a preemption can cost at most, and how long a card that turns out slow can hold its chunk."""
_FIRST_LEASE_STEPS = 2
"""Micro-batches in the first lease of a replica whose speed nobody knows: enough to learn it."""
_PATIENCE_S = 3.0
"""A request that has waited for so much longer goes before those beside a replica, whose pixels need not travel.
Not a bound on the waiting itself: in a backlog all wait, and still nearly all can be served where they are."""
_SPEED_MEMORY = 0.7
"""Weight of all earlier leases in a replica's speed when one more ends."""


class Work(NamedTuple):
    """Images of one chunk that are sent to a replica together: positions first … last-1 among its decoded ones.

    part: cut out of its chunk because the whole of it was struck; alone: one image, in a process of its own.
    """

    chunk: int
    first: int
    last: int
    part: bool = False
    alone: bool = False

    def __len__(self) -> int:
        return self.last - self.first

    def split(self, images: int) -> "tuple[Work, Work | None]":
        """The first so many images, and the rest, if any."""
        cut = self.first + images
        rest = Work(self.chunk, cut, self.last, self.part, self.alone) if cut < self.last else None
        return Work(self.chunk, self.first, cut, self.part, self.alone), rest

    def pieces(self) -> "list[Work]":
        """What it is cut into once it is struck out: two halves; a single image comes out alone."""
        middle = (self.first + self.last) // 2
        bounds = [(self.first, middle), (middle, self.last)]
        return [Work(self.chunk, a, b, part=True, alone=b - a == 1) for a, b in bounds if b > a]


@dataclass(eq=False, slots=True)
class Lease:
    """The right to send one piece of work to one replica, until its deadline."""

    lease_id: str
    replica_id: str
    slot: str
    holder: str
    work: Work
    granted_at: float
    deadline: float


@dataclass(eq=False, slots=True)
class Request:
    """Work that waits for a replica. ticket: whatever the Fleet answers it with."""

    holder: str
    node_id: str
    work: Work
    asked_at: float = 0.0
    ticket: Any = None


ReplicaState = Literal["starting", "ready", "settling", "draining"]


@dataclass(eq=False, slots=True)
class Replica:
    """One process that holds the model.

    state: "settling" means that a lease of it was freed while it may still be working for a dead holder; "draining"
    that it gets no more leases. images_per_s: as given, or else the mean of the others, until the first lease ends;
    measured from then on. served: leases granted so far; 0 = fresh. failures: errors one after the other, without a
    success between. leases: in the order in which they run. free_at: when they are expected to be done.
    ended_at: when its last lease ended.
    """

    replica_id: str
    node_id: str
    slot: str
    microbatch: int = 1
    images_per_s: float = 0.0
    state: ReplicaState = "starting"
    served: int = 0
    failures: int = 0
    leases: list[Lease] = field(default_factory=list)
    free_at: float = 0.0
    is_guess: bool = field(default=False, init=False)
    is_measured: bool = field(default=False, init=False)
    ended_at: float = field(default=0.0, init=False)
    _images: float = field(default=0.0, init=False)
    _seconds: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.is_guess = not self.images_per_s

    def busy(self, now: float) -> float:
        """Seconds until it is expected to be idle. One that is late is expected to take as long again."""
        return abs(self.free_at - now) if self.leases else 0.0

    def ran_s(self, lease: Lease, now: float) -> float:
        """Seconds that its first lease has run: since the one before ended, or since this one was granted."""
        return max(0.0, now - max(self.ended_at, lease.granted_at))

    def measure(self, lease: Lease, now: float) -> None:
        """Its speed, after a lease has ended: of the time since the one before ended, or since this one was granted."""
        seconds = max(self.ran_s(lease, now), 1e-6)
        self._images = _SPEED_MEMORY * self._images + len(lease.work)
        self._seconds = _SPEED_MEMORY * self._seconds + seconds
        self.images_per_s = self._images / self._seconds
        self.is_guess = False
        self.is_measured = True


class _Lane:
    """Requests in order of arrival, and the same by node."""

    def __init__(self) -> None:
        self.requests: dict[int, Request] = {}
        self.by_node: dict[str, dict[int, Request]] = {}


class _Queue:
    """Requests in order of arrival, those for the rest of a chunk that is begun before all others."""

    def __init__(self) -> None:
        self.images = 0
        self._lanes = (_Lane(), _Lane())

    def __len__(self) -> int:
        return sum(len(lane.requests) for lane in self._lanes)

    def __iter__(self) -> Iterator[Request]:
        for lane in self._lanes:
            yield from lane.requests.values()

    def add(self, request: Request) -> None:
        lane = self._lanes[0 if request.work.first or request.work.part else 1]
        lane.requests[id(request)] = request
        lane.by_node.setdefault(request.node_id, {})[id(request)] = request
        self.images += len(request.work)

    def remove(self, request: Request) -> None:
        for lane in self._lanes:
            if lane.requests.pop(id(request), None) is not None:
                self.images -= len(request.work)
                there = lane.by_node[request.node_id]
                del there[id(request)]
                if not there:
                    del lane.by_node[request.node_id]

    def first(self, node_id: str, allowed: Callable[[Work], bool]) -> Request | None:
        """The next request for this work, of this node if it has one, unless another has waited for much longer."""
        for lane in self._lanes:
            oldest = next((request for request in lane.requests.values() if allowed(request.work)), None)
            if oldest is not None:
                beside = lane.by_node.get(node_id, {}).values()
                here = next((request for request in beside if allowed(request.work)), oldest)
                return here if here.asked_at - oldest.asked_at < _PATIENCE_S else oldest
        return None

    def is_on(self, node_id: str) -> bool:
        """Whether the node has a request."""
        return any(node_id in lane.by_node for lane in self._lanes)


class LeaseBook:
    """All replicas, requests, leases and strikes of a run.

    lease_timeout_s: after so long without progress a lease is overdue, and its replica is taken to hang.
    holder_timeout_s: a holder that was not heard of for so long is taken to be dead.
    indivisible: work that is leased as a whole although there is no strike on it.
    """

    def __init__(self, lease_timeout_s: float, holder_timeout_s: float) -> None:
        self.replicas: dict[str, Replica] = {}
        self.leases: dict[str, Lease] = {}
        self.strikes: Counter[Work] = Counter()
        self.indivisible: set[Work] = set()
        self.waiting = _Queue()
        self._lease_timeout_s = lease_timeout_s
        self._holder_timeout_s = holder_timeout_s
        self._heard: dict[str, float] = {}
        self._struck_in: dict[int, set[str]] = {}
        self._coming = 0
        self._arrived: set[int] = set()
        self._room: dict[str, dict[str, Replica]] = {}
        self._parked: dict[str, Replica] = {}
        self._team: dict[str, float] = {}
        self._team_speed = 0.0

    # ---- holders ----

    def hear(self, holder: str, now: float) -> None:
        """A holder of leases is alive."""
        self._heard[holder] = now

    def forget(self, holder: str) -> None:
        """A holder is known to be dead."""
        self._heard[holder] = -math.inf

    def is_silent(self, holder: str, now: float) -> bool:
        """Whether a holder is taken to be dead."""
        return now - self._heard.get(holder, now) > self._holder_timeout_s

    # ---- what is to be done ----

    def expect(self, images: int) -> None:
        """So many images are still to come, in chunks of which none has arrived."""
        self._coming = images
        self._arrived.clear()

    def arrive(self, chunk: int, images: int) -> None:
        """A chunk is decoded: its images will be asked for now, or never."""
        if chunk not in self._arrived:
            self._arrived.add(chunk)
            self._coming = max(0, self._coming - images)

    def request(self, request: Request) -> None:
        """Work waits."""
        self.waiting.add(request)

    def withdraw(self, now: float) -> None:
        """Forget what the dead asked for."""
        for request in [request for request in self.waiting if self.is_silent(request.holder, now)]:
            self.waiting.remove(request)

    # ---- replicas ----

    def ready(self) -> int:
        """How many replicas can work: idle, leased, settling or draining."""
        return sum(replica.state != "starting" for replica in self.replicas.values())

    def open(self, replica: Replica) -> None:
        """The replica can take leases from now on."""
        replica.state = "ready"
        self._reckon(replica)
        self._offer(replica)

    def drain(self, replica: Replica) -> None:
        """The replica gets no more leases."""
        replica.state = "draining"
        self._reckon(replica)
        self._withhold(replica)

    def drop(self, replica_id: str) -> list[Lease]:
        """A replica is gone; its leases, which end here, the one that it was working on first."""
        replica = self.replicas.pop(replica_id, None)
        if replica is None:
            return []
        replica.state = "draining"
        self._reckon(replica)
        self._withhold(replica)
        for lease in replica.leases:
            del self.leases[lease.lease_id]
        self.unpark()
        return replica.leases

    # ---- leases ----

    def grants(self, now: float) -> Iterator[tuple[Request, Replica, Work]]:
        """Who gets what now: each is to be settled with `grant` before the next is asked for."""
        while len(self.waiting) and self._room:
            match = self._match(now)
            if match is None:
                return
            yield match

    def grant(self, lease_id: str, request: Request, replica: Replica, work: Work, now: float) -> Lease:
        """Lease a replica for the first images of a request; what is left of it must be requested again."""
        self.waiting.remove(request)
        lease = Lease(
            lease_id, replica.replica_id, replica.slot, request.holder, work, now, now + self._lease_timeout_s
        )
        self.leases[lease_id] = lease
        replica.free_at = max(replica.free_at, now) + len(work) / replica.images_per_s
        replica.leases.append(lease)
        replica.served += 1
        self.hear(request.holder, now)
        self.look(replica, now)
        return lease

    def release(self, lease_id: str, now: float) -> Lease | None:
        """The work is done; None if the lease is not known any more."""
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return None
        replica = self.replicas[lease.replica_id]
        replica.measure(lease, now)
        self._reckon(replica)
        self._end(replica, lease, now)
        return lease

    def abandon(self, lease_id: str, now: float) -> Lease | None:
        """The work came to nothing; None if the lease is not known any more."""
        lease = self.leases.pop(lease_id, None)
        if lease is not None:
            self._end(self.replicas[lease.replica_id], lease, now)
        return lease

    def extend(self, replica_id: str, now: float) -> None:
        """The replica shows progress: its leases run on from here."""
        for lease in self.replicas[replica_id].leases:
            lease.deadline = now + self._lease_timeout_s

    def orphaned(self, now: float) -> Iterator[Lease]:
        """Leases whose holder is dead: each ends here, and its replica settles until it is known to be idle."""
        for lease in [lease for lease in self.leases.values() if self.is_silent(lease.holder, now)]:
            replica = self.replicas[lease.replica_id]
            self.abandon(lease.lease_id, now)
            if replica.state == "ready":
                replica.state = "settling"
                self._reckon(replica)
            self._withhold(replica)
            yield lease

    def overdue(self, now: float) -> list[Lease]:
        """Leases past their deadline."""
        return [lease for lease in self.leases.values() if now > lease.deadline]

    def look(self, replica: Replica, now: float) -> float | None:
        """Offer the replica if it can take a lease now; else the seconds until it can, None if only an event tells."""
        if replica.state != "ready" or len(replica.leases) >= LEASES_AT_ONCE or _is_exclusive(replica):
            self._withhold(replica)
            return None
        early = replica.free_at - now - LOOK_AHEAD_S
        if replica.leases and early > 0:
            self._withhold(replica)
            return early
        self._offer(replica)
        return None

    def unpark(self) -> None:
        """Consider all replicas again that had nothing to do in the end of a run."""
        for replica in list(self._parked.values()):
            self._reckon(replica)
            self._offer(replica)

    # ---- strikes ----

    def strike(self, work: Work, slot: str | None = None) -> int:
        """A process died while this work ran in it; how often that has happened to this very work.

        slot: where; the chunk's work is tried elsewhere from now on, as long as there is an elsewhere.
        """
        self.strikes[work] += 1
        if slot is not None:
            self._struck_in.setdefault(work.chunk, set()).add(slot)
        return self.strikes[work]

    def struck_out(self, work: Work) -> bool:
        """Whether this work must not run again as it is: a part of a struck chunk has only one try."""
        return self.strikes[work] >= (1 if work.part and not work.alone else STRIKES_OUT)

    # ---- the policy ----

    def _match(self, now: float) -> tuple[Request, Replica, Work] | None:
        """The next request with the replica that is expected to finish it first.

        Pixels should not travel: replicas beside a request go before others. Towards the end of the run a replica
        only gets what it can finish together with all others, and one that would be the last gets nothing.
        """
        for replica in self._candidates():
            request = self.waiting.first(replica.node_id, partial(self._may_have, replica))
            if request is None:
                continue
            images = self._share(replica, request.work, now)
            if images:
                return request, replica, request.work.split(images)[0]
            self._withhold(replica)
            self._parked[replica.replica_id] = replica
        return None

    def _may_have(self, replica: Replica, work: Work) -> bool:
        """Not where a process has died of the chunk, unless one has in every slot; and alone only if it is idle."""
        if work.alone and replica.leases:
            return False
        struck = self._struck_in.get(work.chunk, ())
        return replica.slot not in struck or all(self.replicas[name].slot in struck for name in self._team)

    def _candidates(self) -> Iterator[Replica]:
        """Replicas with room in the order in which they are asked."""
        beside = [replica for node in self._room if self.waiting.is_on(node) for replica in self._room[node].values()]
        yield from _ranked(beside)
        # What stands beside the replicas there may not be for them.
        yield from _ranked(
            [replica for node in self._room if not self.waiting.is_on(node) for replica in self._room[node].values()]
        )

    def _share(self, replica: Replica, work: Work, now: float) -> int:
        """How many images of the work this replica should take."""
        if work.part or work in self.indivisible or self.strikes[work] or work.chunk in self._struck_in:
            # Where it is tried is not a matter of speed any more: those that are faster may not have it.
            return len(work)
        speed, step = replica.images_per_s, replica.microbatch
        most = _FIRST_LEASE_STEPS * step if replica.is_guess else max(step, int(speed * _LONGEST_LEASE_S))
        wanted = min(len(work), most)
        left = self._coming + self.waiting.images
        if replica.busy(now) + wanted / speed <= left / self._team_speed:
            return wanted
        fair = speed * (self._finish(left, now) - replica.busy(now))
        images = min(wanted, step * round(fair / step))
        return images if images > 0 else min(wanted, step) if self._is_best(replica, min(wanted, step), now) else 0

    def _finish(self, left: int, now: float) -> float:
        """Seconds until all is done if every replica works to the end: water filling over what they are busy with."""
        volume, speeds = float(left), 0.0
        for seconds, speed in sorted((self.replicas[name].busy(now), speed) for name, speed in self._team.items()):
            if speeds and volume / speeds <= seconds:
                break
            volume += seconds * speed
            speeds += speed
        return volume / speeds

    def _is_best(self, replica: Replica, images: int, now: float) -> bool:
        """Whether no other replica would be done with so many images before this one."""
        done = replica.busy(now) + images / replica.images_per_s
        return all(self.replicas[name].busy(now) + images / speed >= done for name, speed in self._team.items())

    def _reckon(self, replica: Replica) -> None:
        """Take the replica's speed into that of the team, or out of it."""
        if replica.is_guess:
            known = [other.images_per_s for other in self.replicas.values() if not other.is_guess]
            replica.images_per_s = sum(known) / len(known) if known else 1.0
        self._team_speed -= self._team.pop(replica.replica_id, 0.0)
        if replica.state == "ready":
            self._team[replica.replica_id] = replica.images_per_s
            self._team_speed += replica.images_per_s

    def _end(self, replica: Replica, lease: Lease, now: float) -> None:
        replica.leases.remove(lease)
        replica.ended_at = now
        images = sum(len(other.work) for other in replica.leases)
        replica.free_at = now + images / replica.images_per_s
        self.look(replica, now)

    def _offer(self, replica: Replica) -> None:
        self._parked.pop(replica.replica_id, None)
        self._room.setdefault(replica.node_id, {})[replica.replica_id] = replica

    def _withhold(self, replica: Replica) -> None:
        self._parked.pop(replica.replica_id, None)
        replicas = self._room.get(replica.node_id, {})
        replicas.pop(replica.replica_id, None)
        if not replicas:
            self._room.pop(replica.node_id, None)


def _ranked(replicas: list[Replica]) -> Iterator[Replica]:
    """The first is nearly always taken, so that the others are not sorted before they are asked for."""
    first = min(replicas, key=_rank, default=None)
    if first is not None:
        yield first
        yield from sorted((replica for replica in replicas if replica is not first), key=_rank)


def _rank(replica: Replica) -> tuple[int, float, str]:
    """Idle ones before busy ones, and fast ones before slow ones."""
    return len(replica.leases), -replica.images_per_s, replica.replica_id


def _is_exclusive(replica: Replica) -> bool:
    return any(lease.work.alone for lease in replica.leases)
