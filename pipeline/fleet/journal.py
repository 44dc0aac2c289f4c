"""What the Fleet writes down: each event with its fields in one place (docs/events.md)."""

import time
from typing import Any

from pipeline.cards.slot_policy import Slot
from pipeline.events.log import EventLog
from pipeline.fleet.leases import Lease, Work
from pipeline.fleet.replica_actor import ReplicaProcess


class Journal:
    """The Fleet's part of the event log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._untried: dict[str, float] = {}
        log.write("fleet_started")

    def taken_over(self, holder: str, chunks: frozenset[int]) -> None:
        """A living process works on chunks of a dead one."""
        self._log.write("taken_over", holder=holder, chunks=sorted(chunks))

    def sample(self, node_id: str, sample: dict[str, Any]) -> None:
        """How hard a node works, see `pipeline.fleet.sampler`."""
        self._log.write("sample", node=node_id, **sample)

    # ---- leases ----

    def lease(self, lease: Lease) -> None:
        """Granted."""
        self._log.write("lease", lease=lease.lease_id, replica=lease.replica_id, work=list(lease.work))

    def lease_done(self, lease_id: str, replica_id: str, model_s: float, ended_at: float) -> None:
        """The model worked on it for so long, until so many seconds since 1970."""
        self._log.write(
            "lease_done", lease=lease_id, replica=replica_id, model_s=round(model_s, 3), ended_at=round(ended_at, 3)
        )
        started = self._untried.pop(replica_id, None)
        if started is not None:
            self._log.write("first_tag", replica=replica_id, after_s=round(time.monotonic() - started, 3))

    def lease_failed(self, lease: Lease, ran_s: float) -> None:
        """The model raised an error."""
        self._log.write("lease_failed", lease=lease.lease_id, replica=lease.replica_id, ran_s=round(ran_s, 3))

    def lease_lost(self, lease: Lease, begun: bool, ran_s: float, died_at: float, node_gone: bool) -> None:
        """Its replica died. ran_s: how long the model had worked on it; node_gone: with the whole node."""
        self._log.write(
            "lease_lost",
            lease=lease.lease_id,
            replica=lease.replica_id,
            work=list(lease.work),
            begun=begun,
            ran_s=round(ran_s, 3),
            died_at=round(died_at, 3),
            node_gone=node_gone,
        )

    def lease_orphaned(self, lease: Lease) -> None:
        """Its holder died."""
        self._log.write("lease_orphaned", lease=lease.lease_id, holder=lease.holder)

    def strike(self, work: Work, replica_id: str, strikes: int, cause: str) -> None:
        """The work is held to be at fault."""
        self._log.write("strike", work=list(work), replica=replica_id, strikes=strikes, cause=cause)

    # ---- replicas and cards ----

    def replica_started(self, replica_id: str, slot: Slot) -> None:
        """It is asked for."""
        self._untried[replica_id] = time.monotonic()
        self._log.write(
            "replica_started",
            replica=replica_id,
            node=slot.node_id,
            node_type=slot.node_type,
            card=slot.card,
            lane=slot.lane,
            num_gpus=slot.placement.num_gpus,
        )

    def replica_ready(self, replica_id: str, slot: Slot, process: ReplicaProcess) -> None:
        """It has loaded the model."""
        self._log.write(
            "replica_ready",
            replica=replica_id,
            node=slot.node_id,
            node_type=slot.node_type,
            card=slot.card,
            num_gpus=slot.placement.num_gpus,
            dtype=slot.placement.dtype,
            microbatch=slot.placement.microbatch,
            pid=process.pid,
            gpus=process.gpus,
            load_s=round(time.monotonic() - self._untried[replica_id], 3),
        )

    def replica_draining(self, replica_id: str) -> None:
        """It gets no more leases."""
        self._log.write("replica_draining", replica=replica_id)

    def replica_gone(self, replica_id: str, cause: str) -> None:
        """Its process is ended, or has ended."""
        self._untried.pop(replica_id, None)
        self._log.write("replica_gone", replica=replica_id, cause=cause)

    def card_fault(self, slot: Slot) -> None:
        """The card had wrong scores, and is out of use."""
        self._log.write("card_fault", card=slot.card, node=slot.node_id, slot=slot.slot)

    def out_of_memory(self, replica_id: str, card: str, microbatch: int) -> None:
        """So many images at once fit, fewer than were tried."""
        self._log.write("out_of_memory", replica=replica_id, card=card, microbatch=microbatch)
