"""Who works on what: replicas, leases and strikes as plain bookkeeping, without Ray and without a clock.

Every method that needs the time is told it, in seconds, so that the rules can be tested in any order of events.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple


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

    def pieces(self) -> "list[Work]":
        """What it is cut into once it is struck out: two halves; a single image comes out alone."""
        middle = (self.first + self.last) // 2
        bounds = [(self.first, middle), (middle, self.last)]
        return [Work(self.chunk, a, b, part=True, alone=b - a == 1) for a, b in bounds if b > a]


STRIKES_OUT = 2
"""Deaths of a whole chunk before it is cut up, and of one image alone before it is poison."""


ReplicaState = Literal["starting", "idle", "leased", "settling"]


@dataclass
class Replica:
    """One process that holds the model.

    state: "settling" means that its lease was freed while it may still be working for a dead holder.
    served: leases granted so far; 0 = fresh. failures: errors one after the other, without a success between.
    """

    replica_id: str
    node_id: str
    slot: str
    state: ReplicaState = "starting"
    served: int = 0
    failures: int = 0


@dataclass
class Lease:
    """The right to send one piece of work to one replica, until its deadline."""

    lease_id: str
    replica_id: str
    holder: str
    work: Work
    deadline: float


@dataclass
class LeaseBook:
    """All replicas, leases and strikes of a run.

    lease_timeout_s: after so long without progress a lease is overdue, and its replica is taken to hang.
    holder_timeout_s: a holder that was not heard of for so long is taken to be dead.
    """

    lease_timeout_s: float
    holder_timeout_s: float
    replicas: dict[str, Replica] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    strikes: Counter[Work] = field(default_factory=Counter)
    _heard: dict[str, float] = field(default_factory=dict)

    def hear(self, holder: str, now: float) -> None:
        """A holder of leases is alive."""
        self._heard[holder] = now

    def is_silent(self, holder: str, now: float) -> bool:
        """Whether a holder is taken to be dead."""
        return now - self._heard.get(holder, now) > self.holder_timeout_s

    def idle(self, node_id: str, fresh: bool) -> Replica | None:
        """The best idle replica: on the asking node if possible; never-used ones first, or last, as asked."""
        idle = [replica for replica in self.replicas.values() if replica.state == "idle"]
        return min(
            idle,
            key=lambda replica: (
                fresh and replica.served > 0,
                replica.node_id != node_id,
                replica.served,
                replica.replica_id,
            ),
            default=None,
        )

    def grant(self, lease_id: str, replica: Replica, holder: str, work: Work, now: float) -> Lease:
        """Lease an idle replica."""
        replica.state = "leased"
        replica.served += 1
        lease = Lease(lease_id, replica.replica_id, holder, work, now + self.lease_timeout_s)
        self.leases[lease_id] = lease
        self.hear(holder, now)
        return lease

    def release(self, lease_id: str) -> bool:
        """The work is done; False if the lease is not known any more."""
        lease = self.leases.pop(lease_id, None)
        if lease is None:
            return False
        self.replicas[lease.replica_id].state = "idle"
        return True

    def extend(self, replica_id: str, now: float) -> None:
        """The replica shows progress: its lease runs on from here."""
        for lease in self.leases.values():
            if lease.replica_id == replica_id:
                lease.deadline = now + self.lease_timeout_s

    def strike(self, work: Work) -> int:
        """A process died while this work ran in it; how often that has happened to this very work."""
        self.strikes[work] += 1
        return self.strikes[work]

    def struck_out(self, work: Work) -> bool:
        """Whether this work must not run again as it is: a part of a struck chunk has only one try."""
        return self.strikes[work] >= (1 if work.part and not work.alone else STRIKES_OUT)

    def drop(self, replica_id: str) -> Lease | None:
        """A replica is gone; the lease on it, if any, ends."""
        self.replicas.pop(replica_id, None)
        for lease in list(self.leases.values()):
            if lease.replica_id == replica_id:
                return self.leases.pop(lease.lease_id)
        return None

    def orphaned(self, now: float) -> Iterator[Lease]:
        """Leases whose holder is dead: each ends here, and its replica settles until it is known to be idle."""
        for lease in list(self.leases.values()):
            if self.is_silent(lease.holder, now):
                del self.leases[lease.lease_id]
                self.replicas[lease.replica_id].state = "settling"
                yield lease

    def overdue(self, now: float) -> list[Lease]:
        """Leases past their deadline."""
        return [lease for lease in self.leases.values() if now > lease.deadline]

    def ready(self) -> int:
        """How many replicas can work: idle, leased or settling."""
        return sum(replica.state != "starting" for replica in self.replicas.values())
