"""A replica as a Ray actor, pinned to its node."""

import threading
from typing import Any, NamedTuple

import ray

from pipeline.cards.placement import Placement
from pipeline.cards.slot_policy import Slot
from pipeline.fleet.replica import ReplicaSpec, Tagged
from pipeline.fleet.sampler import Sampler, keep_sampling


class ReplicaProcess(NamedTuple):
    """gpus: that Ray gave it, as Ray numbers them."""

    pid: int
    gpus: tuple[str, ...]


class ReplicaActor:
    """Runs a replica, one call at a time; `watch` runs beside them.

    replica_class: a class with the constructor and methods of `pipeline.fleet.replica.Replica`;
    fleet: the Fleet's actor handle, which is told of images done, of the end of leases, and how hard the card works;
    sample_every_s: 0 = never; machine: whether to sample what all processes of the node share, too.
    """

    def __init__(
        self,
        replica_class: type,
        spec: ReplicaSpec,
        placement: Placement,
        fleet: Any,
        replica_id: str,
        sample_every_s: float,
        machine: bool,
    ) -> None:
        self._fleet = fleet
        self._replica_id = replica_id
        self._gpus = tuple(map(str, ray.get_runtime_context().get_accelerator_ids().get("GPU", ())))
        self._replica = replica_class(spec, placement, lambda images: fleet.progress.remote(replica_id, images))
        if sample_every_s:
            sampler = Sampler(self._gpus if placement.device == "cuda" else (), machine)
            keep_sampling(sampler, sample_every_s, lambda sample: fleet.sample.remote(replica_id, sample))

    def ready(self) -> ReplicaProcess:
        """Answers when the model is loaded and nothing is queued before this call."""
        return ReplicaProcess(self._replica.ready(), self._gpus)

    def tag(self, lease_id: str, pixels: Any, first: int, last: int) -> Tagged:
        """See `pipeline.fleet.replica.Replica.tag`. The lease ends here: its holder may be dead."""
        tagged: Tagged = self._replica.tag(pixels, first, last)
        is_finite = bool(tagged.selection.finite.all())
        self._fleet.release.remote(
            lease_id, self._replica_id, tagged.microbatch, is_finite, tagged.model_s, tagged.ended_at
        )
        return tagged

    @ray.method(concurrency_group="watch")
    def watch(self) -> None:
        """Never returns: that this call fails is how the Fleet learns of a death at once."""
        threading.Event().wait()


def start_actor(
    slot: Slot, replica_class: type, spec: ReplicaSpec, fleet: Any, replica_id: str, sample_every_s: float
) -> Any:
    """The handle of a replica that Ray starts in this slot; it never restarts by itself."""
    actor = ray.remote(concurrency_groups={"watch": 1})(ReplicaActor)  # type: ignore[call-overload]
    return actor.options(
        num_cpus=slot.placement.num_cpus,
        num_gpus=slot.placement.num_gpus,
        max_restarts=0,
        label_selector={"ray.io/node-id": slot.node_id},
    ).remote(replica_class, spec, slot.placement, fleet, replica_id, sample_every_s, slot.is_first)
