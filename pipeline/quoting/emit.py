"""The chosen nodes as a fleet file: quoting it predicts this very mix."""

from pipeline.quoting.answer import Quote
from pipeline.quoting.fleet_file import FleetFile, chosen_fleet, dump_fleet
from pipeline.quoting.groups import commented, plan_of_quote


def fleet_yaml(quote: Quote) -> str:
    """A fleet file of exactly the chosen nodes, under the same assumptions."""
    offers = tuple(line.rental.offer for line in quote.lines)
    whole = FleetFile(nodes=offers, assumptions=quote.market.assumptions)
    text = dump_fleet(chosen_fleet(whole, [(line.rental.name, line.nodes) for line in quote.lines]))
    return commented(plan_of_quote(quote), text)
