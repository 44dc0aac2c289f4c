"""What a run's time and money went into: exact, on any set of intervals."""

from collections import Counter
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.costs.ledger import RUN, SPLITS, Done, Ledger, LedgerRow, NodeCost, Span, Stay, build_ledger

HORIZON_MS = 60
H_MS = 3_600_000


@st.composite
def intervals(draw: st.DrawFn) -> tuple[int, int]:
    start = draw(st.integers(0, HORIZON_MS))
    return start, draw(st.integers(start, HORIZON_MS))


@st.composite
def accounts(draw: st.DrawFn) -> tuple[list[NodeCost], list[Stay], list[Span], list[Done]]:
    """Nodes of one to three cards with any stays and any spans, also such as lie outside the stays."""
    nodes, stays, spans, done = [], [], [], []
    for number in range(draw(st.integers(1, 4))):
        cards = draw(st.integers(1, 3))
        price = draw(st.none() | st.decimals("0", "40", places=4))
        limit = draw(st.none() | st.floats(1, 1000))
        kind = draw(st.sampled_from(["a", "b"]))
        node = NodeCost(f"n{number}", kind, kind, cards, cards, price, "list", "none", limit)
        nodes.append(node)
        stays += [Stay(node.node_id, *draw(intervals())) for _ in range(draw(st.integers(0, 3)))]
        for _ in range(draw(st.integers(0, 8))):
            lane, split = draw(st.integers(0, cards - 1)), draw(st.sampled_from(SPLITS[:-1]))
            spans.append(Span(node.node_id, lane, split, *draw(intervals())))
        done.append(Done(node.node_id, draw(st.integers(0, 9)), draw(st.integers(0, 9))))
    done.append(Done(None, 0, draw(st.integers(0, 9))))
    return nodes, stays, spans, done


def every_moment(node: NodeCost, stays: list[Stay], spans: list[Span]) -> Counter[str]:
    """Milliseconds of all cards of a node by split, one millisecond after the other."""
    found = Counter[str]()
    for at in range(HORIZON_MS):
        if not any(stay.node_id == node.node_id and stay.start_ms <= at < stay.end_ms for stay in stays):
            continue
        for lane in range(node.cards):
            holding = {s.split for s in spans if (s.node_id, s.lane) == (node.node_id, lane) and at in _ms_of(s)}
            found[min(holding, key=SPLITS.index, default="idle")] += 1
    return found


def _ms_of(span: Span) -> range:
    return range(span.start_ms, span.end_ms)


def all_rows(ledger: Ledger) -> list[LedgerRow]:
    return [*ledger.rows_by_node, *ledger.rows_by_type, ledger.run]


@pytest.mark.lengthy
@given(accounts())
def test_every_moment_belongs_to_one_split(account: tuple[list[NodeCost], list[Stay], list[Span], list[Done]]) -> None:
    """Each node's splits equal a count of every millisecond of every card."""
    nodes, stays, spans, done = account
    ledger = build_ledger(nodes, stays, spans, done, "USD")
    by_id = {row.key: row for row in ledger.rows_by_node}
    for node in nodes:
        found = every_moment(node, stays, spans)
        wanted = {split: Fraction(found[split], node.cards * 1000) for split in SPLITS}
        assert by_id[node.node_id].seconds == wanted


@pytest.mark.lengthy
@given(accounts())
def test_the_ledger_balances_exactly(account: tuple[list[NodeCost], list[Stay], list[Span], list[Done]]) -> None:
    """Σ node-seconds × price = Σ splits without any rounding, in every row and over the rows; nothing is negative."""
    nodes, stays, spans, done = account
    ledger = build_ledger(nodes, stays, spans, done, "USD")
    price = {node.node_id: node.per_hour for node in nodes}
    total = Fraction(0)
    for row in ledger.rows_by_node:
        per_hour = price[row.key]
        assert (row.cost is None) == (per_hour is None)
        if per_hour is not None:
            assert row.total_cost == row.node_seconds * Fraction(per_hour) / 3600
            total += row.total_cost
    assert (ledger.run.total_cost or 0) == total
    for row in all_rows(ledger):
        assert sum(row.seconds.values()) == row.node_seconds
        assert min(row.seconds.values()) >= 0
        assert row.elapsed_s <= row.node_seconds
        if row.dollars is not None:
            assert sum(row.dollars.values()) == row.total_dollars
            assert min(row.dollars.values()) >= 0
            assert abs(Fraction(row.total_dollars) - row.total_cost) < Fraction(1, 10**12)
    for name in ("tagged", "rejected", "node_seconds", "card_seconds", "busy_card_seconds", "gpus", "nodes"):
        of_types = sum(getattr(row, name) for row in ledger.rows_by_type)
        homeless = done[-1].rejected if name == "rejected" else 0
        assert sum(getattr(row, name) for row in ledger.rows_by_node) == of_types
        assert getattr(ledger.run, name) == of_types + homeless


