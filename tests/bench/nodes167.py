"""The published benchmark of 167 nodes and 19 card types, as a quote would predict it for RamFleet.

    python -m tests.bench.nodes167

writes docs/benchmark-167-nodes.md from the assumptions in docs/benchmark-167-nodes.yaml. Nothing is measured here.
"""

import inspect
import random
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.card_profiles import load_profiles
from pipeline.fleet_file import Assumptions, FleetFile, NodeOffer
from pipeline.price_files import parse_yaml
from pipeline.prices import PriceTable
from pipeline.quote import Wish, hours, make_quote, money
from pipeline.rentals import Market, drawn_factors, kind_of, open_market
from pipeline.simulate import SPLITS, Job, SimulatedRun, simulate
from pipeline.sizing import load_of, modelled_images_per_s
from ramcore.config import ram_plus_preset

DOCS = Path(__file__).parents[2] / "docs"
ASSUMED = DOCS / "benchmark-167-nodes.yaml"
PAGE = DOCS / "benchmark-167-nodes.md"


class Study:
    """The assumptions, and what follows from them."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.assumed = document
        self.published = document["published"]
        self.assumptions = Assumptions.model_validate(document["fleet"]["assumptions"])
        self.job = Job(
            document["images"],
            chunk_rows=108,  # plan.chunk_rows=auto for so many images and replicas
            image_bytes=self.assumptions.image_kb * 1000,
            pixel_bytes=3 * ram_plus_preset().swin.image_size ** 2,
        )
        rows = [{"card": card, "per_hour": price} for card, price in document["prices"].items()]
        text = yaml.safe_dump({"currency": "USD", "prices": [row | {"source": "assumed"} for row in rows]})
        self._prices = PriceTable((parse_yaml(text, ASSUMED.name),))

    def market(self, tags: int, exact: bool = True, **every_node: Any) -> Market:
        """What can be rented. exact: all of the nodes, else as many of them as are wanted."""
        common = self.assumed["every_node"] | every_node | ({} if exact else {"least_nodes": 0})
        nodes = tuple(NodeOffer.model_validate(node | common) for node in self.assumed["fleet"]["nodes"])
        fleet = FleetFile(nodes=nodes, assumptions=self.assumptions)
        return open_market(fleet, self._prices, load_profiles(), load_of(ram_plus_preset(num_tags=tags)))

    def runs(self, market: Market) -> list[SimulatedRun]:
        """All nodes at once, several times; each time cards do another share of what is modelled for them."""
        found = []
        for seed in range(self.assumed["seed"], self.assumed["seed"] + self.assumed["runs"]):
            factors = drawn_factors(market.rentals, self.assumptions, random.Random(seed))
            kinds = [kind_of(r, self.assumptions, f) for r, f in zip(market.rentals, factors, strict=True)]
            counts = [rental.offer.most_nodes for rental in market.rentals]
            found.append(simulate(kinds, counts, self.job, self.assumptions, seed))
        return found

    def as_published(self) -> float:
        """Modelled images/s of the published card under the published conditions: fp32, one image at a time."""
        found, load = self.published, load_of(ram_plus_preset(num_tags=self.published["tags"]))
        profile = load_profiles().find(found["card"])
        if profile is None:
            raise ValueError(f"published.card={found['card']}: not in the profile table")
        return modelled_images_per_s(profile, load, found["dtype"], 1, found["batch"])


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(Study(yaml.safe_load(ASSUMED.read_text(encoding="utf-8")))), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")


def page(study: Study) -> str:
    """All of it, Markdown."""
    parts = [introduction(study), cards(study), whole_fleet(study), rented(study), conditions(study), assumptions(study)]
    return "\n\n".join(parts) + "\n"


def introduction(study: Study) -> str:
    p = study.published
    best = {tags: _best(study, tags) for tags in study.assumed["tags"]}
    same = {tags: _of_card(study, tags, p["card"]) for tags in study.assumed["tags"]}
    lines = "\n".join(
        f"- {tags:,} tags: {_k(same[tags][0])} to {_k(same[tags][1])} images/$ on {_plain(p['card'])}; the best of the 19 "
        f"types is {card}, {_k(low)} to {_k(high)}"
        for tags, (card, low, high) in best.items()
    )
    return f"""# 167 nodes, 19 card types: the published benchmark, predicted for RamFleet

Written by `python -m tests.bench.nodes167` from `docs/benchmark-167-nodes.yaml`. **This is a prediction. This project has
not measured a single figure of a GPU.**

Published, by SaladCloud: {p["nodes"]} nodes with {p["card_types"]} types of consumer cards tagged {p["images"]:,} images;
the best, {_plain(p["card"])}, did {_k(p["images_per_dollar"])} images/$. The code that was published with it ran {p["tags"]} tags
in {p["dtype"]} with one image at a time, each in under {p["longest_ms_per_image"]} ms: {p["images_per_s"][0]} to {p["images_per_s"][1]} images/s of a card.

Predicted here for a card at full work, never idle, by the number of tags:

