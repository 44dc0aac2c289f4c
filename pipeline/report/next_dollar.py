"""The next dollar: what holds a run up or makes it dear, with the evidence, and what its removal would bring."""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, NamedTuple

from pipeline.config import FetchConfig
from pipeline.costs.ledger import SPLITS, Ledger, LedgerRow, Split
from pipeline.report.attempts import Attempts
from pipeline.report.life import Life
from pipeline.report.numbers import counted, duration, money, plain, share, unit

LeverName = Split | Literal["mix"]

_WORTH_NAMING = 0.1
"""A loss of a smaller share of the nodes' time is no bottleneck: then the model itself is."""
_TIMES = 3
"""From here on people think in times as many, not in per cent more."""


@dataclass(frozen=True)
class Lever:
    """One thing to improve. share: of the time that nodes were there, or of the cost for mix; dollars: the most
    that its removal can bring, None without prices; evidence: what was seen, a sentence each."""

    name: LeverName
    title: str
    share: float
    dollars: Decimal | None
    evidence: list[str]
    remedy: str


@dataclass(frozen=True)
class NextDollar:
    """The bottleneck, what its removal would bring, and all levers, the largest first.

    mix: the lever of another mix of cards, where that would save money; it is no bottleneck.
    """

    bottleneck: Lever
    brings: str
    levers: list[Lever]
    mix: Lever | None = None


class _Seen(NamedTuple):
    """What there is to judge by."""

    run: LedgerRow
    attempts: Attempts
    life: Life

    def per_image(self, stage: str) -> float:
        """Seconds of an image in a stage, 0 without images."""
        return self.attempts.seconds[stage] / self.attempts.images if self.attempts.images else 0.0


class _Explained(NamedTuple):
    """A lever in words."""

    title: str
    evidence: list[str]
    remedy: str


def next_dollar(ledger: Ledger, attempts: Attempts, life: Life) -> NextDollar | None:
    """Judge a run; None where no node was there for any time."""
    run = ledger.run
    if not run.node_seconds:
        return None
    by_split = {split: _lever(split, _Seen(run, attempts, life)) for split in SPLITS}
    mix = _other_mix(ledger)
    levers = sorted([*by_split.values(), *([mix] if mix else [])], key=lambda lever: -lever.share)
    losses = [lever for split, lever in by_split.items() if split != "busy" and lever.share >= _WORTH_NAMING]
    bottleneck = max(losses, key=lambda lever: lever.share, default=by_split["busy"])
    return NextDollar(bottleneck, _brings(bottleneck, ledger), levers, mix)


def _lever(split: Split, seen: _Seen) -> Lever:
    seconds, whole = float(seen.run.seconds[split]), float(seen.run.node_seconds)
    dollars = None if seen.run.dollars is None else seen.run.dollars[split]
    title, evidence, remedy = _EXPLAIN[split](seen)
    first = f"{duration(seconds)} of {duration(whole)} of node time, {share(seconds / whole)}."
    return Lever(split, title, seconds / whole, dollars, [first, *evidence], remedy)


def _busy(seen: _Seen) -> _Explained:
    evidence = []
    if seen.run.share_of_limit is not None:
        evidence.append(f"While busy, the cards reached {share(seen.run.share_of_limit)} of their hardware limit.")
    if seen.attempts.images:
        waited = duration(seen.per_image("wait"))
        evidence.append(f"An image waited {waited} for a free replica on average: the longer, the busier the cards.")
    remedy = (
        "More or faster cards; `ramfleet calibrate` finds the best micro-batch and number of replicas; bf16 or fp16 "
        "where the parity gate lets them."
    )
    return _Explained("The model on the cards", evidence, remedy)


def _idle(seen: _Seen) -> _Explained:
    stood_by = _stood_by(seen)
    if stood_by is not None:
        there = duration(float(seen.run.elapsed_s))
        evidence = [f"Nodes were there for {there}, {duration(stood_by)} of it without any work under way."]
        remedy = "Let nodes go when a run stops, or have them come with it (fleet.request)."
        return _Explained("Nodes stand by before, between or after the work", evidence, remedy)
    if not seen.attempts.images:
        return _Explained("Cards wait for images", [], "Look at the events of the run.")
    fetch, decode, wait, model = (seen.per_image(stage) for stage in ("fetch", "decode", "wait", "model"))
    evidence = [
        f"An image took {duration(fetch)} to fetch, {duration(decode)} to decode and {duration(model)} in the model."
    ]
    if wait > model:
        evidence.append(
            f"Yet it waited {duration(wait)} for a replica: images were there, but not for every card, as while a run "
            "begins and ends."
        )
        remedy = "Fewer nodes for longer, or smaller chunks (plan.chunk_rows) so that the last ones end together."
        return _Explained("Cards idle while others have work", evidence, remedy)
    at_once = FetchConfig().concurrency
    if fetch / at_once > decode:
        evidence.append(f"With fetch.concurrency={at_once}, a process fetches more slowly than it decodes.")
        remedy = "Raise fetch.concurrency and fetch.concurrency_per_host, or bring the images nearer to the cards."
        return _Explained("Cards wait for images to be fetched", evidence, remedy)
    evidence.append(f"With fetch.concurrency={at_once}, a process decodes more slowly than it fetches.")
    if seen.life.cpu.count:
        evidence.append(f"Half of the samples saw the CPUs busy for {seen.life.cpu.quantiles([0.5])[0]:.0f} % or more.")
    return _Explained("Cards wait for images to be decoded", evidence, "More CPUs per card, or decode.mode=draft.")


