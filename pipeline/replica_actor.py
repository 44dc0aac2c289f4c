"""A replica as a Ray actor, pinned to its node."""

import threading
from typing import Any

import ray

from pipeline.cards import Slot
from pipeline.replica import Placement, ReplicaSpec, Tagged


class ReplicaActor:
    """Runs a replica, one call at a time; `watch` runs beside them.

    replica_class: a class with the constructor and methods of `pipeline.replica.Replica`;
    fleet: the Fleet's actor handle, which is told of images done.
    """

    def __init__(
        self, replica_class: type, spec: ReplicaSpec, placement: Placement, fleet: Any, replica_id: str
    ) -> None:
        self._fleet = fleet
        self._replica = replica_class(spec, placement, lambda images: fleet.progress.remote(replica_id, images))

    def ready(self) -> int:
        """Answers when the model is loaded and nothing is queued before this call; the process id."""
        pid: int = self._replica.ready()
        return pid

    def tag(self, lease_id: str, pixels: Any, first: int, last: int) -> Tagged:
        """See `pipeline.replica.Replica.tag`. The lease ends here: its holder may be dead."""
        tagged: Tagged = self._replica.tag(pixels, first, last)
        self._fleet.release.remote(lease_id, tagged.microbatch, bool(tagged.selection.finite.all()))
        return tagged

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Never returns: that this call fails is how the Fleet learns of a death at once."""
        threading.Event().wait()


def start_actor(slot: Slot, replica_class: type, spec: ReplicaSpec, fleet: Any, replica_id: str) -> Any:
    """The handle of a replica that Ray starts in this slot; it never restarts by itself."""
    actor = ray.remote(concurrency_groups={"watch": 1})(ReplicaActor)  # type: ignore[call-overload]
    return actor.options(
        num_cpus=slot.placement.num_cpus,
        num_gpus=slot.placement.num_gpus,
        max_restarts=0,
        label_selector={"ray.io/node-id": slot.node_id},
    ).remote(replica_class, spec, slot.placement, fleet, replica_id)
