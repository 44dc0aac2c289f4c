"""The fleet file: what it holds comes back, what is wrong with it is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ConfigError
from pipeline.quoting.fleet_file import (
    Assumptions,
    FleetFile,
    NodeOffer,
    chosen_fleet,
    dump_fleet,
    load_fleet,
    parse_fleet,
)

OFFERS = st.builds(
    NodeOffer,
    card=st.sampled_from(["A10G", "GeForce-RTX-3090", "T4"]),
    instance_type=st.sampled_from([None, "g5.xlarge"]),
    gpus=st.integers(1, 8),
    most_nodes=st.integers(5, 50),
    least_nodes=st.integers(0, 5),
    market=st.sampled_from(["on_demand", "spot"]),
    preemptions_per_hour=st.floats(0, 5),
    cpus=st.one_of(st.none(), st.floats(1, 64)),
)


@pytest.mark.lengthy
@given(st.lists(OFFERS, min_size=1, max_size=4, unique_by=lambda offer: offer.label))
def test_what_is_written_reads_back(offers: list[NodeOffer]) -> None:
    """Any fleet, with its assumptions."""
    fleet = FleetFile(nodes=tuple(offers), assumptions=Assumptions(image_kb=99))
    assert parse_fleet(dump_fleet(fleet), "again") == fleet


def test_a_chosen_fleet_is_that_mix_and_no_other() -> None:
    """So many of each, at least and at most; those that were not chosen are gone."""
    fleet = FleetFile(nodes=(NodeOffer(card="T4", most_nodes=9), NodeOffer(card="A10G", most_nodes=9)))
    (left,) = chosen_fleet(fleet, [("T4", 0), ("A10G", 4)]).nodes
    assert (left.label, left.least_nodes, left.most_nodes) == ("A10G", 4, 4)


def test_all_faults_are_named_at_once() -> None:
    """Field, value, and what would be right."""
    text = """
        nodes:
          - {card: T4, most_nodes: 0}
          - {card: A10G, most_nodes: 3, makret: spot}
          - {most_nodes: 3}
        assumptions: {modelled_share: [0.9, 0.2]}
    """
    with pytest.raises(ConfigError) as caught:
        parse_fleet(text, "fleet=f.yaml")
    lines = str(caught.value).splitlines()
    assert "fleet=f.yaml: nodes.0.most_nodes=0: input should be greater than or equal to 1" in lines
    assert "fleet=f.yaml: nodes.1.makret='spot': unknown key (docs/quote.md has those that there are)" in lines
    assert "fleet=f.yaml: nodes.2: neither card nor instance_type is given: name one of them" in lines
    assert any("assumptions: modelled_share [0.9, 0.2] is no range up to 1" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no keys"),
        ("nodes: []", "nodes=[]"),
        ("nodes: [{card: T4, most_nodes: 1}, {card: T4, most_nodes: 2}]", "several nodes are called T4"),
        ("nodes: [{card: cpu, most_nodes: 1}]", "nothing tells the speed of a CPU"),
        ("nodes: [{card: T4, most_nodes: 1, least_nodes: 2}]", "least_nodes 2 is over most_nodes 1"),
        ("nodes: [{instance_type: g5.xlarge, most_nodes: 1}]", "its card is not given"),
        ("nodes: [", "not YAML"),
    ],
)
def test_a_wrong_file_says_so(text: str, said: str) -> None:
    """One line each."""
    with pytest.raises(ConfigError) as caught:
        parse_fleet(text, "fleet=f.yaml")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_says_so(tmp_path) -> None:
    """With its path."""
    with pytest.raises(ConfigError, match=r"fleet=.*none\.yaml: No such file"):
        load_fleet(tmp_path / "none.yaml")