{lines}

That is no race: the published figure was measured, with all that happens on private machines; ours is what a card should
do in 16 bit with full micro-batches, at prices written down from memory. With start, model load and idle time included the
fleet does far less for a dollar: see below."""


def cards(study: Study) -> str:
    """A row for each card: model, expected range, images per dollar, for both vocabularies."""
    tags = study.assumed["tags"]
    markets = [study.market(n) for n in tags]
    head = "| card | $/h |" + "".join(f" model, {n:,} tags | expected | K images/$ |" for n in tags)
    rows = [head, "|---|--:|" + "--:|--:|--:|" * len(tags)]
    for pair in zip(*(market.rentals for market in markets), strict=True):
        cells = "".join(f" {_speed_cells(study, rental)} |" for rental in pair)
        rows.append(f"| {_plain(pair[0].name)} | {pair[0].dollars_per_hour:.2f} |{cells}")
    left = "".join(
        f"\n{_plain(name)} with {n:,} tags is left out: {why}."
        for n, market in zip(tags, markets, strict=True)
        for name, why in market.left_out.items()
    )
    low, high = study.assumptions.modelled_share
    return f"""## Each card at full work

images/s of one card. *model*: `pipeline/sizing.py`, a ceiling from datasheet figures with guessed host constants;
*expected*: {low:.0%} to {high:.0%} of it, no more than its node decodes; *K images/$*: thousands of images per dollar while
it works, no start-up, load or idle time.

{chr(10).join(rows)}
{left}""".rstrip()


def whole_fleet(study: Study) -> str:
    """All nodes at once, as the study ran them."""
    rows = ["| tags | network | time | cost | images/$ | work | load | idle | preempted |", "|--:|---|--:|--:|--:|--:|--:|--:|--:|"]
    slow = study.assumed["slow_link_mbit_s"]
    for tags in study.assumed["tags"]:
        for name, limits in (("no limit", {}), (f"{slow} Mbit/s", {"link_mbit_s": slow})):
            market = study.market(tags, **limits)
            rows.append(_fleet_row(study, tags, name, market))
    return f"""## All 167 nodes at once

