"""What the Fleet is told when it starts, and what it answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.cards.node_facts import NodeFacts, Proof
from pipeline.cards.node_place import NodePlace
from pipeline.cards.slot_policy import SlotPolicy, Unusable
from pipeline.config import Config
from pipeline.costs.prices import PriceTable
from pipeline.fleet.leases import Work
from pipeline.fleet.replica import Replica, ReplicaSpec
from pipeline.metrics.kinds import Values
from pipeline.stores.run_store import RunStore


@dataclass(frozen=True)
class FleetSpec:
    """All that the Fleet needs to know of the run.

    session: the driver process it belongs to; policy: where there is room for replicas, decided once for the run;
    facts: of the nodes that were there at its start, by node id; unusable: what of them replicas cannot use, which the
    user has been told; proof: what nodes that join have to show;
    seen_at: when those nodes were first seen, seconds since 1970, by node id; prices: what nodes cost;
    replica_class: what a replica runs, a class with the constructor and methods of `pipeline.fleet.replica.Replica`.
    """

    config: Config
    store: RunStore
    session: str
    replica: ReplicaSpec
    policy: SlotPolicy
    facts: Mapping[str, NodeFacts]
    unusable: Sequence[Unusable]
    proof: Proof
    seen_at: Mapping[str, float]
    prices: PriceTable
    replica_class: type = Replica


@dataclass(frozen=True)
class Grant:
    """A lease as its holder sees it.

    work: what was granted, the first images of what was asked for; handle: the replica's actor; card, node_type, place:
    where it runs.
    """

    lease_id: str
    work: Work
    replica_id: str
    handle: Any
    node_id: str
    node_type: str
    card: str
    place: NodePlace


class Orders(NamedTuple):
    """What a holder is told. cpus: of its node, that it may decode on; take_over: chunks that a dead holder had."""

    cpus: int
    take_over: frozenset[int]


@dataclass(frozen=True)
class CardStatus:
    """Replicas on one type of card. images_per_s: of all of them, as measured; 0 until one has finished a lease."""

    replicas: int
    images_per_s: float


@dataclass(frozen=True)
class FleetStatus:
    """What the driver shows: replicas that can work and that start, images under way.

    cards: by card; notices: what happened since the last time that a person should know;
    outcomes: what became of chunks that a holder took over from a dead one, as rows of handover.OUTCOME_SCHEMA;
    chunks_in_hand: known to be with a process, a living one or one whose chunks are being taken over;
    dead_holders: processes that died in this round; idle_holders: living ones that wait for chunks in such a round;
    stalled: why there has been no replica for too long; broken: why there can never be one;
    metrics: what the Fleet has counted of its events in this session.
    """

    ready: int
    starting: int
    images_under_way: int
    leases: int
    stalled: str | None
    broken: str | None
    cards: Mapping[str, CardStatus] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    outcomes: tuple[dict[str, Any], ...] = ()
    chunks_in_hand: frozenset[int] = frozenset()
    dead_holders: int = 0
    idle_holders: int = 0
    metrics: Values = field(default_factory=dict)
