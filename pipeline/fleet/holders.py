"""Processes that decode and hand over: which chunks each has in hand, and who takes over those of the dead.

Ray Data runs a lost chunk again too, but takes ten seconds and more to learn that a node is gone, goes on sending
chunks there meanwhile, ends processes that it has no work for, and then starts others for what was lost. No clock and
no Ray.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass

IDLE_S = 2.0
"""A process that has had nothing in hand for so long waits for chunks that were sent to the dead."""
_FRESH_S = 3.0
"""A process that says nothing for longer may have been ended, and is not counted on."""


@dataclass
class _Holder:
    """As it was last heard of, with what it was told to take over since. busy_at: when it last had anything in hand."""

    node_id: str
    chunks: frozenset[int]
    heard_at: float
    busy_at: float
    spare: bool


class HolderBook:
    """Who has which chunks in hand. is_silent: whether a holder is taken to be dead, by name. Times are in seconds."""

    def __init__(self, is_silent: Callable[[str], bool]) -> None:
        self._is_silent = is_silent
        self._holders: dict[str, _Holder] = {}
        self._unclaimed: frozenset[int] = frozenset()

    def hear(self, name: str, node_id: str, chunks: frozenset[int], now: float, spare: bool = False) -> frozenset[int]:
        """A holder is alive, with these chunks in hand: chunks of the dead that it has to take over.

        It gets its share of them, the living counted; its next word is taken to mention them unless they are done.
        spare: it only takes over, Ray Data sends it nothing.
        """
        before = self._holders.get(name)
        idle = before is not None and not before.chunks and not chunks
        busy_at = before.busy_at if before is not None and idle else now
        self._holders[name] = _Holder(node_id, chunks, now, busy_at, spare)
        stranded = sorted(self.stranded())
        share = -(-len(stranded) // len(self._fresh(now)))
        taken = frozenset(stranded[:share])
        self._holders[name].chunks |= taken
        for other, holder in self._holders.items():
            if other != name and self._is_silent(other):
                holder.chunks -= taken
        self._unclaimed -= taken
        return taken

    def strand(self, chunks: frozenset[int]) -> None:
        """Nobody has these chunks, as far as the driver knows: they were sent to the dead."""
        self._unclaimed |= chunks - self.in_hand()

    def idle(self, now: float) -> int:
        """How many holders have waited for IDLE_S, in a round in which one died; else 0.

        The spare counts only where no other has anything to do.
        """
        if not self.dead():
            return 0
        fresh = self._fresh(now)
        is_busy = any(holder.chunks for holder in fresh if not holder.spare)
        return sum(
            not holder.chunks and now - holder.busy_at > IDLE_S for holder in fresh if not (holder.spare and is_busy)
        )

    def in_hand(self) -> frozenset[int]:
        """Chunks under way in living processes."""
        return frozenset[int]().union(*(holder.chunks for holder in self._living()))

    def stranded(self) -> frozenset[int]:
        """Chunks that were in the hands of the dead, or sent to them, and are in nobody else's."""
        dead = (holder.chunks for name, holder in self._holders.items() if self._is_silent(name))
        return self._unclaimed.union(*dead) - self.in_hand()

    def dead(self) -> int:
        """How many holders have died in this round."""
        return len(self._holders) - len(self._living())

    def living_on(self, node_id: str) -> int:
        """How many holders of a node are alive, the spare apart."""
        return sum(holder.node_id == node_id and not holder.spare for holder in self._living())

    def not_on(self, nodes: Set[str]) -> list[str]:
        """The holders of any but these nodes."""
        return [name for name, holder in self._holders.items() if holder.node_id not in nodes]

    def forget_dead(self) -> None:
        """A new round gives out again whatever they had."""
        self._holders = {name: holder for name, holder in self._holders.items() if not self._is_silent(name)}
        self._unclaimed = frozenset()

    def _living(self) -> list[_Holder]:
        return [holder for name, holder in self._holders.items() if not self._is_silent(name)]

    def _fresh(self, now: float) -> list[_Holder]:
        return [holder for holder in self._living() if now - holder.heard_at <= _FRESH_S]