{study.job.images:,} images on {study.published["nodes"]} nodes, simulated {study.assumed["runs"]} times (discrete events, the
project's own leasing policy; medians):

{chr(10).join(rows)}

So many nodes are far too many for so few images: most are still starting when the others are done, and what is paid is
loading and waiting. Over a network of {slow} Mbit/s per node it is pixels that are waited for: where chunks queue, they are
sent to whichever card is free, {study.job.pixel_bytes / 1000:.0f} KB per image."""


def rented(study: Study) -> str:
    """What a quote would rent instead."""
    deadline = study.assumed["deadline_hours"]
    rows = ["| tags | nodes | time | cost | images/$ |", "|--:|---|--:|--:|--:|"]
    for tags in study.assumed["tags"]:
        wish = Wish(study.job.images, deadline * 3600, runs=study.assumed["runs"], seed=study.assumed["seed"])
        quote = make_quote(wish, study.market(tags, exact=False), study.job)
        nodes = ", ".join(f"{line.nodes} × {_plain(line.rental.name)}" for line in quote.lines if line.nodes)
        per_dollar = study.job.images / quote.dollars.middle
        rows.append(
            f"| {tags:,} | {nodes} | {hours(quote.seconds.middle)} | {money(quote.dollars.middle, 'USD')} | {_k(per_dollar)} |"
        )
    return f"""## What a quote rents instead

The cheapest mix of the same cards that is done within {deadline:g} h in nine of ten simulated runs:

{chr(10).join(rows)}"""


def conditions(study: Study) -> str:
    """What is measured, by whom, and what is modelled."""
    p, modelled = study.published, study.as_published()
    low, high = p["images_per_s"]
    price = tuple(3600 * rate / p["images_per_dollar"] for rate in (low, high))
    own = study.assumed["prices"][p["card"]]
    full = _full(study, p["tags"], p["card"])
    short = tuple(3600 / own * full * rate / modelled for rate in (low, high))
    return f"""## What is measured and what is modelled

| | |
|---|---|
| measured by this project | nothing of a GPU. On CPUs: the leasing policy (cards of any speed end together), decoding, fetching; README |
| measured by others, as published | {_k(p["images_per_dollar"])} images/$ on {_plain(p["card"])}, under {p["longest_ms_per_image"]} ms per image, {p["nodes"]} nodes, {p["images"]:,} images |
| derived from that | {low} to {high} images/s of a card; so a price of ${price[0]:.3f} to ${price[1]:.3f} an hour |
| modelled | images/s of every card, from the makers' rates of arithmetic and memory; operations and traffic of the model per image |
| simulated | time, cost, idle time, preemptions of the fleet |
| assumed | everything below, prices included |

Under the published conditions ({p["tags"]} tags, {p["dtype"]}, one image at a time) the same model says
{modelled:.0f} images/s for {_plain(p["card"])}, {modelled / high:.0f} to {modelled / low:.0f} times what was measured there with
download, decoding and upload: a warning against taking the ceilings above for rates. At the price assumed here, ${own:.2f}
an hour, the measured rate would give {_k(3600 * low / own)} to {_k(3600 * high / own)} images/$.

Were RamFleet to fall as far short of the model as that run did, it would do {_k(short[0])} to {_k(short[1])} images/$ on that
card with {p["tags"]} tags. It fetches and decodes beside the card's work, which should make it better than that; only a
measurement can tell."""


def assumptions(study: Study) -> str:
    """All of them, with their values."""
    assumed = study.assumed
    rows = ["| assumption | value | |", "|---|---|---|"]
    notes = _notes(Assumptions)
    for name, value in study.assumptions.model_dump().items():
        shown = f"{value[0]:g} … {value[1]:g}" if isinstance(value, tuple) else f"{value:g}"
        rows.append(f"| `{name}` | {shown} | {notes[name]} |")
    offer_notes = _notes(NodeOffer)
    rows += [f"| `{name}` of every node | {value} | {offer_notes[name]} |" for name, value in assumed["every_node"].items()]
    counts = sorted({node["most_nodes"] for node in assumed["fleet"]["nodes"]})
    rows += [
        f"| card types | {len(assumed['fleet']['nodes'])} | which ones the study used was not found: consumer cards of the table |",
        f"| nodes of each | {counts[0]} or {counts[-1]} | not found either: spread evenly |",
        f"| prices | above | {min(assumed['prices'].values()):.2f} to {max(assumed['prices'].values()):.2f} $/h, from memory, not looked up |",
        f"| seed, runs | {assumed['seed']}, {assumed['runs']} | of all that is drawn |",
        f"| rows of a chunk | {study.job.chunk_rows} | as a run would cut so many images for so many replicas |",
        f"| pixels of an image | {study.job.pixel_bytes:,.0f} B | 384 × 384 × 3, uint8 |",
    ]
    return "## Every assumption\n\n" + "\n".join(rows)


def _best(study: Study, tags: int) -> tuple[str, float, float]:
    """The card with the most images per dollar, and the range that is expected of it."""
    market = study.market(tags)
    ranges = {rental.name: _per_dollar(study, rental) for rental in market.rentals}
    card = max(ranges, key=lambda name: sum(ranges[name]))
    return _plain(card), *ranges[card]


def _of_card(study: Study, tags: int, card: str) -> tuple[float, float]:
    return next(_per_dollar(study, rental) for rental in study.market(tags).rentals if rental.name == card)


def _full(study: Study, tags: int, card: str) -> float:
    """Modelled images/s of a card as RamFleet would use it."""
    return next(r.speed.modelled or 0.0 for r in study.market(tags).rentals if r.name == card)


def _expected(study: Study, rental: Any) -> tuple[float, float]:
    supply = kind_of(rental, study.assumptions).supply_per_s or float("inf")
    low, high = (min(supply, share * rental.speed.modelled) for share in study.assumptions.modelled_share)
    return low, high


def _per_dollar(study: Study, rental: Any) -> tuple[float, float]:
    low, high = (3600 * rate / rental.dollars_per_hour for rate in _expected(study, rental))
    return low, high


def _speed_cells(study: Study, rental: Any) -> str:
    (low, high), (least, most) = _expected(study, rental), _per_dollar(study, rental)
    return f"{rental.speed.modelled:,.0f} | {low:,.0f}–{high:,.0f} | {least / 1000:,.0f}–{most / 1000:,.0f}"


def _fleet_row(study: Study, tags: int, network: str, market: Market) -> str:
    runs = study.runs(market)
    dollars = [
        sum(kind.paid_s / 3600 * r.dollars_per_hour for kind, r in zip(run.kinds, market.rentals, strict=True))
        for run in runs
    ]
    paid = sum(kind.paid_s for run in runs for kind in run.kinds)
    shares = {split: sum(kind.seconds[split] for run in runs for kind in run.kinds) / paid for split in SPLITS}
    cost = _middle(dollars)
    cells = (hours(_middle([run.seconds for run in runs])), money(cost, "USD"), _k(study.job.images / cost))
    parts = (f"{shares[split]:.0%}" for split in ("busy", "load", "idle", "preempted"))
    return f"| {tags:,} | {network} | {' | '.join(cells)} | {' | '.join(parts)} |"


def _notes(model: type) -> dict[str, str]:
    """The docstrings under the fields of a class."""
    notes, lines = {}, inspect.getsource(model).splitlines()
    for line, following in zip(lines, lines[1:], strict=False):
        name, separator, _ = line.strip().partition(":")
        if separator and following.strip().startswith('"""') and name.isidentifier():
            notes[name] = following.strip().strip('"')
    return notes


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _k(value: float) -> str:
    return f"{value / 1e6:,.2f}M" if value >= 999_500 else f"{value / 1000:,.0f}K"


def _plain(name: str) -> str:
    return name.removeprefix("GeForce-").replace("-", " ")


if __name__ == "__main__":
    main()
