"""What nodes cost: own prices from files, and behind them the dated table that comes with the package.

A price that is not known is None, with the reason; nothing is guessed from other regions, machines or memory sizes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from pipeline.cards.labels import INSTANCE_LABEL, MARKET_LABEL, VRAM_LABEL, ZONE_LABEL

Market = Literal["on_demand", "spot"]
MEMORY_TOLERANCE = 0.08
"""As `pipeline.cards.profiles`: drivers and nominal sizes differ by less, memory sizes of one card by more."""

_MARKETS: dict[str, Market] = {
    "on_demand": "on_demand",
    "on-demand": "on_demand",
    "ondemand": "on_demand",
    "spot": "spot",
    "preemptible": "spot",
}
_ZONE = re.compile(r"-?[a-z]|-\d")
"""What a zone's name has behind that of its region: us-east-1a, us-central1-a, eastus-1."""
_MEMORY_SUFFIX = re.compile(r"-(\d+)\s*GB?$", re.IGNORECASE)
_BRANDS = re.compile(r"\b(nvidia|geforce|tesla|quadro)\b")


@dataclass(frozen=True)
class Price:
    """A price as it was given. per: one GPU, or the whole machine; source: where it is from, for a person to judge."""

    per_hour: Decimal
    currency: str
    per: Literal["gpu", "instance"]
    market: Market
    source: str


@dataclass(frozen=True)
class NodePrice:
    """What one node costs with all its cards. per_hour: in units of the currency (ISO 4217)."""

    per_hour: Decimal
    currency: str
    market: Market
    source: str


@dataclass(frozen=True)
class Offer:
    """A price with what it holds for; None = whatever it is.

    card: any way of writing it; gpus: cards of the machine; vram_gib: of each card; zone: of the region.
    """

    price: Price
    card: str | None = None
    instance_type: str | None = None
    gpus: int | None = None
    vram_gib: float | None = None
    region: str | None = None
    zone: str | None = None


@dataclass(frozen=True)
class Wanted:
    """A node whose price is asked for; place: its zone or region; gpus: 0 for a node without one."""

    card: str | None
    instance_type: str | None
    market: Market
    place: str | None
    gpus: int
    vram_gib: float | None

    def __str__(self) -> str:
        cards = f"{self.gpus} × {self.card}" if self.gpus else f"card {self.card}"
        name = f"instance type {self.instance_type}, {cards}" if self.instance_type else cards
        return f"{name}, {self.market}{f', {self.place}' if self.place else ''}"


