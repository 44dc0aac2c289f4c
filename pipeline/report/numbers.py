"""Numbers as people read them."""

from decimal import Decimal
from fractions import Fraction

Number = float | int | Decimal | Fraction

_SIGNS = {"USD": "$", "EUR": "€", "GBP": "£"}
_UNITS = ((86400.0, "d", 3600.0, "h"), (3600.0, "h", 60.0, "min"), (60.0, "min", 1.0, "s"))


def plain(value: Number, digits: int = 3) -> str:
    """At least `digits` digits that matter, never an exponent, thousands apart: 0.0123, 4.57, 1,234."""
    number = float(value)
    if number == 0 or abs(number) >= 10 ** (digits - 1):
        return f"{number:,.0f}"
    return f"{Decimal(f'{number:.{digits}g}'):f}"


def counted(number: int, noun: str) -> str:
    """1 node, 1,234 nodes."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def share(value: Number) -> str:
    """A share as a percentage: < 0.1 %, 0.4 %, 12 %."""
    percent = 100 * float(value)
    if 0 < percent < 0.05:
        return "< 0.1 %"
    return f"{percent:.1f} %" if 0 < abs(percent) < 9.95 else f"{percent:.0f} %"


def duration(seconds: Number) -> str:
    """Two units at most: 250 ms, 42 s, 3 min 10 s, 2 h, 4 d 3 h."""
    value = float(seconds)
    if value == 0:
        return "0 s"
    if value < 1:
        return f"{plain(value * 1000)} ms"
    if value < 60:
        return f"{plain(value)} s"
    for unit, name, part, part_name in _UNITS:
        if value >= unit:
            whole, rest = divmod(round(value / part), round(unit / part))
            return f"{whole:,} {name} {rest} {part_name}" if rest else f"{whole:,} {name}"
    return f"{value:g} s"


def money(value: Number, currency: str) -> str:
    """An amount: cents from 1 on, else three digits that matter and two decimals at least."""
    number = float(value)
    text = f"{number:,.2f}" if number == 0 or abs(number) >= 1 else plain(number)
    text += "0" * max(0, 2 - len(text.partition(".")[2])) if "." in text else ".00"
    return _with_sign(text, currency)


def unit(currency: str) -> str:
    """One unit of money: $1."""
    return _with_sign("1", currency)


def _with_sign(text: str, currency: str) -> str:
    sign = _SIGNS.get(currency)
    return f"{sign}{text}" if sign else f"{text} {currency}"


def size(count: int) -> str:
    """Bytes: 512 B, 3.2 GiB."""
    value, unit = float(count), "B"
    for following in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if value < 1024:
            break
        value, unit = value / 1024, following
    return f"{plain(value)} {unit}"