def _stood_by(seen: _Seen) -> float | None:
    """Seconds in which nodes were there and nothing was under way, if that is most of what was idle."""
    run, throughput = seen.run, seen.attempts.throughput
    if throughput is None or not run.nodes or not run.elapsed_s:
        return None
    stood_by = float(run.elapsed_s - run.seconds["load"] / run.nodes) - throughput.axis.length
    idle = float(run.seconds["idle"] / run.node_seconds)
    return stood_by if stood_by / float(run.elapsed_s) > idle / 2 else None


def _load(seen: _Seen) -> _Explained:
    loads, evidence = seen.life.loads, []
    if loads.count:
        median = duration(loads.quantiles([0.5])[0])
        evidence.append(f"{counted(loads.count, 'replica')} started, half of them within {median}.")
    return _Explained("Starting replicas", evidence, "Fewer, longer-lived nodes; the bundle on each node's own disk.")


def _retried(seen: _Seen) -> _Explained:
    beaten = counted(seen.attempts.outcomes["beaten"], "attempt")
    failed = counted(seen.life.counts["lease_failed"], "lease")
    remedy = "Let one command work on a run at a time; look at strike and lease_failed in events/."
    return _Explained("Work for nothing", [f"{beaten} came second to another, {failed} failed."], remedy)


def _preempted(seen: _Seen) -> _Explained:
    evidence = [f"{counted(seen.life.counts['died'], 'node')} died, {seen.life.counts['drained']:,} drained."]
    return _Explained("Nodes taken away", evidence, "Smaller chunks (plan.chunk_rows), or fewer spot nodes.")


def _wasted(seen: _Seen) -> _Explained:
    died = counted(seen.life.counts["replica_died"], "replica")
    short = counted(seen.life.counts["out_of_memory"], "time")
    remedy = (
        "Look at the cause of replica_gone in events/; a smaller model.microbatch, or fewer replicas per card "
        "(fleet.replicas_per_gpu)."
    )
    evidence = [f"{died} died on living nodes; the memory of a card ran out {short}."]
    return _Explained("Processes that died", evidence, remedy)


_EXPLAIN: dict[Split, Callable[[_Seen], _Explained]] = {
    "busy": _busy,
    "load": _load,
    "retried": _retried,
    "preempted": _preempted,
    "wasted": _wasted,
    "idle": _idle,
}


def _other_mix(ledger: Ledger) -> Lever | None:
    """What it would save if the node type with most images for the money had done all that priced nodes did."""
    rows = [row for row in ledger.rows_by_type if row.images_per_dollar]
    if len(rows) < 2:
        return None
    best = max(rows, key=lambda row: row.images_per_dollar or 0)
    worst = min(rows, key=lambda row: row.images_per_dollar or 0)
    spent = sum(float(row.total_cost or 0) for row in rows)
    saved = spent - sum(row.priced_images for row in rows) / (best.images_per_dollar or 1)
    if saved <= 0:
        return None
    one = unit(ledger.currency)
    evidence = [
        f"{best.key} did {plain(best.images_per_dollar or 0)} images for {one}, "
        f"{worst.key} {plain(worst.images_per_dollar or 0)}."
    ]
    remedy = f"Rent {best.key} instead of the others where the deadline allows it; `ramfleet quote` finds the mix."
    dollars = Decimal(str(round(saved, 12)))
    evidence.append(
        f"All images on the best of these node types would have cost {money(dollars, ledger.currency)} less."
    )
    return Lever("mix", "Cards with fewer images for the money", saved / spent, dollars, evidence, remedy)


def _brings(lever: Lever, ledger: Ledger) -> str:
    """What its removal would bring at most, in a sentence."""
    if lever.name == "busy":
        faster = f"Cards twice as fast at the same price would take {share(lever.share / 2)} off the node time."
        each = ledger.run.dollars_per_1000
        if each is None:
            return faster
        return (
            f"{faster} As it is, 1,000 images cost {money(each * lever.share, ledger.currency)} of work on the cards."
        )
    saved = share(lever.share)
    if lever.dollars is not None:
        saved = f"{money(lever.dollars, ledger.currency)} ({saved})"
    if lever.share >= 1:
        return f"Without it the run would have cost up to {saved} less."
    ratio = 1 / (1 - lever.share)
    more = f"{share(ratio - 1)} more images" if ratio < _TIMES else f"{plain(ratio)} times as many images"
    return f"Without it the run would have cost up to {saved} less, or the same nodes could do {more} in the same time."
