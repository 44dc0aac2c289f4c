"""The published benchmark of 167 nodes and 19 card types, as a quote would predict it for RamFleet.

    python -m tests.bench.nodes167

writes docs/benchmark-167-nodes.md from the assumptions in docs/benchmark-167-nodes.yaml. Nothing is measured here.
"""

import inspect
import itertools
import random
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pipeline.cards.profiles import load_profiles
from pipeline.cards.sizing import load_of, modelled_images_per_s
from pipeline.costs.price_files import parse_yaml
from pipeline.costs.prices import PriceTable
from pipeline.quoting.answer import Wish, hours, money
from pipeline.quoting.fleet_file import Assumptions, FleetFile, NodeOffer
from pipeline.quoting.quote import make_quote
from pipeline.quoting.rentals import Market, drawn_factors, kind_of, open_market
from pipeline.quoting.simulate import SPLITS, Job, SimulatedRun, simulate
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
    sections = (introduction, cards, whole_fleet, rented, conditions, assumptions)
    return "\n\n".join(section(study) for section in sections) + "\n"


def introduction(study: Study) -> str:
    """What was published, and what is predicted."""
    p = study.published
    card, known = _plain(p["card"]), _k(p["images_per_dollar"])
    low, high = p["images_per_s"]
    lines = []
    for tags in study.assumed["tags"]:
        same = _span(_of_card(study, tags, p["card"]))
        best, best_range = _best(study, tags)
        lines.append(f"- {tags:,} tags: {same} images/$ on {card}; the best of all is {best}, {_span(best_range)}")
    return _prose(
        "# 167 nodes, 19 card types: the published benchmark, predicted for RamFleet",
        """Written by `python -m tests.bench.nodes167` from `docs/benchmark-167-nodes.yaml`. **This is a prediction.
        This project has not measured a single figure of a GPU.**""",
        f"""Published, by SaladCloud: {p["nodes"]} nodes with {p["card_types"]} types of consumer cards tagged
        {p["images"]:,} images; the best, {card}, did {known} images/$. The code that was published with it ran
        {p["tags"]} tags in {p["dtype"]} with one image at a time, each in under {p["longest_ms_per_image"]} ms:
        {low} to {high} images/s of a card.""",
        "Predicted here for a card at full work, never idle, by the number of tags:",
        "\n".join(lines),
        """That is no race: the published figure was measured, with all that happens on private machines; ours is what a
        card should do in 16 bit with full micro-batches, at prices written down from memory. With start, model load and
        idle time included the fleet does far less for a dollar: see below.""",
    )


def cards(study: Study) -> str:
    """A row for each card: model, expected range, images per dollar, for both vocabularies."""
    tags = study.assumed["tags"]
    markets = [study.market(n) for n in tags]
    head = "| card | $/h |" + "".join(f" model, {n:,} tags | expected | K images/$ |" for n in tags)
    rows = [head, "|---|--:|" + "--:|--:|--:|" * len(tags)]
    for pair in zip(*(market.rentals for market in markets), strict=True):
        cells = "".join(f" {_speed_cells(study, rental)} |" for rental in pair)
        rows.append(f"| {_plain(pair[0].name)} | {pair[0].dollars_per_hour:.2f} |{cells}")
    low, high = study.assumptions.modelled_share
    return _prose(
        "## Each card at full work",
        f"""images/s of one card. *model*: `pipeline/cards/sizing.py`, a ceiling from datasheet figures with guessed
        host constants; *expected*: {low:.0%} to {high:.0%} of it, no more than its node decodes; *K images/$*:
        thousands of images per dollar while it works, no start-up, load or idle time.""",
        "\n".join(rows),
    )


def whole_fleet(study: Study) -> str:
    """All nodes at once, as the study ran them."""
    columns = ("tags", "network", "time", "cost", "images/$", "work", "load", "idle", "preempted")
    rows = [f"| {' | '.join(columns)} |", "|--:|---|" + "--:|" * (len(columns) - 2)]
    slow = study.assumed["slow_link_mbit_s"]
    for tags in study.assumed["tags"]:
        rows.append(_fleet_row(study, tags, "no limit", study.market(tags)))
        rows.append(_fleet_row(study, tags, f"{slow} Mbit/s", study.market(tags, link_mbit_s=slow)))
    return _prose(
        f"## All {study.published['nodes']} nodes at once",
        f"""{study.job.images:,} images on {study.published["nodes"]} nodes, simulated {study.assumed["runs"]} times
        (discrete events, the project's own leasing policy; medians). Start-up is not billed here, loading is:""",
        "\n".join(rows),
        f"""So many nodes are far too many for so few images: most are still starting when the others are done, and what
        is paid is loading and waiting. Over a network of {slow} Mbit/s per node it is pixels that are waited for: where
        chunks queue, they are sent to whichever card is free, {study.job.pixel_bytes / 1000:.0f} KB per image.""",
    )


