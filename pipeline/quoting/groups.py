"""Groups of like nodes for a cluster file: of a quote, exactly the chosen nodes; of a fleet file, all it offers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count

from pipeline.cards.labels import ACCELERATOR_LABEL, INSTANCE_LABEL, MARKET_LABEL, REGION_LABEL, VRAM_LABEL, ZONE_LABEL
from pipeline.cards.profiles import GIB, load_profiles
from pipeline.errors import ConfigError
from pipeline.quoting.answer import Quote, hours, money
from pipeline.quoting.fleet_file import FleetFile, NodeOffer

_LONGEST_NAME = 55
_LABEL_VALUE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True)
class NodeGroup:
    """Nodes of one kind. name: as Kubernetes and Ray take it (RFC 1123); least, most: nodes of it at any time."""

    name: str
    offer: NodeOffer
    least: int
    most: int

    @property
    def cards(self) -> int:
        """Of a node."""
        return 0 if self.offer.card == "cpu" else self.offer.gpus

    @property
    def is_spot(self) -> bool:
        """Whether its nodes may be taken away."""
        return self.offer.market == "spot"


@dataclass(frozen=True)
class Plan:
    """The groups of a cluster file, and what is said above it."""

    groups: tuple[NodeGroup, ...]
    said: str

    @property
    def is_elastic(self) -> bool:
        """Whether there is something for an autoscaler to decide."""
        return any(group.least < group.most for group in self.groups)

    @property
    def request(self) -> dict[str, int]:
        """Cards of everything that may be had, by Ray's name: what `fleet.request` asks for."""
        cards: dict[str, int] = {}
        for group in self.groups:
            name = ray_card(group.offer)
            if name is not None:
                cards[name] = cards.get(name, 0) + group.most * group.cards
        return cards


def plan_of_quote(quote: Quote) -> Plan:
    """The chosen nodes, all of them from the beginning."""
    lines = [line for line in quote.lines if line.nodes]
    names = _names([line.rental.name for line in lines])
    said = (
        f"RamFleet: {quote.mix.nodes} node(s) for {quote.job.images:,} images, about "
        f"{hours(quote.seconds.middle)} and {money(quote.dollars.middle, quote.market.currency)} by simulation"
    )
    groups = (
        NodeGroup(name, line.rental.offer, line.nodes, line.nodes) for name, line in zip(names, lines, strict=True)
    )
    return Plan(tuple(groups), said)


def plan_of_fleet(fleet: FleetFile) -> Plan:
    """All that the fleet file offers: least_nodes from the beginning, up to most_nodes as a run asks for them."""
    names = _names([offer.label for offer in fleet.nodes])
    groups = tuple(
        NodeGroup(name, offer, offer.least_nodes, offer.most_nodes)
        for name, offer in zip(names, fleet.nodes, strict=True)
    )
    least, most = sum(group.least for group in groups), sum(group.most for group in groups)
    return Plan(groups, f"RamFleet: {least} to {most} node(s) of {len(groups)} kind(s), as a fleet file has them")


def node_labels(offer: NodeOffer) -> dict[str, str]:
    """Labels of the node, by which a run knows what it is and costs and an autoscaler which cards it would bring.

    Raises ConfigError for a value that neither Kubernetes nor Ray takes as a label's.
    """
    card = ray_card(offer)
    labels = {MARKET_LABEL: offer.market.replace("_", "-")}
    labels |= {ACCELERATOR_LABEL: card} if card else {}
    labels |= {INSTANCE_LABEL: offer.instance_type} if offer.instance_type else {}
    labels |= {VRAM_LABEL: f"{offer.vram_gib:g}"} if offer.vram_gib else {}
    if offer.region:
        region = region_of(offer.region)
        labels |= {REGION_LABEL: region} | ({ZONE_LABEL: offer.region} if region != offer.region else {})
    for key, value in labels.items():
        if not _LABEL_VALUE.fullmatch(value):
            raise ConfigError(
                f"{offer.label}: {value!r} cannot be the label {key}: give up to 63 letters, digits, dots, dashes and "
                f"underscores, with a letter or digit at both ends"
            )
    return labels


def ray_card(offer: NodeOffer) -> str | None:
    """The card's name as Ray finds it by itself, with which a label has to agree; None for a node without one."""
    if offer.card is None or offer.card == "cpu":
        return None
    table, vram = load_profiles(), int(offer.vram_gib * GIB) if offer.vram_gib else None
    plain = offer.card.replace(" ", "-")
    profile = table.find(offer.card, offer.card, vram) or table.find(plain, None, vram)
    return profile.card if profile is not None else re.sub(r"[^A-Za-z0-9_.-]+", "-", plain).strip("-_.")


def products_of(offer: NodeOffer) -> list[str]:
    """What NVIDIA's device plugin may call the card on a node of Kubernetes: the driver's name for it, with dashes."""
    card = ray_card(offer)
    if card is None:
        return []
    profiles = [known for known in load_profiles().cards if known.card == card]
    fitting = [known for known in profiles if offer.vram_gib in (None, known.vram_gib)]
    names = {card} | {name.replace(" ", "-") for known in fitting for name in known.names}
    return [product for name in sorted(names) for product in (name, f"NVIDIA-{name}")]


def region_of(place: str) -> str:
    """us-east-1 of zone us-east-1a (AWS), us-central1 of us-central1-a (GCP); a region is its own."""
    return re.sub(r"(?<=\d)-?[a-z]$", "", place)


def commented(plan: Plan, text: str, *notes: str) -> str:
    """The text of a file under what is said of it, a comment a line."""
    return "".join(f"# {line}\n" for line in (plan.said, *notes)) + text


def _names(wanted: Sequence[str]) -> list[str]:
    """Names that Kubernetes and Ray take, one for each kind, also where only other signs told them apart."""
    names: list[str] = []
    for name in wanted:
        plain = re.sub(r"[^a-z0-9]+", "-", name.lower())[:_LONGEST_NAME].strip("-") or "nodes"
        numbers = (f"{plain}-{number}" for number in count(2))
        names.append(next(free for free in chain([plain], numbers) if free not in {"head", *names}))
    return names
