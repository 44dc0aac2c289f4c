"""Which nodes to rent: the cheapest mix that ends in time, and the fastest within a budget, as integer programs.

All nodes are rented until the run ends, so what a mix costs is its price per hour times its own duration: a product of
unknowns. It becomes linear, and stays exact, by writing numbers of nodes in binary: with z a binary digit and T the
duration, w = z·T is what w ≤ z·U, w ≤ T, w ≥ T + (z − 1)·U and w ≥ 0 say, for any T up to U (McCormick, 1976).

What the solver calls optimal may be a little off, the more so the larger U is; some programs it solves wrongly. So each
answer is tried to be bettered with the closer U that follows from it. Nodes that are taken in any case (`least`) count
from their lead_s and unpaid_s on even if the run ends before, so that next to such nodes a mix may not be the best.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from pipeline.errors import RunError

LONGEST_S = 90 * 86_400.0
"""No run is planned to take longer."""
_GAP = 1e-5
"""Relative distance from the optimum at which the solver may stop."""
_SOLVER_S = 60.0
_OPTIMAL, _INFEASIBLE = 0, 2


class SolverError(RunError):
    """The integer program was not solved; nothing is known of the optimum."""


@dataclass(frozen=True)
class NodePlan:
    """What one node is expected to do and to cost, preemptions included.

    images_per_s: of its cards, supply_per_s: what its CPUs decode, both from lead_s on; dollars_per_s: from unpaid_s
    on, and for tail_s behind the work, which is the same for all kinds. least, most: how many of them.
    """

    name: str
    images_per_s: float
    supply_per_s: float
    lead_s: float
    dollars_per_s: float
    unpaid_s: float
    tail_s: float
    least: int
    most: int


@dataclass(frozen=True)
class Mix:
    """So many nodes of each kind, with the seconds that the run takes and what it costs, as far as is expected."""

    counts: tuple[int, ...]
    seconds: float
    dollars: float

    @property
    def nodes(self) -> int:
        """All of them."""
        return sum(self.counts)


def evaluate(plans: Sequence[NodePlan], counts: Sequence[int], images: int) -> Mix:
    """Time and cost of a mix: cards and decoding each do their part from the moment that each node can.

    Without a node that can do anything it takes for ever: both are infinite.
    """
    used = [(plan, n) for plan, n in zip(plans, counts, strict=True) if n]
    on_cards = _filled([(plan.lead_s, n * plan.images_per_s) for plan, n in used], images)
    decoding = _filled([(plan.lead_s, n * plan.supply_per_s) for plan, n in used], images)
    work_s = max(on_cards, decoding)
    if math.isinf(work_s):
        return Mix(tuple(counts), math.inf, math.inf)
    dollars = sum(n * p.dollars_per_s * (max(0.0, work_s - p.unpaid_s) + p.tail_s) for p, n in used)
    return Mix(tuple(counts), work_s + max(plan.tail_s for plan, _ in used), dollars)


def everything(plans: Sequence[NodePlan], images: int) -> Mix:
    """The fastest mix whatever it costs: all nodes that are up before the others are done."""
    best = evaluate(plans, [plan.most for plan in plans], images)
    counts = [plan.most if plan.lead_s < best.seconds - plan.tail_s else plan.least for plan in plans]
    return evaluate(plans, counts, images)


def cheapest(plans: Sequence[NodePlan], images: int, within_s: float = LONGEST_S) -> Mix | None:
    """The cheapest mix that is done in so many seconds; None where there is none. Raises SolverError."""
    within_s = min(within_s, _longest(plans, images))
    best = _solved(plans, images, within_s, None)
    while best is not None and _affordable_s(plans, best.dollars) < within_s:
        within_s = _affordable_s(plans, best.dollars)
        found = _better(plans, images, within_s, None)
        if found is None or found.dollars >= best.dollars:
            break
        best = found
    return best


def fastest(plans: Sequence[NodePlan], images: int, budget: float, within_s: float = LONGEST_S) -> Mix | None:
    """The fastest mix that costs at most so much; None where there is none. Raises SolverError."""
    best = cheapest(plans, images, within_s)
    if best is None or best.dollars > budget:
        return None
    while (found := _better(plans, images, best.seconds, budget)) is not None and found.seconds < best.seconds:
        best = found
    return best


class _Program:
    """Variables: T / horizon; a binary digit z and its product w = z·T / horizon for each power of two of each kind."""

    def __init__(self, plans: Sequence[NodePlan], images: int, within_s: float) -> None:
        tail = max((plan.tail_s for plan in plans), default=0.0)
        self.horizon = within_s - tail
        self.digits = [(i, 2**k) for i, plan in enumerate(plans) for k in range((plan.most - plan.least).bit_length())]
        self.size = 1 + 2 * len(self.digits)
        self.dollars: dict[int, float] = {}
        self.fixed_dollars = 0.0
        self._entries: list[tuple[int, int, float]] = []
        self._low: list[float] = []
        self._high: list[float] = []
        if self.horizon > 0:
            self._build(plans, images)

    def solve(self, objective: Mapping[int, float], budget: float | None) -> tuple[int, list[int]]:
        """The solver's status, and the nodes of each kind above the least."""
        if budget is not None:
            most = budget - self.fixed_dollars
            scale = max(map(abs, self.dollars.values())) or 1.0
            self._row({column: value / scale for column, value in self.dollars.items()}, -math.inf, most / scale)
        costs = np.zeros(self.size)
        costs[list(objective)] = list(objective.values())
        integrality = np.zeros(self.size)
        integrality[1 : 1 + len(self.digits)] = 1
        rows, columns, values = zip(*self._entries, strict=True)
        matrix = coo_matrix((values, (rows, columns)), shape=(len(self._low), self.size)).tocsc()
        result = milp(
            costs,
            constraints=LinearConstraint(matrix, self._low, self._high),
            integrality=integrality,
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": _GAP, "time_limit": _SOLVER_S},
        )
        extra = [0] * (1 + max((i for i, _ in self.digits), default=0))
        if result.x is not None:
            for b, (i, weight) in enumerate(self.digits):
                extra[i] += weight * round(result.x[1 + b])
        return int(result.status), extra

    def _build(self, plans: Sequence[NodePlan], images: int) -> None:
        cards: dict[int, float] = {0: 0.0}
        decoding: dict[int, float] = {0: 0.0}
        needed = [1.0, 1.0]
        self.dollars[0] = 0.0
        for plan in plans:  # those that are taken in any case
            for index, (rate, row) in enumerate(((plan.images_per_s, cards), (plan.supply_per_s, decoding))):
                row[0] += plan.least * rate * self.horizon / images
                needed[index] += plan.least * rate * plan.lead_s / images
            self.dollars[0] += plan.least * plan.dollars_per_s * self.horizon
            self.fixed_dollars += plan.least * plan.dollars_per_s * (plan.tail_s - plan.unpaid_s)
        for b, (i, weight) in enumerate(self.digits):
            z, w, plan = 1 + b, 1 + len(self.digits) + b, plans[i]
            self._row({w: 1, z: -1}, -math.inf, 0)
            self._row({w: 1, 0: -1}, -math.inf, 0)
            self._row({w: 1, 0: -1, z: -1}, -1, math.inf)
            self._row({w: 1, z: -plan.lead_s / self.horizon}, 0, math.inf)  # no node that comes too late
            for rate, row in ((plan.images_per_s, cards), (plan.supply_per_s, decoding)):
                row[w] = weight * rate * self.horizon / images
                row[z] = -weight * rate * plan.lead_s / images
            self.dollars[w] = weight * plan.dollars_per_s * self.horizon
            self.dollars[z] = weight * plan.dollars_per_s * (plan.tail_s - plan.unpaid_s)
        self._row(cards, needed[0], math.inf)
        self._row(decoding, needed[1], math.inf)
        for i, plan in enumerate(plans):
            of_kind = {1 + b: weight for b, (j, weight) in enumerate(self.digits) if j == i}
            if of_kind:
                self._row(of_kind, 0, plan.most - plan.least)

    def _row(self, entries: Mapping[int, float], low: float, high: float) -> None:
        self._entries += [(len(self._low), column, value) for column, value in entries.items()]
        self._low.append(low)
        self._high.append(high)