def rented(study: Study) -> str:
    """What a quote would rent instead."""
    deadline = study.assumed["deadline_hours"]
    rows = ["| tags | nodes | time | cost | images/$ |", "|--:|---|--:|--:|--:|"]
    for tags in study.assumed["tags"]:
        wish = Wish(study.job.images, deadline * 3600, runs=study.assumed["runs"], seed=study.assumed["seed"])
        quote = make_quote(wish, study.market(tags, exact=False), study.job)
        nodes = ", ".join(f"{line.nodes} × {_plain(line.rental.name)}" for line in quote.lines if line.nodes)
        cost = quote.dollars.middle
        figures = (hours(quote.seconds.middle), money(cost, "USD"), _k(study.job.images / cost))
        rows.append(f"| {tags:,} | {nodes} | {' | '.join(figures)} |")
    return _prose(
        "## What a quote rents instead",
        f"The cheapest mix of the same cards that is done within {deadline:g} h in nine of ten simulated runs:",
        "\n".join(rows),
    )


def conditions(study: Study) -> str:
    """What is measured, by whom, and what is modelled."""
    p, modelled = study.published, study.as_published()
    low, high = p["images_per_s"]
    card, known = _plain(p["card"]), p["images_per_dollar"]
    own = study.assumed["prices"][p["card"]]
    full = _full(study, p["tags"], p["card"])
    short = tuple(3600 / own * full * rate / modelled for rate in (low, high))
    told = {
        "measured by this project": "nothing of a GPU. On CPUs: the leasing policy, decoding, fetching (README)",
        "measured by others, as published": f"{_k(known)} images/$ on {card}, {p['nodes']} nodes, "
        f"{p['images']:,} images, under {p['longest_ms_per_image']} ms per image",
        "derived from that": f"{low} to {high} images/s of a card; so ${3600 * low / known:.3f} to "
        f"${3600 * high / known:.3f} an hour",
        "modelled": "images/s of every card: the makers' rates of arithmetic and memory, the model's work per image",
        "simulated": "time, cost, idle time and preemptions of the fleet",
        "assumed": "everything below, prices included",
    }
    return _prose(
        "## What is measured and what is modelled",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in told.items())]),
        f"""Under the published conditions ({p["tags"]} tags, {p["dtype"]}, one image at a time) the same model says
        {modelled:.0f} images/s for {card}, {modelled / high:.0f}
        to {modelled / low:.0f} times the {low} to {high} of
        that run, with its download, decoding and upload: a warning against taking the ceilings above for rates. At
        the price assumed here, ${own:.2f} an hour, that rate gives
        {_span([3600 * n / own for n in (low, high)])} images/$.""",
        f"""Were RamFleet to fall as far short of the model as that run did, it would do {_span(short)} images/$ on
        that card with {p["tags"]} tags. It fetches and decodes beside the card's work, which should make it better than
        that; only a measurement can tell.""",
    )


def assumptions(study: Study) -> str:
    """All of them, with their values."""
    assumed = study.assumed
    rows = []
    notes = _notes(Assumptions)
    for name, value in study.assumptions.model_dump().items():
        shown = f"{value[0]:g} … {value[1]:g}" if isinstance(value, tuple) else f"{value:g}"
        rows.append((f"`{name}`", shown, notes[name]))
    offer_notes = _notes(NodeOffer)
    rows += [(f"`{name}` of every node", value, offer_notes[name]) for name, value in assumed["every_node"].items()]
    counts = sorted({node["most_nodes"] for node in assumed["fleet"]["nodes"]})
    prices = sorted(assumed["prices"].values())
    rows += [
        ("card types", len(assumed["fleet"]["nodes"]), "which ones the study used was not found: cards of the table"),
        ("nodes of each", f"{counts[0]} or {counts[-1]}", "not found either: spread evenly"),
        ("prices", f"{prices[0]:.2f} … {prices[-1]:.2f} $/h", "from memory, not looked up; each is in the table above"),
        ("seed, runs", f"{assumed['seed']}, {assumed['runs']}", "of all that is drawn"),
        ("rows of a chunk", study.job.chunk_rows, "as a run would cut so many images for so many replicas"),
        ("pixels of an image", f"{study.job.pixel_bytes:,.0f} B", "384 × 384 × 3, uint8"),
    ]
    table = ["| assumption | value | |", "|---|---|---|", *(f"| {a} | {b} | {c} |" for a, b, c in rows)]
    return "## Every assumption\n\n" + "\n".join(table)


def _prose(*parts: str) -> str:
    """Paragraphs, filled to the width of the house; tables, lists and headings as they are."""
    filled = [
        part if part.startswith(("|", "-", "#")) else textwrap.fill(" ".join(part.split()), 120) for part in parts
    ]
    return "\n\n".join(filled)


def _best(study: Study, tags: int) -> tuple[str, tuple[float, float]]:
    """The card with the most images per dollar, and the range that is expected of it."""
    market = study.market(tags)
    ranges = {rental.name: _per_dollar(study, rental) for rental in market.rentals}
    card = max(ranges, key=lambda name: sum(ranges[name]))
    return _plain(card), ranges[card]


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
    for line, following in itertools.pairwise(lines):
        name, separator, _ = line.strip().partition(":")
        if separator and following.strip().startswith('"""') and name.isidentifier():
            notes[name] = following.strip().strip('"')
    return notes


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _k(value: float) -> str:
    return f"{value / 1e6:,.2f}M" if value >= 999_500 else f"{value / 1000:,.0f}K"


def _span(values: Sequence[float]) -> str:
    return f"{_k(values[0])} to {_k(values[1])}"


def _plain(name: str) -> str:
    return name.removeprefix("GeForce-").replace("-", " ")


if __name__ == "__main__":
    main()
