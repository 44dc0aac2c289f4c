"""What nodes cost: own prices, SkyPilot's catalogues, the table that comes with the package."""

import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cards.profiles import load_profiles
from pipeline.costs.price_files import CSV_COLUMNS, load_prices, parse_csv, parse_yaml, shipped_prices
from pipeline.costs.prices import NodePrice, PriceTable, plain_card
from pipeline.errors import ConfigError

HEADER = ",".join(CSV_COLUMNS)
MEMORY = "\"{'Gpus': [{'Name': 'A100', 'Count': 8.0, 'MemoryInfo': {'SizeInMiB': 40960}}]}\""
CATALOGUE = f"""{HEADER}
p4d.24xlarge,A100,8.0,96.0,1152.0,us-east-1,9.83,32.7726,us-east-1a,{MEMORY}
p4d.24xlarge,A100,8.0,96.0,1152.0,us-east-1,11.02,32.7726,us-east-1b,{MEMORY}
p4d.24xlarge,A100,8.0,96.0,1152.0,eu-west-1,,35.3966,eu-west-1a,{MEMORY}
p4de.24xlarge,A100-80GB,8.0,96.0,1152.0,us-east-1,,40.9657,us-east-1a,
g6.xlarge,L4,1.0,4.0,16.0,us-east-1,0.31,0.8048,us-east-1a,
g6.2xlarge,L4,1.0,8.0,32.0,us-east-1,0.35,0.9776,us-east-1a,
m5.large,,,2.0,8.0,us-east-1,0.04,0.096,us-east-1a,
"""


def table(*lists: str) -> PriceTable:
    return PriceTable(tuple(parse_yaml(text, "own.yaml") for text in lists))


@pytest.fixture
def catalogue() -> PriceTable:
    return PriceTable((parse_csv(CATALOGUE, "aws.csv"),))


def dollars(found: NodePrice | str) -> str:
    assert isinstance(found, NodePrice), found
    return str(found.per_hour)


# ---- the table of the package ----


def test_the_table_of_the_package_is_dated_and_of_known_cards() -> None:
    """Every figure says what it is, and when; each card is one that profiles know, with a memory that it has."""
    profiles = load_profiles().cards
    for offer in shipped_prices().offers:
        assert "2025" in offer.price.source
        assert "from memory" in offer.price.source
        known = [profile for profile in profiles if profile.card == offer.card]
        assert known, offer.card
        assert offer.vram_gib is None or offer.vram_gib in {profile.vram_gib for profile in known}


def test_memory_decides_between_cards_of_one_name() -> None:
    """An A100 has one price with 40 GB and another with 80; where its memory is not known it has none."""
    prices = load_prices(None)
    small, large = (prices.find("A100", None, None, None, 1, vram) for vram in (39.6, 79.2))
    assert isinstance(small, NodePrice)
    assert isinstance(large, NodePrice)
    assert small.per_hour < large.per_hour
    found = prices.find("A100", None, None, None, 1)
    assert isinstance(found, str)
    assert "ramfleet/vram-gib" in found


@pytest.mark.parametrize(
    ("card", "instance_type", "market"),
    [("cpu", None, None), ("T4", None, "spot"), ("T4", "g4dn.xlarge", None), ("Abacus", None, None)],
)
def test_what_the_table_does_not_have_is_said(card: str, instance_type: str | None, market: str | None) -> None:
    """No CPUs, no spot prices, no cloud machines by the price of cards elsewhere, no unknown cards."""
    prices = load_prices(None)
    found = prices.find(card, instance_type, market, None, 1)
    assert isinstance(found, str)
    assert card in found


# ---- own prices ----


