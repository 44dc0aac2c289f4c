"""How the cluster is shown: a table for the width of the terminal, lines by kind of node, JSON."""

import io
import json
from typing import Any

import pytest
from loads import RAM_PLUS, facts_of, gpu, node
from rich.console import Console

from pipeline.cards.profiles import load_profiles
from pipeline.cards.slot_policy import SlotPolicy
from pipeline.config import load_config
from pipeline.fleet.cluster import ClusterShape
from pipeline.fleet.table import fleet_document, fleet_lines, fleet_rows, fleet_table


def shape_of(nodes: list[dict[str, Any]], **facts: Any) -> ClusterShape:
    policy = SlotPolicy("cuda", RAM_PLUS, "fp16", "auto", load_profiles())
    return ClusterShape([], policy, nodes, facts_of(nodes, **facts), []).computing_in("fp16", load_config())


@pytest.fixture
def mixed() -> ClusterShape:
    """Two T4s, an A100, a card that is too small, one of unknown speed, and a node without a card."""
    nodes = [
        node("t4-1", 8, gpus=1, card="T4", memory_gib=64),
        node("t4-2", 8, gpus=1, card="T4", memory_gib=64),
        node("a100", 16, gpus=2, card="A100", memory_gib=128),
        node("small", 4, gpus=1, card="T4", labels={"ramfleet/vram-gib": "1"}),
        node("cpus", 32),
    ]
    return shape_of(nodes)


def shown(shape: ClusterShape, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*fleet_table(shape, width), sep="\n")
    return console.file.getvalue()


def test_shares_add_up_and_follow_the_speeds(mixed: ClusterShape) -> None:
    """Fast nodes first; what does no work has no share."""
    rows = fleet_rows(mixed)
    assert [row.node_id for row in rows] == ["a100", "t4-1", "t4-2", "cpus", "small"]
    assert sum(row.share or 0 for row in rows) == pytest.approx(1)
    assert rows[1].share == pytest.approx(rows[1].images_per_s / sum(row.images_per_s or 0 for row in rows))
    assert [row.decode_cpus for row in rows] == [16, 8, 8, 32, 4]


def test_a_speed_that_is_not_known_leaves_all_shares_open() -> None:
    """Slices of cards have none, so that nobody's share can be said; the table says so."""
    nodes = [node("slice", 8, gpus=1, card="A100", memory_gib=64), node("t4", 8, gpus=1, card="T4", memory_gib=64)]
    shape = shape_of(nodes)
    facts = {**shape.facts, **facts_of(nodes[:1], gpus=(gpu("NVIDIA A100-SXM4-40GB", 9.75, mig=True),))}
    shape = ClusterShape([], shape.policy, nodes, facts, []).computing_in("fp16", load_config())
    assert {row.share for row in fleet_rows(shape)} == {None}
    assert "? not known; the run learns it." in shown(shape, 100)


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits_the_terminal(mixed: ClusterShape, width: int) -> None:
    """Every line within the width, cards and reasons readable; a wide one has node ids and fractions too."""
    text = shown(mixed, width)
    assert max(map(len, text.splitlines())) <= width
    assert "2 × A100" in text
    assert ("0.5 GPU" in text) == (width == 140)
    assert "not used: T4 on host-small" in text


def test_a_run_shows_a_line_for_each_kind_of_node(mixed: ClusterShape) -> None:
    """Nodes that are alike are counted."""
    lines = [line.plain for line in fleet_lines(mixed)]
    assert len(lines) == 5
    assert lines[0].startswith("1 node(s) with 2 × A100 of 40 GiB: 4 replica(s) of 0.5 GPU, fp16, micro-batch ")
    assert lines[1].startswith("2 node(s) with T4 of 16 GiB: 4 replica(s) of 0.5 GPU, ")
    assert "images/s at most (" in lines[1]
    assert lines[2] == "1 node(s) with CPUs only: 32 CPU(s) for decoding"
    assert lines[4].startswith("not used: T4 on host-small (small): 1 replica(s) in fp16 with micro-batch 1 need ")


def test_json_has_all_of_it(mixed: ClusterShape) -> None:
    """Plain values: a row for each node, what is unusable and why."""
    document = json.loads(json.dumps(fleet_document(mixed)))
    assert document["replicas"] == sum(row["replicas"] for row in document["nodes"]) == 8
    assert document["decode_cpus"] == 68
    assert document["dtype"] == "fp16"
    assert [item["node_id"] for item in document["unusable"]] == ["small"]


def test_no_more_than_max_replicas_are_shown(mixed: ClusterShape) -> None:
    """fleet.max_replicas counts for the whole cluster."""
    few = mixed.computing_in("fp16", load_config(None, ["fleet.max_replicas=3"]))
    assert sum(row.replicas for row in fleet_rows(few)) == 3
