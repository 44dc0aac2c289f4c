"""A quote as tables and sentences for a terminal."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pipeline.quoting.answer import Line, Point, Quote, hours, money, thousands_per_dollar

_WIDE = 110
_BAR = 20


def quote_tables(quote: Quote, width: int) -> Iterator[RenderableType]:
    """What `ramfleet quote` prints; width: of the terminal in columns, a narrow one shows less."""
    yield Text(quote.explanation[0], style="bold")
    yield _kinds(quote, wide=width >= _WIDE)
    yield _curve(quote)
    yield from (Text(f"• {sentence}") for sentence in quote.explanation[1:])


def _kinds(quote: Quote, wide: bool) -> Table:
    caption = "images/s of a node, as expected; images/$ all told, of what is not rented at full work"
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption=caption, caption_justify="left")
    columns = [name for name, only_wide in _COLUMNS if wide or not only_wide]
    for name in columns:
        table.add_column(name, justify="left" if name in ("node", "speed") else "right", overflow="fold")
    for line in sorted(quote.lines, key=lambda line: (-line.nodes, -line.full_images_per_dollar)):
        cells = _cells(line, quote)
        table.add_row(*(cells[name] for name in columns), style=None if line.nodes else "dim")
    return table


_COLUMNS = (
    ("node", False),
    ("rent", False),
    ("of", True),
    ("price/h", False),
    ("images/s", False),
    ("speed", True),
    ("images/$", False),
    ("images", True),
    ("cost", False),
    ("busy", True),
    ("preempted", True),
)
"""Name, and whether only a wide terminal shows it."""


def _cells(line: Line, quote: Quote) -> dict[str, str]:
    taken = line.nodes > 0
    offer = line.rental.offer
    value = line.images_per_dollar if taken else line.full_images_per_dollar
    return {
        "node": line.rental.name,
        "rent": f"{line.nodes}" if taken else "–",
        "of": f"{offer.most_nodes}",
        "price/h": money(line.rental.dollars_per_hour, quote.market.currency),
        "images/s": f"{line.rental.speed.expected * offer.gpus:,.0f}",
        "speed": line.rental.speed.basis,
        "images/$": thousands_per_dollar(value),
        "images": f"{line.images:,.0f}" if taken else "",
        "cost": money(line.dollars, quote.market.currency) if taken else "",
        "busy": f"{line.shares['busy']:.0%}" if taken else "",
        "preempted": f"{line.preemptions:.1f} ×" if taken and offer.preemptions_per_hour else "",
    }


def _curve(quote: Quote) -> Table:
    table = Table(title="Cost against time, as planned", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("time", "cost", "nodes"):
        table.add_column(name, justify="right")
    table.add_column("four of five", justify="left", overflow="fold")
    table.add_column("")
    most = max(point.mix.dollars for point in quote.curve)
    for point in quote.curve:
        chosen = point.mix.counts == quote.mix.counts
        table.add_row(*_point(quote, point, most), style="bold" if chosen else None)
    return table


def _point(quote: Quote, point: Point, most: float) -> tuple[str, ...]:
    currency = quote.market.currency
    bar = "█" * max(1, round(_BAR * point.mix.dollars / most)) if most else ""
    return (
        hours(point.mix.seconds),
        money(point.mix.dollars, currency),
        f"{point.mix.nodes}",
        f"{hours(point.seconds.low)}–{hours(point.seconds.high)}, "
        f"{money(point.dollars.low, currency)}–{money(point.dollars.high, currency)}",
        bar,
    )