@pytest.mark.parametrize("amount", ["0.20", "0.20 $/h", "$0.20/h", "0.20 USD/h", "0.20 usd"])
@pytest.mark.parametrize("name", ["RTX 3090", "GeForce-RTX-3090", "NVIDIA GeForce RTX 3090", "rtx3090"])
def test_a_line_for_a_card(name: str, amount: str) -> None:
    """However card and amount are written, it is the price of each card of a node, exactly, spot or not."""
    prices = table(f"{name}: {amount}\n")
    assert dollars(prices.find("GeForce-RTX-3090", None, "spot", None, 4)) == "0.80"
    assert dollars(prices.find("GeForce-RTX-3090", "box.large", None, "here", 1)) == "0.20"


def test_a_line_for_a_machine() -> None:
    """The same for an instance type is the price of the whole node."""
    assert dollars(table("p4d.24xlarge: 32.77\n").find("A100", "p4d.24xlarge", None, None, 8)) == "32.77"


def test_a_node_without_cards() -> None:
    """It is priced as one "cpu"."""
    assert dollars(table("cpu: 0.05\n").find("cpu", None, None, None, 0)) == "0.05"


def test_the_closest_price_wins() -> None:
    """Machine before card, zone before region before anywhere; a place that is not known takes what holds anywhere."""
    prices = table(
        """
        prices:
          - {card: L4, per_hour: 0.70}
          - {card: L4, per_hour: 0.60, region: us-central1}
          - {card: L4, per_hour: 0.50, zone: us-central1-a, region: us-central1}
          - {instance_type: g2-standard-4, per_hour: 0.65}
        """
    )
    places = {None: "0.70", "us-central1": "0.60", "us-central1-b": "0.60", "us-central1-a": "0.50", "eu": "0.70"}
    for place, price in places.items():
        assert dollars(prices.find("L4", None, None, place, 1)) == price, place
    assert dollars(prices.find("L4", "G2-standard-4", None, "us-central1-a", 1)) == "0.65"


def test_own_prices_win_and_later_files_before_earlier_ones(tmp_path: Path) -> None:
    """Behind them comes the table of the package."""
    for name, text in {"a.yaml": "T4: 9\nL4: 8\n", "b.yml": "T4: 7\n"}.items():
        (tmp_path / name).write_text(text)
    prices = load_prices([str(tmp_path / "a.yaml"), str(tmp_path / "b.yml")])
    assert [dollars(prices.find(card, None, None, None, 1)) for card in ("T4", "L4")] == ["7", "8"]
    assert prices.find("A10", None, None, None, 1) == load_prices(None).find("A10", None, None, None, 1)
    own = prices.find("T4", None, None, None, 1)
    assert isinstance(own, NodePrice)
    assert own.source.endswith("b.yml, line 1")