def _solved(plans: Sequence[NodePlan], images: int, within_s: float, budget: float | None) -> Mix | None:
    """The cheapest mix, or with a budget the fastest."""
    program = _Program(plans, images, within_s)
    if program.horizon <= 0:
        return None
    target = program.dollars if budget is None else {0: 1.0}
    scale = max(map(abs, target.values())) or 1.0  # the solver's tolerances are absolute
    status, extra = program.solve({column: value / scale for column, value in target.items()}, budget)
    if status == _INFEASIBLE:
        return None
    if status != _OPTIMAL:
        raise SolverError(
            f"the integer program of {len(plans)} kinds of nodes was not solved in {_SOLVER_S:g} s: offer fewer kinds"
        )
    extra += [0] * (len(plans) - len(extra))
    return evaluate(plans, [plan.least + more for plan, more in zip(plans, extra, strict=True)], images)


def _better(plans: Sequence[NodePlan], images: int, within_s: float, budget: float | None) -> Mix | None:
    """As `_solved`, where there is an answer already: one that cannot be bettered in time stays."""
    try:
        return _solved(plans, images, within_s, budget)
    except SolverError:
        return None


def _longest(plans: Sequence[NodePlan], images: int) -> float:
    """The slowest node alone. No mix of nodes that each could do it takes longer; T is no tiny part of the horizon."""
    alone = [evaluate(plans, [int(i == j) for j in range(len(plans))], images).seconds for i in range(len(plans))]
    return max((seconds for seconds in alone if math.isfinite(seconds)), default=LONGEST_S)


def _affordable_s(plans: Sequence[NodePlan], dollars: float) -> float:
    """No mix that costs at most so much takes longer: the cheapest of its nodes alone would cost more."""
    free = [plan for plan in plans if not plan.dollars_per_s and plan.most]
    if free:
        return math.inf
    tail = max(plan.tail_s for plan in plans)
    return max(dollars / plan.dollars_per_s + plan.unpaid_s for plan in plans if plan.most) + tail


def _filled(rates: Sequence[tuple[float, float]], volume: float) -> float:
    """When a volume is done by what sets in one after the other, (since, per second) each; infinite if never."""
    speed, begun = 0.0, 0.0
    for since, rate in sorted(rates):
        if speed and (volume + begun) / speed <= since:
            break
        speed += rate
        begun += rate * since
    return (volume + begun) / speed if speed else math.inf
