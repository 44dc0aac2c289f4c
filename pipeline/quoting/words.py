"""A quote in words and as plain values: why this mix, where its money goes, what limits it, what is not known."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.quoting.answer import Line, Point, Quote, Range, hours, money, thousands_per_dollar
from pipeline.quoting.mix import NodePlan
from pipeline.quoting.rentals import kind_of

_NAMED = 4
_ANOTHER = 1.2
_WORDS = {
    "start": "starting nodes",
    "load": "loading models",
    "preempted": "work that preemptions void",
    "idle": "waiting",
}


def explain(quote: Quote, plans: Sequence[NodePlan]) -> Iterator[str]:
    """Sentences, the most important first."""
    yield _answer(quote)
    yield from _choice(quote)
    yield _money_goes(quote)
    yield from _limits(quote, plans)
    yield from _next_dollar(quote)
    yield from _caveats(quote)


def _answer(quote: Quote) -> str:
    runs = quote.wish.runs
    text = (
        f"{quote.mix.nodes} node(s) tag {quote.job.images:,} images in {_span(quote.seconds, hours)} for "
        f"{_span(quote.dollars, lambda x: money(x, quote.market.currency))} (four of five of {runs} simulated runs)"
    )
    wanted = quote.wish.confidence
    limits = []
    if quote.met is not None and quote.wish.deadline_s is not None:
        limits.append((quote.met, f"end within {hours(quote.wish.deadline_s)}"))
    if quote.afforded is not None and quote.wish.budget is not None:
        limits.append((quote.afforded, f"cost at most {money(quote.wish.budget, quote.market.currency)}"))
    for share, what in limits:
        text += f"; {'' if share >= wanted else 'only '}{share:.0%} of them {what}"
    if any(share < wanted for share, _ in limits):
        text += f", though {wanted:.0%} are wanted: no mix that was tried is as sure"
    return f"{text}."


def _choice(quote: Quote) -> Iterator[str]:
    """Kinds by what they give for the money, those that are taken and those that are not."""
    ranked = sorted(quote.lines, key=lambda line: -line.full_images_per_dollar)
    taken = [line for line in ranked if line.nodes]
    yield "Taken, best value first: " + "; ".join(map(_value, taken[:_NAMED])) + _more(taken)
    others = [line for line in ranked if not line.nodes]
    if not others:
        return
    better = [line for line in others if line.full_images_per_dollar > taken[-1].full_images_per_dollar]
    text = "Not taken: " + "; ".join(map(_value, others[:_NAMED])) + _more(others)
    if better:
        text += " Where they give more for the money than one that is taken, fewer or faster nodes fit the time better."
    yield text


def _value(line: Line) -> str:
    offer = line.rental.offer
    count = f"{line.nodes} of {offer.most_nodes} × " if line.nodes else ""
    return f"{count}{line.rental.name} ({_worth(line)})"


def _worth(line: Line) -> str:
    found = thousands_per_dollar(line.full_images_per_dollar)
    return found if found == "free" else f"{found} images/$ at full work"


def _more(lines: Sequence[Line]) -> str:
    return f"; and {len(lines) - _NAMED} more." if len(lines) > _NAMED else "."


def _money_goes(quote: Quote) -> str:
    total = sum(line.dollars for line in quote.lines)
    parts = {
        split: sum(line.dollars * line.shares[split] for line in quote.lines) / total if total else 0.0
        for split in ("busy", *_WORDS)
    }
    others = ", ".join(f"{parts[split]:.1%} {words}" for split, words in _WORDS.items() if parts[split] >= 0.0005)
    return f"Of what is paid {parts['busy']:.1%} is work{f'; {others}' if others else ''}."


def _limits(quote: Quote, plans: Sequence[NodePlan]) -> Iterator[str]:
    cards = decoding = 0.0
    for line, plan in zip(quote.lines, plans, strict=True):
        kind = kind_of(line.rental, quote.market.assumptions)
        cards += line.nodes * plan.images_per_s
        decoding += line.nodes * plan.supply_per_s
        if line.nodes and kind.link_bytes_per_s and plan.images_per_s < kind.images_per_s * kind.cards * 0.95:
            yield (
                f"The network of {line.rental.name} ({line.rental.offer.link_mbit_s:g} Mbit/s) carries "
                f"{plan.images_per_s:,.0f} images/s, its cards could do {kind.images_per_s * kind.cards:,.0f}."
            )
    if decoding < cards:
        yield (
            f"Decoding limits: all CPUs decode {decoding:,.0f} images/s, the cards could tag {cards:,.0f}; nodes with "
            f"more CPUs, smaller images or decode.mode=draft would help."
        )


def _next_dollar(quote: Quote) -> Iterator[str]:
    """The nearest mixes of the curve that are another choice, not another rounding."""
    here = quote.mix.seconds
    faster = [point for point in quote.curve if point.mix.seconds <= here / _ANOTHER]
    cheaper = [p for p in quote.curve if p.mix.seconds >= here * _ANOTHER and p.mix.dollars < quote.mix.dollars]
    if faster:
        yield f"Faster: {_other(quote, faster[-1])}"
    if cheaper:
        yield f"Cheaper: {_other(quote, cheaper[0])}"


def _other(quote: Quote, point: Point) -> str:
    dearer = point.mix.dollars - quote.mix.dollars
    change = f"{money(abs(dearer), quote.market.currency)} {'more' if dearer > 0 else 'less'}"
    return f"{point.mix.nodes} node(s) would take {hours(point.mix.seconds)} for {change}, as planned."


def _caveats(quote: Quote) -> Iterator[str]:
    modelled = [line for line in quote.lines if line.nodes and line.rental.speed.basis == "modelled"]
    if modelled:
        low, high = quote.market.assumptions.modelled_share
        yield (
            f"Nobody has measured {len(modelled)} of the {sum(bool(line.nodes) for line in quote.lines)} kinds taken: "
            f"their images/s are {low:.0%} to {high:.0%} of a model of the card, which is a ceiling with guessed host "
            f"constants. `ramfleet calibrate` on one node of each, or --measured RUN, replaces that."
        )
    sources = sorted({line.rental.price.source for line in quote.lines if line.nodes})
    yield f"Prices: {'; '.join(sources[:_NAMED])}{'; …' if len(sources) > _NAMED else ''}."
    if quote.rows > quote.real_rows:
        yield f"Simulated in chunks of {quote.rows:,} images instead of {quote.real_rows:,}, to be done in time."
    for name, why in quote.market.left_out.items():
        yield f"Left out: {name}: {why}."


def _span(found: Range, show: Any) -> str:
    low, middle, high = show(found.low), show(found.middle), show(found.high)
    return middle if low == high else f"{middle} ({low} to {high})"


def quote_document(quote: Quote) -> dict[str, Any]:
    """All of it as plain values for JSON: seconds, amounts in the currency that is named."""
    wish = quote.wish
    return {
        "images": quote.job.images,
        "deadline_s": wish.deadline_s,
        "budget": wish.budget,
        "confidence": wish.confidence,
        "seed": wish.seed,
        "runs": wish.runs,
        "chunk_rows": quote.real_rows,
        "simulated_chunk_rows": quote.rows,
        "currency": quote.market.currency,
        "nodes": quote.mix.nodes,
        "planned": {"seconds": quote.mix.seconds, "dollars": quote.mix.dollars},
        "simulated": {"seconds": _values(quote.seconds), "dollars": _values(quote.dollars), "redone": quote.redone},
        "deadline_met": quote.met,
        "budget_kept": quote.afforded,
        "kinds": [_line_document(line) for line in quote.lines],
        "curve": [_point_document(quote, point) for point in quote.curve],
        "left_out": dict(quote.market.left_out),
        "assumptions": quote.market.assumptions.model_dump(mode="json"),
        "explanation": list(quote.explanation),
    }


def _line_document(line: Line) -> dict[str, Any]:
    offer, speed = line.rental.offer, line.rental.speed
    return {
        "name": line.rental.name,
        "card": offer.card,
        "instance_type": offer.instance_type,
        "market": offer.market,
        "gpus": offer.gpus,
        "nodes": line.nodes,
        "most_nodes": offer.most_nodes,
        "price_per_hour": str(line.rental.price.per_hour),
        "price_source": line.rental.price.source,
        "images_per_s": speed.expected,
        "basis": speed.basis,
        "modelled_images_per_s": speed.modelled,
        "ceiling_images_per_s": speed.ceiling,
        "dtype": speed.dtype,
        "full_images_per_dollar": _finite(line.full_images_per_dollar),
        "images": line.images,
        "dollars": line.dollars,
        "images_per_dollar": _finite(line.images_per_dollar) if line.nodes else None,
        "preemptions": line.preemptions,
        "shares": dict(line.shares),
    }


def _point_document(quote: Quote, point: Point) -> dict[str, Any]:
    names = [line.rental.name for line in quote.lines]
    return {
        "nodes": {name: n for name, n in zip(names, point.mix.counts, strict=True) if n},
        "seconds": point.mix.seconds,
        "dollars": point.mix.dollars,
        "drawn_seconds": _values(point.seconds),
        "drawn_dollars": _values(point.dollars),
        "chosen": point.mix.counts == quote.mix.counts,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _values(found: Range) -> dict[str, float]:
    return {"p10": found.low, "p50": found.middle, "p90": found.high}