def test_currencies_are_never_mixed(tmp_path: Path) -> None:
    """Own prices in euros put the table in dollars out of use, which is said; two files have to agree."""
    (tmp_path / "e.yaml").write_text("currency: EUR\nprices:\n  T4: 0.3\n")
    (tmp_path / "d.yaml").write_text("L4: 0.3 $/h\n")
    prices = load_prices([str(tmp_path / "e.yaml")])
    assert prices.currency == "EUR"
    assert "USD" in str(prices.find("L4", None, None, None, 1))
    with pytest.raises(ConfigError, match=r"d\.yaml in USD.*one currency"):
        load_prices([str(tmp_path / "e.yaml"), str(tmp_path / "d.yaml")])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("RTX 3090: cheap", "line 1: per_hour='cheap': write an amount"),
        ("currency: USD\nT4: -0.1", "line 2: per_hour='-0.1'"),
        ("T4: nan", "per_hour='nan'"),
        ("T4:", "per_hour=''"),
        ("T4: $0.1 €", r"per_hour='\$0.1 €'"),
        ("T4: 0.3 $/h\nL4: 0.3 €/h", "EUR and USD: give all in one currency"),
        ("currency: dollars\nT4: 1", "line 1: currency='dollars': write three letters"),
        ("prices:\n  - {card: T4, per_hour: 1, gpu: 2}", "line 2: gpu='2': unknown field; known: card"),
        ("prices:\n  - {per_hour: 1}", "line 2: card=None: name a card or an instance_type"),
        ("prices:\n  - card: T4\n    per_hour: 1\n    market: often", "line 4: market='often': write on_demand or"),
        ("prices:\n  - {card: T4, per_hour: 1, per: node}", "per='node': write gpu or instance"),
        ("prices:\n  - {card: T4, per_hour: 1, vram_gib: big}", "vram_gib='big': write a number"),
        ("prices:\n  - T4", "line 2: write an entry like"),
        ("prices: 3", "line 1: prices: write a list"),
        ("prices: {T4: 1}\nT4: 2", "line 2: 'T4': unknown key"),
        ("T4: [1, 2]", "line 1: a single value is wanted"),
        ("- T4", "write `prices:`"),
        ("", "write `prices:`"),
        ("{}", "there is no price in it"),
        ("T4: [1", "not YAML"),
    ],
)
def test_wrong_yaml_is_refused_by_line_field_and_value(text: str, wanted: str) -> None:
    """One line that says what to write instead."""
    with pytest.raises(ConfigError, match=wanted) as caught:
        parse_yaml(text, "own.yaml")
    assert str(caught.value).startswith("prices=own.yaml")
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Missing ones, and such as are no text."""
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"none\.csv: No such file"):
        load_prices([str(tmp_path / "none.csv")])
    with pytest.raises(ConfigError, match=r"x\.csv: not UTF-8"):
        load_prices([str(tmp_path / "x.csv")])


# ---- catalogues ----


def test_a_machine_by_its_zone_and_market(catalogue: PriceTable) -> None:
    """On-demand and spot prices of the whole machine, whatever the node's cards."""
    assert dollars(catalogue.find("A100", "p4d.24xlarge", "on-demand", "us-east-1b", 8)) == "32.7726"
    assert dollars(catalogue.find("A100", "p4d.24xlarge", "spot", "us-east-1b", 8)) == "11.02"
    assert dollars(catalogue.find("A100", "p4d.24xlarge", None, "us-east-1", 8)) == "32.7726"
    assert dollars(catalogue.find("cpu", "m5.large", None, "us-east-1a", 0)) == "0.096"


def test_what_is_not_known_of_a_node_is_not_guessed(catalogue: PriceTable) -> None:
    """Several prices would do: no price, and the label that is missing; an empty field is no price of nothing."""
    assert "ray.io/availability-zone" in str(catalogue.find("A100", "p4d.24xlarge", None, None, 8))
    assert "ramfleet/instance-type" in str(catalogue.find("L4", None, None, "us-east-1a", 1))
    assert "no price" in str(catalogue.find("A100", "p4d.24xlarge", "spot", "eu-west-1a", 8))
    assert "no price" in str(catalogue.find("A100", "p5.48xlarge", None, "us-east-1a", 8))
    assert "no price" in str(catalogue.find("A100", None, None, "us-east-1a", 4, 40))
    assert "neither spot" in str(catalogue.find("L4", None, "often", None, 1))


def test_memory_tells_machines_of_one_card_apart(catalogue: PriceTable) -> None:
    """By GpuInfo, or by the name of the accelerator."""
    assert dollars(catalogue.find("A100", None, None, "us-east-1a", 8, 39.5)) == "32.7726"
    assert dollars(catalogue.find("A100", None, None, "us-east-1a", 8, 79.2)) == "40.9657"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "line 1: column InstanceType, AcceleratorName"),
        ("InstanceType,Price\nx,1", "line 1: column AcceleratorName, AcceleratorCount is missing; the header is"),
        (HEADER, "no row with a Price"),
        (f"{HEADER}\nx,L4,1,4,16,r,,0.8$,z,", r"line 2: Price='0.8\$': write an amount"),
        (f"{HEADER}\nx,L4,1,4,16,r,-1,,z,", "line 2: SpotPrice='-1'"),
        (f"{HEADER}\nx,L4,one,4,16,r,,1,z,", "line 2: AcceleratorCount='one'"),
        (f"{HEADER}\nx,L4,,4,16,r,,1,z,", "AcceleratorCount='': write how many"),
        (f"{HEADER}\n,,,4,16,r,,1,z,", "InstanceType='': name the machine"),
        (f"{HEADER}\nx,L4,1,4,16,r,,1,z,,,", "line 2: more fields than the header"),
    ],
)
def test_wrong_catalogues_are_refused_by_line_field_and_value(text: str, wanted: str) -> None:
    """One line that says what to write instead."""
    with pytest.raises(ConfigError, match=wanted) as caught:
        parse_csv(text, "aws.csv")
    assert str(caught.value).startswith("prices=aws.csv")


