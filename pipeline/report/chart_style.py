"""How charts look: drawn by matplotlib once, coloured by the page, so that they follow its light and dark theme."""

import hashlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SERIES = 7
"""Colours that tell series apart; further ones share the last."""

_MARKS = ("ink", "muted", "grid", "surface", "accent", "bad", "good", *(f"s{number}" for number in range(SERIES)))
_SPLITS = ("busy", "load", "retried", "preempted", "wasted", "idle")
_NAMES = (*_MARKS, *_SPLITS)
_HEX = {name: f"#f0e1{number:02x}" for number, name in enumerate(_NAMES)}
_VARIABLES = {code: f"var(--{name})" for name, code in _HEX.items()}
_COLOUR = re.compile("#f0e1[0-9a-f]{2}")
# Of groups and texts: nothing refers to them, and one page has many figures.
_IDLE_ID = re.compile(r' id="(?!m[0-9a-f]{8}|[pC][0-9a-f]{8})[^"]*"')
# Of the whole page once it is inline; the page's own style sheet has it for charts.
_STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_INCH = 72.0

_RC: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 12.0,
    "axes.edgecolor": _HEX["grid"],
    "axes.labelcolor": _HEX["muted"],
    "axes.facecolor": "none",
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "text.color": _HEX["ink"],
    "xtick.color": _HEX["muted"],
    "ytick.color": _HEX["muted"],
    "xtick.labelcolor": _HEX["muted"],
    "ytick.labelcolor": _HEX["ink"],
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "xtick.major.pad": 6,
    "ytick.major.pad": 7,
    "grid.color": _HEX["grid"],
    "grid.linewidth": 1.0,
    "axes.labelsize": 12.0,
}


@dataclass(frozen=True)
class Shape:
    """How much room a chart has, in the units of its viewBox, which are pixels at natural size."""

    width: float
    narrow: bool


WIDE, HALF, NARROW = Shape(860, False), Shape(510, False), Shape(400, True)

Draw = Callable[[Axes, Shape], None]


def colour(name: str) -> str:
    """The stand-in for a colour of the page's style sheet, for matplotlib."""
    return _HEX[name]


def series_colour(number: int) -> str:
    """The stand-in for the colour of a series."""
    return _HEX[f"s{min(number, SERIES - 1)}"]


def chart(name: str, label: str, shape: Shape, height: Callable[[Shape], float], draw: Draw) -> Markup:
    """A chart as two inline SVGs, of which the page shows one: for wide and for narrow screens.

    name: of its own on the page; label: what it shows, in words; height: of a shape, in the same units.
    """
    drawn = (_svg(f"{name}-{form}", form, label, one, height(one), draw) for form, one in _forms(shape))
    return Markup("").join(drawn)


def _forms(shape: Shape) -> tuple[tuple[str, Shape], tuple[str, Shape]]:
    return ("wide", shape), ("narrow", NARROW)


def _svg(identifier: str, form: str, label: str, shape: Shape, height: float, draw: Draw) -> Markup:
    salt = hashlib.sha256(identifier.encode()).hexdigest()
    settings: Any = {**_RC, "svg.hashsalt": salt}  # newer versions list every name in the type, older ones do not
    with mpl.rc_context(settings):
        figure = Figure(figsize=(shape.width / _INCH, height / _INCH), dpi=_INCH, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03)  # type: ignore[union-attr,call-arg]
        draw(figure.add_subplot(), shape)
        buffer = io.StringIO()
        with warnings.catch_warnings():
            # Letters that matplotlib's own font lacks are measured as boxes; the browser draws them with its fonts.
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
            figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    # matplotlib escapes what it writes as text.
    body = buffer.getvalue()
    content = body[body.index(">", body.index("<svg")) + 1 :]
    content = _IDLE_ID.sub("", _STYLE.sub("", content, count=1))
    content = _COLOUR.sub(lambda found: _VARIABLES[found[0]], content)
    opening = Markup(
        '<svg class="chart {}" role="img" aria-label="{}" viewBox="0 0 {:g} {:g}" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">'
    ).format(form, escape(label), shape.width, height)
    return opening + Markup(content)