def test_a_card_shared_by_replicas_is_busy_once() -> None:
    """Two replicas at the same time on one of two cards: half of the node, however many replicas."""
    spans = [Span("n", 1, "busy", 0, 600), Span("n", 1, "busy", 300, 1000), Span("n", 1, "load", 0, 2000)]
    (row,) = build_ledger([NodeCost("n", "t", "T4", 2, 2)], [Stay("n", 0, 4000)], spans, [], "USD").rows_by_node
    assert row.seconds["busy"] == Fraction(1, 2)
    assert row.seconds["load"] == Fraction(1, 2)
    assert row.seconds["idle"] == 3
    assert row.busy_card_seconds == 1


def test_the_figures_of_a_node() -> None:
    """An hour at 0.36 a node of two cards, busy half of the time: images per second, per dollar, of the limit."""
    node = NodeCost("n", "boxes", "T4", 2, 2, Decimal("0.36"), "list", limit_images_per_s=100.0)
    spans = [Span("n", lane, "busy", 0, H_MS // 2) for lane in (0, 1)]
    ledger = build_ledger([node], [Stay("n", 0, H_MS)], spans, [Done("n", 90_000, 10_000)], "EUR")
    row = ledger.run
    assert (row.key, row.node_type, row.card, row.price_per_hour) == (RUN, "boxes", "T4", Decimal("0.36"))
    assert row.dollars == dict.fromkeys(SPLITS, Decimal(0)) | {"busy": Decimal("0.18"), "idle": Decimal("0.18")}
    assert row.images_per_s == pytest.approx(25)
    assert row.throughput == pytest.approx(100_000 / 3600)
    assert row.images_per_dollar == pytest.approx(100_000 / 0.36)
    assert row.dollars_per_1000 == pytest.approx(0.0036)
    assert row.dollars_per_tagged == pytest.approx(0.36 / 90_000)
    assert row.gpu_hours == pytest.approx(2)
    assert row.share_of_limit == pytest.approx(0.25)
    assert (ledger.currency, ledger.price_sources, ledger.unpriced) == ("EUR", ("list",), ())


def test_nodes_without_a_price_are_said() -> None:
    """Money counts only nodes that have a price, with their own images; the others are named with the reason."""
    nodes = [NodeCost("a", "t4", "T4", per_hour=Decimal(1)), NodeCost("b", "cpus", "cpu", why_unpriced="no price")]
    stays = [Stay("a", 0, H_MS), Stay("b", 0, H_MS)]
    ledger = build_ledger(nodes, stays, [], [Done("a", 100), Done("b", 900)], "USD")
    assert ledger.unpriced == ("1 × cpus: no price",)
    assert ledger.run.total_dollars == 1
    assert ledger.run.images_per_dollar == pytest.approx(100)
    assert ledger.run.unpriced_seconds == 3600
    assert (ledger.run.price_per_hour, ledger.run.card) == (None, None)


def test_an_empty_run() -> None:
    """No node, no image: no figure, and no division by zero."""
    row = build_ledger([], [], [], [], "USD").run
    assert (row.images, row.images_per_s, row.throughput, row.images_per_dollar, row.dollars) == (
        0,
        None,
        None,
        None,
        None,
    )
    free = build_ledger([NodeCost("n", "t", "T4", per_hour=Decimal(0))], [], [], [Done("n", 1)], "USD").run
    assert (free.total_dollars, free.images_per_dollar, free.dollars_per_1000) == (0, None, 0)


@pytest.mark.parametrize("span", [Span("n", 1, "busy", 0, 1), Span("n", -1, "busy", 0, 1), Span("m", 0, "busy", 0, 1)])
def test_spans_of_nothing_are_refused(span: Span) -> None:
    """A card that the node does not have, a node that is not there."""
    with pytest.raises(ValueError, match=r"card|among"):
        build_ledger([NodeCost("n", "t", "T4")], [], [span], [], "USD")
