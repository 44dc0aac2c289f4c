"""The integer program finds what trying everything finds."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.quoting import mix
from pipeline.quoting.mix import Mix, NodePlan, cheapest, evaluate, everything, fastest

IMAGES = 100_000


def plan(rate: float, price: float, most: int, least: int = 0, **other: float) -> NodePlan:
    """A node that does so many images/s for so many dollars an hour."""
    figures = {"supply_per_s": 1e6, "lead_s": 0.0, "unpaid_s": 0.0, "tail_s": 0.0} | other
    return NodePlan("node", rate, dollars_per_s=price / 3600, least=least, most=most, **figures)


OF_ALL_SPEEDS = [plan(101, 0.0625, 2, lead_s=1.0), plan(1, 1.0, 1)]
"""The dear node alone takes a hundred times as long as the cheapest mix: too long a horizon for the solver."""
SOLVED_WRONGLY = [
    plan(1, 4.0, 1, supply_per_s=1.0),
    plan(130, 2.0, 2, supply_per_s=162.5, lead_s=186.0),
    plan(122, 1.0, 1, supply_per_s=45.75, lead_s=69.0),
    plan(225, 1.75, 2, supply_per_s=450.0, lead_s=274.0),
]
"""With the time of the cheapest mix as its horizon, HiGHS calls a mix optimal that takes 7 % longer than need be."""


@st.composite
def plans(draw: st.DrawFn) -> list[NodePlan]:
    found = []
    tail = draw(st.sampled_from([0.0, 60.0]))
    for index in range(draw(st.integers(1, 4))):
        startup = draw(st.floats(0, 900))
        rate = draw(st.floats(1, 300))
        found.append(
            NodePlan(
                name=f"k{index}",
                images_per_s=rate,
                supply_per_s=rate * draw(st.floats(0.3, 3)),
                lead_s=startup + draw(st.floats(0, 200)),
                dollars_per_s=draw(st.floats(0.02, 5)) / 3600,
                unpaid_s=draw(st.sampled_from([0.0, startup])),
                tail_s=tail,
                least=0,
                most=draw(st.integers(1, 4)),
            )
        )
    return found


def tried(kinds: list[NodePlan]) -> list[Mix]:
    """Every mix."""
    return [evaluate(kinds, n, IMAGES) for n in itertools.product(*(range(p.most + 1) for p in kinds)) if any(n)]


@pytest.mark.lengthy
@example(OF_ALL_SPEEDS, 2.5)
@example(SOLVED_WRONGLY, 3.0)
@settings(deadline=None, max_examples=150)
@given(plans(), st.floats(1.0, 30))
def test_the_cheapest_mix_is_the_one_that_trying_all_finds(kinds: list[NodePlan], room: float) -> None:
    """Of all mixes that end in time, none is cheaper."""
    mixes = tried(kinds)
    deadline = room * min(mix.seconds for mix in mixes) + 1
    best = min(mix.dollars for mix in mixes if mix.seconds <= deadline)
    found = cheapest(kinds, IMAGES, deadline)
    assert found is not None
    assert found.seconds <= deadline * (1 + 1e-5)
    assert found.dollars == pytest.approx(best, rel=1e-4)
    assert found == evaluate(kinds, found.counts, IMAGES)


@pytest.mark.lengthy
@example(OF_ALL_SPEEDS, 1.0)
@example(SOLVED_WRONGLY, 3.5)
@settings(deadline=None, max_examples=100)
@given(plans(), st.floats(1.0, 5))
def test_the_fastest_mix_within_a_budget_is_the_one_that_trying_all_finds(kinds: list[NodePlan], room: float) -> None:
    """Of all mixes that cost at most so much, none is faster."""
    mixes = tried(kinds)
    budget = room * min(mix.dollars for mix in mixes) * 1.001
    best = min(mix.seconds for mix in mixes if mix.dollars <= budget)
    found = fastest(kinds, IMAGES, budget, 1e8)
    assert found is not None
    assert found.dollars <= budget * (1 + 1e-4)
    assert found.seconds == pytest.approx(best, rel=1e-3)


@given(plans())
def test_nothing_is_faster_than_everything(kinds: list[NodePlan]) -> None:
    """More nodes never slow a run down."""
    assert everything(kinds, IMAGES).seconds == pytest.approx(min(mix.seconds for mix in tried(kinds)))


def test_a_deadline_that_no_mix_meets_has_none() -> None:
    """All four nodes take 250 s."""
    kinds = [plan(100, 1, most=4)]
    assert cheapest(kinds, IMAGES, 249) is None
    assert cheapest(kinds, IMAGES, 251) is not None
    assert cheapest(kinds, IMAGES, 0) is None


def test_a_budget_that_no_mix_meets_has_none() -> None:
    """1,000 s of one dollar an hour cost 0.28."""
    assert fastest([plan(100, 1, most=4)], IMAGES, 0.27) is None
    found = fastest([plan(100, 1, most=4)], IMAGES, 0.28)
    assert found is not None
    assert found.counts == (4,)


def test_nodes_that_must_be_taken_are() -> None:
    """Though the others would do it for less."""
    found = cheapest([plan(10, 9, most=5, least=2), plan(100, 1, most=5)], IMAGES, 2000)
    assert found is not None
    assert found.counts[0] == 2


def test_decoding_that_is_too_slow_is_bought_beside_the_cards() -> None:
    """One node tags, the other only decodes for it: together they are done in time."""
    cards, cpus = plan(100, 1, most=1, supply_per_s=10.0), plan(1e-3, 0.1, most=20, supply_per_s=10.0)
    found = cheapest([cards, cpus], IMAGES, 1100)
    assert found is not None
    assert found.counts == (1, 9)


def test_a_mix_without_nodes_takes_for_ever() -> None:
    """And nothing that it costs would end it."""
    assert evaluate([plan(1, 1, most=1)], [0], IMAGES) == Mix((0,), math.inf, math.inf)


def test_two_hundred_nodes_of_nineteen_kinds() -> None:
    """A fleet of the size that people rent is solved, and near what its best cards alone would cost."""
    kinds = [plan(20 + 9 * i, 0.05 + 0.02 * (i % 7) * (i + 1), most=5 + i % 9, lead_s=345.0) for i in range(19)]
    least = everything(kinds, 10_000_000).seconds
    found = cheapest(kinds, 10_000_000, 3 * least)
    assert found is not None
    assert found.seconds <= 3 * least
    assert found.dollars < everything(kinds, 10_000_000).dollars


def test_an_answer_that_cannot_be_bettered_in_time_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where there is none at all is it an error."""
    kinds = [plan(101, 0.0625, 2, lead_s=1.0), plan(1, 1.0, 1)]
    solve, answered = mix.milp, [0]

    def slow_from(call: int) -> Callable[..., Any]:
        def milp(*arguments: Any, **options: Any) -> Any:
            answered[0] += 1
            result = solve(*arguments, **options)
            if answered[0] >= call:
                result.status = 1  # the time limit was reached
            return result

        return milp

    monkeypatch.setattr(mix, "milp", slow_from(2))
    found = cheapest(kinds, IMAGES, 1e8)
    assert found is not None
    assert found == evaluate(kinds, found.counts, IMAGES)
    assert answered[0] == 2
    monkeypatch.setattr(mix, "milp", slow_from(0))
    with pytest.raises(mix.SolverError, match="not solved in 60 s"):
        cheapest(kinds, IMAGES, 1e8)
