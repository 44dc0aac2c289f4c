"""What may be rented, with all that a quote needs of it: price, expected images/s, and where that is from."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pipeline.cards.profiles import GIB, CardProfile, CardTable
from pipeline.cards.sizing import ModelLoad, images_per_s_ceiling, size_card
from pipeline.costs.prices import NodePrice, PriceTable
from pipeline.fleet.leases import LOOK_AHEAD_S
from pipeline.quoting.fleet_file import Assumptions, FleetFile, NodeOffer
from pipeline.quoting.measured_run import MeasuredCard
from pipeline.quoting.mix import NodePlan
from pipeline.quoting.simulate import LONGEST_LEASE_S, Job, NodeKind

Basis = Literal["given", "measured", "modelled"]
"""Images/s as the fleet file has them; as a run or `ramfleet calibrate` measured them; as the card's model says."""

_BITS = 1e6 / 8
_COMMON = 0.75
"""Of the place within `Assumptions.modelled_share`, what all cards have in common."""
_KEEPS_UP = 1e9
"""Images/s of what is taken to keep up."""


@dataclass(frozen=True)
class Speed:
    """Images/s of one card.

    expected: to plan with; modelled: before the share that cards are taken to reach of it; ceiling: with all operations
    fused, both None where the basis is another one; load_s: of the model, as measured.
    """

    expected: float
    basis: Basis
    dtype: str | None = None
    microbatch: int = 1
    modelled: float | None = None
    ceiling: float | None = None
    relative_times: tuple[float, ...] = ()
    load_s: float | None = None


@dataclass(frozen=True)
class Rental:
    """A kind of node that can be rented. offer: as in the fleet file; price: of a node; speed: of one of its cards."""

    offer: NodeOffer
    price: NodePrice
    speed: Speed

    @property
    def name(self) -> str:
        """As the fleet file calls it."""
        return self.offer.label

    @property
    def dollars_per_hour(self) -> float:
        """Of a node, in the currency of the prices."""
        return float(self.price.per_hour)


@dataclass(frozen=True)
class Market:
    """What can be rented, and what of the fleet file cannot be used and why; prices are in one currency."""

    rentals: tuple[Rental, ...]
    left_out: Mapping[str, str]
    currency: str
    assumptions: Assumptions = field(default_factory=Assumptions)


def open_market(
    fleet: FleetFile,
    prices: PriceTable,
    table: CardTable,
    load: ModelLoad,
    dtype: str = "auto",
    measured: Mapping[str, MeasuredCard] | None = None,
) -> Market:
    """Find price and speed of every offer. What has no price or no known card is left out, with the reason.

    dtype: of all cards; auto = fp16 where a card has it; measured: of a run, by node type or card.
    """
    rentals, left_out = [], {}
    for offer in fleet.nodes:
        gpus = 0 if offer.card == "cpu" else offer.gpus
        price = prices.find(offer.card, offer.instance_type, offer.market, offer.region, gpus, offer.vram_gib)
        speed = _speed(offer, table, load, dtype, measured or {}, fleet.assumptions)
        problem = next((found for found in (price, speed) if isinstance(found, str)), None)
        if problem is not None:
            left_out[offer.label] = problem
        elif not isinstance(price, str) and not isinstance(speed, str):
            rentals.append(Rental(offer, price, speed))
    return Market(tuple(rentals), left_out, prices.currency, fleet.assumptions)


def kind_of(rental: Rental, assumptions: Assumptions, factor: float = 1.0) -> NodeKind:
    """The node as it is simulated. factor: of the expected images/s, as drawn for one run."""
    offer, speed = rental.offer, rental.speed
    workers = max(1, int(offer.cpus)) if offer.cpus else offer.gpus
    return NodeKind(
        name=rental.name,
        images_per_s=speed.expected * factor,
        cards=offer.gpus,
        microbatch=speed.microbatch,
        startup_s=offer.startup_minutes * 60,
        load_s=assumptions.load_seconds if speed.load_s is None else speed.load_s,
        startup_is_billed=offer.startup_is_billed,
        preemptions_per_hour=offer.preemptions_per_hour,
        workers=workers,
        supply_per_s=offer.cpus * 1000 / assumptions.decode_ms if offer.cpus else None,
        link_bytes_per_s=offer.link_mbit_s * _BITS if offer.link_mbit_s else None,
        relative_times=speed.relative_times,
    )


