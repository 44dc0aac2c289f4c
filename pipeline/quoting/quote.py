"""The quote: which nodes to rent, how long it will take and what it will cost, with what is known and what is not.

The mix comes from the integer program (`pipeline.quoting.mix`), which knows means only. How sure it is comes from
drawing what is uncertain: first on the plan, which is cheap, to leave the deadline enough room; then by simulating
whole runs.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import RunError
from pipeline.plan import auto_chunk_rows
from pipeline.quoting.answer import Line, Point, Quote, Range, Wish, hours, money
from pipeline.quoting.mix import LONGEST_S, Mix, NodePlan, cheapest, evaluate, everything, fastest
from pipeline.quoting.rentals import Market, Rental, drawn_factors, kind_of, plans_of
from pipeline.quoting.simulate import SPLITS, Job, SimulatedRun, coarse_rows, simulate
from pipeline.quoting.words import explain

_DRAWS = 200
"""Of what is uncertain of a fleet, to see how far a plan is off."""
_ROUNDS = 6
_CLOSER = 0.995
"""Of what would just do, so that it does."""
_CURVE_POINTS = 9
_DEARER = 1.1
"""Without a deadline or a budget: the fastest mix that costs at most so many times the least."""
_MOST_CHUNKS = 20_000
"""Of a simulated run, where real ones would have more: coarser ones, see `coarse_rows`."""


class InfeasibleError(RunError):
    """No mix of the fleet meets the deadline, or the budget. The message says by how much."""


def make_quote(wish: Wish, market: Market, job: Job, tell: Callable[[str], None] = lambda _: None) -> Quote:
    """The cheapest mix that meets the wish, simulated. tell: takes a word on what is going on.

    Raises InfeasibleError where there is no such mix, EndlessError where preemptions leave no time to work.
    """
    planner = _Planner(wish, market, job)
    tell("choosing nodes")
    mix = planner.choose()
    tell(f"simulating {wish.runs} runs on {mix.nodes} nodes")
    runs: Sequence[SimulatedRun] = planner.simulated(mix)
    if planner.limit is not None:
        mix, runs = _kept(planner, planner.limit, mix, runs, tell)
    tell("drawing the curve of cost against time")
    return _quote(planner, mix, runs, planner.curve(mix))


@dataclass(frozen=True)
class _Limit:
    """What may not be passed: seconds or dollars.

    of_mix, of_run: how much of it is taken; within: the best mix that is expected to take at most so much;
    least: the mix that takes the least of it, whatever else.
    """

    amount: float
    of_mix: Callable[[Mix], float]
    of_run: Callable[[SimulatedRun], float]
    within: Callable[[float], Mix | None]
    least: Mix


def _kept(
    planner: "_Planner", limit: _Limit, mix: Mix, runs: Sequence[SimulatedRun], tell: Callable[[str], None]
) -> tuple[Mix, Sequence[SimulatedRun]]:
    """Where simulated runs pass a limit that planned ones keep: mixes with more room, until enough of them keep it."""
    for _ in range(_ROUNDS):
        over = _over(_quantile([limit.of_run(run) for run in runs], planner.wish.confidence), limit.amount)
        if over <= 1 or mix.counts == limit.least.counts:
            break
        mix = planner.safe(limit, planner.drawn_quantile(limit, mix) * _CLOSER / over) or limit.least
        tell(f"simulating {len(runs)} runs on {mix.nodes} nodes")
        runs = planner.simulated(mix)
    return mix, runs


class _Planner:
    """The market as plans, and as it may turn out to be: factors of images/s, the same for every mix."""

    def __init__(self, wish: Wish, market: Market, job: Job) -> None:
        self.wish, self.market, self.job = wish, market, job
        self.plans = plans_of(market.rentals, job, market.assumptions)
        draw = random.Random(wish.seed)
        self.factors = [drawn_factors(market.rentals, market.assumptions, draw) for _ in range(_DRAWS)]
        self._drawn = [plans_of(market.rentals, job, market.assumptions, factors) for factors in self.factors]

        self.limit = self._limit()

    def choose(self) -> Mix:
        """The mix to begin with. Raises InfeasibleError."""
        if self.limit is None:
            found = fastest(self.plans, self.job.images, _DEARER * self._least().dollars)
            return found or self._least()
        mix = self.safe(self.limit, self.limit.amount) or self.limit.least
        budget = self.wish.budget
        if self.wish.deadline_s is not None and budget is not None and mix.dollars > budget:
            raise InfeasibleError(self._not_both(mix, self.wish.deadline_s, budget))
        return mix

    def safe(self, limit: _Limit, amount: float) -> Mix | None:
        """The best mix that takes at most so much in enough of the drawn plans; None where there is none."""
        mix = limit.within(amount)
        while mix is not None and (over := _over(self.drawn_quantile(limit, mix), amount)) > 1:
            # From what this mix takes, not from what it was allowed to: else it would be the best once more.
            mix = limit.within(limit.of_mix(mix) * _CLOSER / over)
        return mix

    def drawn_quantile(self, limit: _Limit, mix: Mix) -> float:
        drawn = [limit.of_mix(evaluate(plans, mix.counts, self.job.images)) for plans in self._drawn]
        return _quantile(drawn, self.wish.confidence)

    def _limit(self) -> _Limit | None:
        """The deadline, or else the budget, that can be met. Raises InfeasibleError."""
        plans, images, wish = self.plans, self.job.images, self.wish
        if wish.deadline_s is not None:
            best = everything(plans, images)
            if best.seconds > wish.deadline_s:
                raise InfeasibleError(self._too_late(best, wish.deadline_s))
            return _Limit(
                wish.deadline_s,
                of_mix=lambda mix: mix.seconds,
                of_run=lambda run: run.seconds,
                within=lambda seconds: cheapest(plans, images, seconds),
                least=best,
            )
        if wish.budget is None:
            return None
        least = self._least()
        if least.dollars > wish.budget:
            raise InfeasibleError(self._too_dear(least, wish.budget))
        return _Limit(
            wish.budget,
            of_mix=lambda mix: mix.dollars,
            of_run=lambda run: _cost(run, self.market.rentals),
            within=lambda dollars: fastest(plans, images, dollars),
            least=least,
        )

    def _least(self) -> Mix:
        """The cheapest mix, however long it takes."""
        least = cheapest(self.plans, self.job.images)
        if least is None:
            best = everything(self.plans, self.job.images)
            raise InfeasibleError(f"the whole fleet takes {hours(best.seconds)}, over {hours(LONGEST_S)}: offer more")
        return least

    def simulated(self, mix: Mix) -> list[SimulatedRun]:
        """Whole runs of a mix, each with another of the drawn factors and another seed."""
        job = replace(self.job, chunk_rows=self.rows(mix))
        return _simulated(self.market, mix.counts, job, self.factors[: self.wish.runs], self.wish.seed)

    def rows(self, mix: Mix) -> int:
        """Of the chunks of simulated runs: larger than real ones where there are very many of those."""
        kinds = [kind_of(rental, self.market.assumptions) for rental in self.market.rentals]
        return coarse_rows(kinds, mix.counts, replace(self.job, chunk_rows=self.real_rows(mix)), _MOST_CHUNKS)

    def real_rows(self, mix: Mix) -> int:
        """Of the chunks of real runs, a card counted as one replica."""
        cards = sum(rental.offer.gpus * n for rental, n in zip(self.market.rentals, mix.counts, strict=True))
        return auto_chunk_rows(self.job.images, cards)

    def curve(self, chosen: Mix) -> list[Point]:
        """The cheapest mix for each of several times, from the fastest on; the chosen one among them."""
        first = everything(self.plans, self.job.images).seconds
        last = max(4 * chosen.seconds, 4 * first)
        times = [first * (last / first) ** (step / (_CURVE_POINTS - 1)) for step in range(_CURVE_POINTS)]
        found = [mix for at in times if (mix := cheapest(self.plans, self.job.images, at * 1.0001)) is not None]
        best: list[Mix] = []
        for mix in sorted({mix.counts: mix for mix in [*found, chosen]}.values(), key=lambda mix: mix.seconds):
            if mix.counts == chosen.counts or not best or mix.dollars < min(other.dollars for other in best):
                best.append(mix)
        return [self._point(mix) for mix in best]

    def _point(self, mix: Mix) -> Point:
        drawn = [evaluate(plans, mix.counts, self.job.images) for plans in self._drawn]
        return Point(mix, _range([one.seconds for one in drawn]), _range([one.dollars for one in drawn]))

    def _not_both(self, mix: Mix, deadline_s: float, budget: float) -> str:
        return (
            f"deadline {hours(deadline_s)} and budget {self.money(budget)} together: the cheapest mix in time costs "
            f"{self.money(mix.dollars)}, {self.money(mix.dollars - budget)} more{self._for_budget(budget)}"
        )

    def _too_late(self, best: Mix, deadline_s: float) -> str:
        over = best.seconds - deadline_s
        slowest = min(plan.lead_s for plan in self.plans) + self.plans[0].tail_s
        text = (
            f"deadline {hours(deadline_s)} cannot be met: all {best.nodes} nodes of the fleet together take "
            f"{hours(best.seconds)}, {hours(over)} too long"
        )
        if slowest >= deadline_s:
            return f"{text}; starting a node, loading the model and ending a run alone take {hours(slowest)}"
        enough = _times_as_many(self.plans, self.job.images, deadline_s)
        return f"{text}; {enough:.1f} times as many of each would do" if enough < math.inf else text

    def _too_dear(self, least: Mix, budget: float) -> str:
        return (
            f"budget {self.money(budget)} cannot be met: the cheapest mix costs {self.money(least.dollars)}, "
            f"{self.money(least.dollars - budget)} too much, and takes {hours(least.seconds)}"
        )

    def _for_budget(self, budget: float) -> str:
        found = fastest(self.plans, self.job.images, budget)
        return "" if found is None else f"; for the budget alone it takes {hours(found.seconds)}"

    def money(self, amount: float) -> str:
        return money(amount, self.market.currency)


@dataclass(frozen=True)
class Prediction:
    """What a run on given nodes would take and cost."""

    seconds: Range
    dollars: Range


def predict(market: Market, counts: Sequence[int], job: Job, runs: int = 20, seed: int = 0) -> Prediction:
    """Simulate runs on so many nodes of each kind of the market, in chunks as the job has them: nothing is chosen."""
    draw = random.Random(seed)
    factors = [drawn_factors(market.rentals, market.assumptions, draw) for _ in range(runs)]
    found = _simulated(market, counts, job, factors, seed)
    return Prediction(_range([run.seconds for run in found]), _range([_cost(run, market.rentals) for run in found]))


def _quote(planner: _Planner, mix: Mix, runs: Sequence[SimulatedRun], curve: Sequence[Point]) -> Quote:
    rentals = planner.market.rentals
    deadline, budget = planner.wish.deadline_s, planner.wish.budget
    made = Quote(
        wish=planner.wish,
        market=planner.market,
        job=planner.job,
        mix=mix,
        seconds=_range([run.seconds for run in runs]),
        dollars=_range([_cost(run, rentals) for run in runs]),
        met=None if deadline is None else sum(run.seconds <= deadline for run in runs) / len(runs),
        afforded=None if budget is None else sum(_cost(run, rentals) <= budget for run in runs) / len(runs),
        redone=_mean([run.redone for run in runs]),
        rows=planner.rows(mix),
        real_rows=planner.real_rows(mix),
        lines=tuple(_line(planner, mix, runs, index) for index in range(len(rentals))),
        curve=tuple(curve),
    )
    return replace(made, explanation=tuple(explain(made, planner.plans)))


def _line(planner: _Planner, mix: Mix, runs: Sequence[SimulatedRun], index: int) -> Line:
    rental, plan = planner.market.rentals[index], planner.plans[index]
    kinds = [run.kinds[index] for run in runs]
    paid = sum(kind.paid_s for kind in kinds)
    return Line(
        rental=rental,
        nodes=mix.counts[index],
        images=_mean([kind.images for kind in kinds]),
        dollars=_mean([kind.paid_s for kind in kinds]) / 3600 * rental.dollars_per_hour,
        preemptions=_mean([kind.preemptions for kind in kinds]),
        full_images_per_dollar=plan.images_per_s / plan.dollars_per_s if plan.dollars_per_s else math.inf,
        shares={split: sum(k.seconds[split] for k in kinds) / paid if paid else 0.0 for split in SPLITS},
    )


def _simulated(
    market: Market, counts: Sequence[int], job: Job, factors: Sequence[Sequence[float]], seed: int
) -> list[SimulatedRun]:
    """A run for each of these factors of images/s, each with a seed of its own."""
    runs = []
    for number, drawn in enumerate(factors):
        kinds = [kind_of(r, market.assumptions, factor) for r, factor in zip(market.rentals, drawn, strict=True)]
        runs.append(simulate(kinds, counts, job, market.assumptions, seed + number))
    return runs


def _cost(run: SimulatedRun, rentals: Sequence[Rental]) -> float:
    return sum(kind.paid_s / 3600 * r.dollars_per_hour for kind, r in zip(run.kinds, rentals, strict=True))


def _times_as_many(plans: Sequence[NodePlan], images: int, deadline_s: float) -> float:
    """How many times the fleet would be in time: as images per fleet are to the images there are."""
    low, high = 0, images
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if everything(plans, middle).seconds <= deadline_s else (low, middle - 1)
    return images / low if low else math.inf


def _over(taken: float, amount: float) -> float:
    """How many times a limit is taken; nothing is within any, also within a budget of nothing."""
    return taken / amount if amount else math.inf if taken > 0 else 0.0


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _range(values: Sequence[float]) -> Range:
    return Range(_quantile(values, 0.1), _quantile(values, 0.5), _quantile(values, 0.9))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