@dataclass(frozen=True)
class PriceList:
    """The offers of one file, found by instance type and by card.

    is_typical: of what cards cost somewhere, which says nothing of a machine that is known by name.
    """

    name: str
    currency: str
    offers: tuple[Offer, ...]
    is_typical: bool = False
    _by_instance: dict[str, list[Offer]] = field(init=False, repr=False, compare=False, default_factory=dict)
    _by_card: dict[str, list[Offer]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        for offer in self.offers:
            if offer.instance_type is not None:
                self._by_instance.setdefault(offer.instance_type.lower(), []).append(offer)
            if offer.card is not None:
                self._by_card.setdefault(plain_card(offer.card), []).append(offer)

    def matching(self, wanted: Wanted) -> list[Offer]:
        """The offers that hold for a node, the closest only; several where what is known does not tell them apart."""
        named = self._by_instance.get((wanted.instance_type or "").lower(), [])
        found = [offer for offer in named if _is_there(offer, wanted)]
        if self.is_typical and wanted.instance_type is not None:
            return []
        if not found and wanted.card is not None:
            cards = self._by_card.get(plain_card(wanted.card), [])
            found = [offer for offer in cards if _is_card_of(offer, wanted) and _is_there(offer, wanted)]
        best = max((_closeness(offer, wanted) for offer in found), default=None)
        return [offer for offer in found if _closeness(offer, wanted) == best]


@dataclass(frozen=True)
class PriceTable:
    """All prices of a run, all in one currency: the first list that has any for a node decides."""

    lists: tuple[PriceList, ...] = ()
    unused: tuple[str, ...] = ()

    @property
    def currency(self) -> str:
        """Of all prices."""
        return self.lists[0].currency if self.lists else "USD"

    def find(
        self,
        card: str | None,
        instance_type: str | None,
        market: str | None,
        place: str | None,
        gpus: int,
        vram_gib: float | None = None,
    ) -> NodePrice | str:
        """What the whole node costs an hour, or why that is not known.

        card: as Ray names it, "cpu" for none; market: "spot", "on_demand" or "on-demand", None = on demand; place: zone
        or region; gpus: cards of the node, each of vram_gib.
        """
        known = _MARKETS.get((market or "on_demand").strip().lower())
        if known is None:
            return f"market {market!r} is neither spot nor on-demand: correct the label {MARKET_LABEL}"
        wanted = Wanted(card, instance_type, known, place, gpus, vram_gib)
        for prices in self.lists:
            offers = prices.matching(wanted)
            if offers:
                return _one_price(offers, wanted, prices)
        also = f" ({'; '.join(self.unused)})" if self.unused else ""
        return f"no price for {wanted}: add one to a file of `prices`{also}"


def plain_card(name: str) -> str:
    """A card's name as it is compared: "NVIDIA GeForce RTX 3090", "GeForce-RTX-3090" and "RTX3090" are one."""
    name = _BRANDS.sub("", split_memory(name)[0].lower().replace("-", " ").replace("_", " "))
    return name.replace(" ", "")


def split_memory(name: str) -> tuple[str, int | None]:
    """ "A100-80GB" into the card and the GiB of its memory."""
    suffix = _MEMORY_SUFFIX.search(name)
    return (name, None) if suffix is None else (name[: suffix.start()], int(suffix[1]))


def market_of(text: str) -> Market | None:
    """The market of a label or a field, however it is written; None where it is neither."""
    return _MARKETS.get(text.strip().lower())


def _is_there(offer: Offer, wanted: Wanted) -> bool:
    if offer.price.market != wanted.market:
        return False
    if wanted.place is None or (offer.region is None and offer.zone is None):
        return True
    return wanted.place in (offer.zone, offer.region) or (offer.zone is None and _is_zone(wanted.place, offer.region))


def _is_zone(place: str, region: str | None) -> bool:
    return region is not None and place.startswith(region) and bool(_ZONE.fullmatch(place[len(region) :]))


def _is_card_of(offer: Offer, wanted: Wanted) -> bool:
    """Whether an offer for a card, or for machines with it, holds for a node of another or no instance type."""
    if offer.instance_type is not None and wanted.instance_type is not None:
        return False
    if offer.gpus is not None and offer.gpus != wanted.gpus:
        return False
    vram = split_memory(wanted.card or "")[1] if wanted.vram_gib is None else wanted.vram_gib
    return offer.vram_gib is None or vram is None or abs(offer.vram_gib - vram) <= MEMORY_TOLERANCE * vram


def _closeness(offer: Offer, wanted: Wanted) -> tuple[int, int]:
    """Memory first, then place; where less is known of the node, prices that hold in more places come first."""
    breadth = 2 - (offer.region is not None) - (offer.zone is not None)
    if wanted.place is not None and breadth < 2:
        breadth = 5 if offer.zone == wanted.place else 4 if offer.zone is None else 3
    return int(wanted.vram_gib is not None and offer.vram_gib is not None), breadth


def _one_price(offers: Sequence[Offer], wanted: Wanted, prices: PriceList) -> NodePrice | str:
    of_node = {_of_node(offer, wanted): offer for offer in offers}
    if len(of_node) > 1:
        least, most = min(of_node), max(of_node)
        remedy = _remedy(offers, wanted)
        return f"{prices.name} has several prices for {wanted}, {least} to {most} {prices.currency}/h: {remedy}"
    per_hour, offer = of_node.popitem()
    return NodePrice(per_hour, offer.price.currency, offer.price.market, offer.price.source)


def _of_node(offer: Offer, wanted: Wanted) -> Decimal:
    return offer.price.per_hour * max(1, wanted.gpus) if offer.price.per == "gpu" else offer.price.per_hour


def _remedy(offers: Sequence[Offer], wanted: Wanted) -> str:
    """The labels that would tell the offers apart."""
    labels = []
    if wanted.instance_type is None and len({offer.instance_type for offer in offers}) > 1:
        labels.append(INSTANCE_LABEL)
    if wanted.vram_gib is None and len({offer.vram_gib for offer in offers}) > 1:
        labels.append(VRAM_LABEL)
    if len({(offer.region, offer.zone) for offer in offers}) > 1:
        labels.append(ZONE_LABEL)
    return f"give the node the label {' and '.join(labels)}" if labels else "leave one of them"
