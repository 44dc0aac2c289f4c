"""Processes that decode and hand over: which chunks each has in hand, and who takes over those of the dead.

Ray Data runs a lost chunk again too, but takes ten seconds and more to learn that a node is gone, and then starts a
process for it. No clock and no Ray.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass


@dataclass
class _Holder:
    """As it was last heard of, with what it was told to take over since."""

    node_id: str
    chunks: frozenset[int]


class HolderBook:
    """Who has which chunks in hand. is_silent: whether a holder is taken to be dead, by name."""

    def __init__(self, is_silent: Callable[[str], bool]) -> None:
        self._is_silent = is_silent
        self._holders: dict[str, _Holder] = {}

    def hear(self, name: str, node_id: str, chunks: frozenset[int]) -> frozenset[int]:
        """A holder is alive, with these chunks in hand: chunks of the dead that it has to take over.

        It gets its share of them, the living counted; its next word is taken to mention them unless they are done.
        """
        self._holders[name] = _Holder(node_id, chunks)
        stranded = sorted(self.stranded())
        share = -(-len(stranded) // len(self._living()))
        taken = frozenset(stranded[:share])
        self._holders[name].chunks |= taken
        for other, holder in self._holders.items():
            if other != name and self._is_silent(other):
                holder.chunks -= taken
        return taken

    def in_hand(self) -> frozenset[int]:
        """Chunks under way in living processes."""
        return frozenset[int]().union(*(holder.chunks for holder in self._living()))

    def stranded(self) -> frozenset[int]:
        """Chunks in the hands of the dead, and in nobody else's."""
        dead = (holder.chunks for name, holder in self._holders.items() if self._is_silent(name))
        return frozenset[int]().union(*dead) - self.in_hand()

    def living_on(self, node_id: str) -> int:
        """How many holders of a node are alive."""
        return sum(holder.node_id == node_id for holder in self._living())

    def not_on(self, nodes: Set[str]) -> list[str]:
        """The holders of any but these nodes."""
        return [name for name, holder in self._holders.items() if holder.node_id not in nodes]

    def forget_dead(self) -> None:
        """A new round gives out again whatever they had."""
        self._holders = {name: holder for name, holder in self._holders.items() if not self._is_silent(name)}

    def _living(self) -> list[_Holder]:
        return [holder for name, holder in self._holders.items() if not self._is_silent(name)]