@given(st.text(max_size=200))
def test_no_text_breaks_the_readers(text: str) -> None:
    """Whatever is in a file: prices, or a ConfigError in one line."""
    for parse in (parse_yaml, parse_csv):
        try:
            said = str(parse(text, "any").offers)
        except ConfigError as error:
            said = str(error)
        assert said
        assert "\n" not in said


def test_a_table_travels(catalogue: PriceTable) -> None:
    """It is sent to the Fleet."""
    again = pickle.loads(pickle.dumps(catalogue))
    assert again.find("A100", "p4d.24xlarge", "spot", "us-east-1b", 8) == catalogue.find(
        "A100", "p4d.24xlarge", "spot", "us-east-1b", 8
    )


def test_names_of_cards() -> None:
    """Ray's, SkyPilot's and the driver's names of one card are one; different cards stay apart."""
    assert plain_card("GeForce-RTX-4070-Ti-SUPER") == plain_card("RTX 4070 Ti SUPER")
    assert plain_card("A100-80GB") == plain_card("A100")
    assert (
        len({plain_card(name) for name in ("L40", "L40S", "L4", "A10", "A10G", "A100", "RTX 4070", "RTX4070Ti")}) == 8
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("currency: EUR\nT4: 0.2 $/h", "line 2: per_hour='0.2 $/h': it is in USD here, and currency says EUR"),
        ("prices: [{card: T4, per_hour: 0.2 €/h, currency: USD}]", "it is in EUR here, and currency says USD"),
        ("T4: 1\nT4: 2", "T4 is given twice, first in line 1"),
        ("T4: 1e400", "per_hour='1e400': write an amount per hour"),
        ("T4: 1e-400", "per_hour='1e-400': write an amount per hour"),
        ("prices: [{card: T4, per_hour: 1, gpus: 1.5}]", "gpus='1.5': write a whole number"),
        ("prices: [{card: T4, per_hour: 1, gpus: 1e300}]", "gpus='1e300': write a number of 0 to 1,000,000"),
    ],
)
def test_amounts_that_mean_two_things_or_none_are_refused(text: str, said: str) -> None:
    """Field, value and remedy; nothing is chosen in silence."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_yaml(text, "own.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("g4,T4,1,4,16,us-east-1,0.1,0.5", "line 2: fewer fields than the header has; was it cut off?"),
        ('"g4,T4,1,4,16,us-east-1,0.1,0.5,a,', "line 2: not CSV: unexpected end of data"),
        ("g4,T4,1,4,16,us,0.1,0.5,a," + "x" * 200_000, "not CSV: field larger than field limit"),
    ],
)
def test_a_catalogue_that_was_cut_off_is_refused(text: str, said: str) -> None:
    """Half a price is no price."""
    with pytest.raises(ConfigError, match=re.escape(said)):
        parse_csv(",".join(CSV_COLUMNS) + "\n" + text, "own.csv")


def test_a_column_that_is_there_twice_is_refused() -> None:
    """One of the two prices would be lost."""
    with pytest.raises(ConfigError, match="line 1: column Price is there several times"):
        parse_csv("Price," + ",".join(CSV_COLUMNS) + "\n9,g4,T4,1,4,16,us,0.1,0.5,a,\n", "own.csv")
