"""docs/benchmark-167-nodes.md is what its script writes from its assumptions."""

import yaml
from bench import nodes167

STUDY = nodes167.Study(yaml.safe_load(nodes167.ASSUMED.read_text(encoding="utf-8")))
PAGE = nodes167.PAGE.read_text(encoding="utf-8")


def test_the_page_is_up_to_date() -> None:
    """Word for word, but for what the solver and the simulation make; `python -m tests.bench.nodes167` writes it."""
    for part in (nodes167.introduction, nodes167.cards, nodes167.conditions, nodes167.assumptions):
        assert part(STUDY) in PAGE


def test_the_fleet_is_that_of_the_study() -> None:
    """167 nodes of 19 card types, each with a price of its own."""
    market = STUDY.market(4585)
    assert sum(rental.offer.most_nodes for rental in market.rentals) == STUDY.published["nodes"]
    assert len(market.rentals) == STUDY.published["card_types"]
    assert {rental.speed.basis for rental in market.rentals} == {"modelled"}


def test_it_says_that_nothing_was_measured() -> None:
    """In its first lines."""
    assert "not measured a single figure of a GPU" in " ".join(PAGE.split())