def plan_of(rental: Rental, job: Job, assumptions: Assumptions, nodes: int, factor: float = 1.0) -> NodePlan:
    """The node as it is planned with: means only.

    nodes: in the fleet at most; with several of them pixels are taken to cross the network once, as they do when
    chunks wait. A preemption costs a start-up, a model load, its notice, and what was in hand.
    """
    offer, kind = rental.offer, kind_of(rental, assumptions, factor)
    lease_s = min(LONGEST_LEASE_S, job.chunk_rows / kind.images_per_s)
    stragglers = 0.0 if kind.relative_times else assumptions.straggler_share * (assumptions.straggler_factor - 1)
    rate = kind.cards * _with_link(kind, kind.images_per_s / (1 + stragglers), job, nodes)
    away_s = kind.startup_s + kind.load_s + assumptions.notice_seconds + 1.5 * lease_s
    per_s = kind.preemptions_per_hour / 3600
    paid = 1.0 if kind.startup_is_billed else 1 / (1 + per_s * kind.startup_s)
    available = 1 / (1 + per_s * away_s)
    return NodePlan(
        name=rental.name,
        images_per_s=rate * available,
        supply_per_s=min(kind.supply_per_s or _KEEPS_UP, _KEEPS_UP) * available,
        lead_s=kind.startup_s + kind.load_s,
        dollars_per_s=rental.dollars_per_hour / 3600 * paid,
        unpaid_s=0.0 if kind.startup_is_billed else kind.startup_s,
        tail_s=assumptions.run_seconds,
        least=offer.least_nodes,
        most=offer.most_nodes,
    )


def drawn_factors(rentals: Sequence[Rental], assumptions: Assumptions, draw: random.Random) -> list[float]:
    """What each kind of card may turn out to do, as a share of what is expected.

    How far the model of a card is off is mostly the software's doing, and so mostly the same for all of them.
    """
    low, high = assumptions.modelled_share
    common = draw.random()
    factors = []
    for rental in rentals:
        own, error = draw.random(), draw.gauss(0.0, assumptions.measured_spread)
        place = _COMMON * common + (1 - _COMMON) * own
        modelled = (low + (high - low) * place) / ((low + high) / 2)
        factors.append(modelled if rental.speed.basis == "modelled" else math.exp(error))
    return factors


def _with_link(kind: NodeKind, images_per_s: float, job: Job, nodes: int) -> float:
    """Images/s of one card of a node whose link carries what its cards work on.

    A lease is granted LOOK_AHEAD_S before the card is idle: what the pixels take longer than that, the card waits.
    """
    if not kind.link_bytes_per_s or not job.image_bytes:
        return images_per_s
    images = min(job.chunk_rows, LONGEST_LEASE_S * images_per_s)
    byte_s = images * kind.cards / kind.link_bytes_per_s
    pixels_s = byte_s * job.pixel_bytes if nodes > 1 else 0.0
    cycle_s = max(byte_s * job.image_bytes + pixels_s, images / images_per_s + max(0.0, pixels_s - LOOK_AHEAD_S))
    return images / cycle_s


def _speed(
    offer: NodeOffer,
    table: CardTable,
    load: ModelLoad,
    dtype: str,
    measured: Mapping[str, MeasuredCard],
    assumptions: Assumptions,
) -> Speed | str:
    """Images/s of a card of this node, or why they are not known: a run's figures before all others."""
    card = offer.card or ""
    found = measured.get(offer.label) or measured.get(offer.instance_type or "") or measured.get(card)
    vram = None if offer.vram_gib is None else int(offer.vram_gib * GIB)
    profile = table.find(card, card, vram) or table.find(card.replace(" ", "-"), None, vram)
    if found is not None:
        return Speed(found.images_per_s, "measured", relative_times=found.relative_times, load_s=found.load_s)
    if offer.images_per_s is not None:
        return Speed(offer.images_per_s, "given")
    if profile is None:
        return f"nothing is known of card {card!r}: give images_per_s, or a profile of it with --profiles"
    return _speed_of_profile(profile, table, load, dtype, vram, assumptions)


def _speed_of_profile(
    profile: CardProfile,
    table: CardTable,
    load: ModelLoad,
    dtype: str,
    vram: int | None,
    assumptions: Assumptions,
) -> Speed | str:
    dtype = ("fp16" if profile.fp16 is not None else "fp32") if dtype == "auto" else dtype
    vram = int(profile.vram_gib * GIB) if vram is None else vram
    calibrated = table.find_measured({profile.card, *profile.names}, load.bundle_hash, dtype, vram)
    if calibrated is not None:
        return Speed(calibrated.images_per_s, "measured", dtype, calibrated.microbatch)
    size = size_card(vram, load, dtype, profile)
    if isinstance(size, str):
        return size
    if size.images_per_s is None:
        return f"nothing is known of the speed of {profile.card}"
    return Speed(
        expected=size.images_per_s * sum(assumptions.modelled_share) / 2,
        basis="modelled",
        dtype=dtype,
        microbatch=size.microbatch,
        modelled=size.images_per_s,
        ceiling=images_per_s_ceiling(profile, load, dtype, fused=True),
    )


def plans_of(
    rentals: Sequence[Rental], job: Job, assumptions: Assumptions, factors: Sequence[float] | None = None
) -> list[NodePlan]:
    """All of them as they are planned with. factors: of their images/s, as drawn for one run."""
    nodes = sum(rental.offer.most_nodes for rental in rentals)
    drawn = factors or [1.0] * len(rentals)
    return [plan_of(rental, job, assumptions, nodes, factor) for rental, factor in zip(rentals, drawn, strict=True)]
