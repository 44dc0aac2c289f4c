"""Is it the work, the card, or the memory of the machine? What speaks for each, without Ray and without a clock."""

from collections import Counter

from pipeline.cards.slot_policy import Slot
from pipeline.fleet.leases import Work

MEMORY_KILLS_FORGIVEN = 3
"""Ray ends processes when memory runs low, whoever took it; the same work again and again is no coincidence."""


class Blame:
    """Why replicas died, and whose scores are in doubt."""

    def __init__(self) -> None:
        self._ended_because: dict[str, str] = {}
        self._ended_for_memory: set[str] = set()
        self._memory_kills: Counter[Work] = Counter()
        self._doubts: dict[Work, Slot] = {}

    def will_end(self, replica_id: str, why: str) -> None:
        """The Fleet itself ends this replica: what shows as a death has this cause."""
        self._ended_because[replica_id] = why

    def ended_for_memory(self, replica_id: str) -> None:
        """Ray ended it, as memory was low."""
        self._ended_for_memory.add(replica_id)

    def cause(self, replica_id: str, seen: str) -> str:
        """Of a replica's death; seen: what Ray says."""
        return self._ended_because.pop(replica_id, seen)

    def is_of_the_work(self, replica_id: str, work: Work) -> bool:
        """Whether a process's death on a living node counts against the work that it did."""
        if replica_id not in self._ended_for_memory:
            return True
        self._memory_kills[work] += 1
        return self._memory_kills[work] > MEMORY_KILLS_FORGIVEN

    def doubt(self, work: Work, slot: Slot) -> None:
        """What this slot found for the work is not finite; another one is asked."""
        self._doubts[work] = slot

    def settle(self, work: Work) -> Slot | None:
        """Another one has answered: the slot that was in doubt, if any, which is the end of the doubt."""
        return self._doubts.pop(work, None)
