"""What became of the room for replicas: starts that failed, cards that compute nonsense, micro-batches that fit."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.cards.slot_policy import Slot

FAILED_STARTS = 3
"""Failed starts of every slot, without one that worked, after which the model is taken to be unusable."""
_LONGEST_BACKOFF_S = 60.0


@dataclass(frozen=True)
class _Failure:
    """Failed starts in one slot, one after the other."""

    count: int
    retry_at: float
    error: str


class SlotBook:
    """Pure bookkeeping: times are told, in seconds."""

    def __init__(self) -> None:
        self.slots: dict[str, Slot] = {}
        self._failures: dict[str, _Failure] = {}
        self._faulty: dict[str, str] = {}
        self._fitting: dict[tuple[str, float], int] = {}
        self.has_worked = False

    def update(self, slots: Sequence[Slot]) -> None:
        """What the cluster offers now."""
        self.slots = {slot.slot: slot for slot in slots}

    def free(self, taken: Collection[str], now: float) -> Iterator[Slot]:
        """Slots in which a replica may be started now."""
        for name, slot in self.slots.items():
            failure = self._failures.get(name)
            if name not in taken and name not in self._faulty and (failure is None or now >= failure.retry_at):
                yield self._fitted(slot)

    def failed(self, slot: Slot, error: str, now: float) -> bool:
        """A replica could not start: the next try comes later each time; whether this error is new here."""
        before = self._failures.get(slot.slot)
        count = before.count + 1 if before else 1
        self._failures[slot.slot] = _Failure(count, now + min(2.0**count, _LONGEST_BACKOFF_S), error)
        return before is None or before.error != error

    def worked(self, slot: Slot) -> None:
        """A replica has started."""
        self._failures.pop(slot.slot, None)
        self.has_worked = True

    def in_use(self) -> int:
        """Slots that the cluster offers and that are not out of use."""
        return sum(name not in self._faulty for name in self.slots)

    def back_in_use(self, slot: Slot) -> None:
        """The suspicion against a slot was wrong."""
        self._faulty.pop(slot.slot, None)

    def out_of_use(self, slot: Slot, reason: str) -> None:
        """Nothing is started here any more."""
        self._faulty[slot.slot] = f"{slot.card} on node {slot.node_id[:8]}: {reason}"

    def fits(self, slot: Slot, microbatch: int) -> bool:
        """Replicas on this kind of card start with this micro-batch from now on; whether that is news."""
        kind = (slot.card, slot.placement.num_gpus)
        if microbatch == self._fitting.get(kind, slot.placement.microbatch):
            return False
        self._fitting[kind] = microbatch
        return True

    def unusable(self) -> str | None:
        """Why waiting is useless: every slot is out of use, or has failed again and again and none ever worked."""
        if not self.slots:
            return None
        if all(name in self._faulty for name in self.slots):
            return f"no card can be trusted: {'; '.join(sorted(self._faulty.values()))}"
        failures = [self._failures.get(name) for name in self.slots if name not in self._faulty]
        if self.has_worked or any(failure is None or failure.count < FAILED_STARTS for failure in failures):
            return None
        errors = sorted({failure.error for failure in failures if failure is not None})
        return f"the model could not be loaded, {FAILED_STARTS} times in every replica: {'; '.join(errors)}"

    def account(self) -> str:
        """What is wanted, and what stands in its way."""
        if not self.slots:
            return "wanted at least one replica; the cluster has no GPU and no CPU to spare for one"
        failures = {f"{f.count} failed starts, the last: {f.error}" for f in self._failures.values()}
        cards = ", ".join(sorted({slot.card for slot in self.slots.values()}))
        obstacles = "; ".join(sorted({*failures, *self._faulty.values()}))
        return f"wanted {len(self.slots)} replica(s) on {cards}; {obstacles or 'none has started yet'}"

    def _fitted(self, slot: Slot) -> Slot:
        place = slot.placement
        fitting = self._fitting.get((slot.card, place.num_gpus), place.microbatch)
        return replace(slot, placement=replace(place, microbatch=min(fitting, place.microbatch)))
