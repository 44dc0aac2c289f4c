"""The shapes and things that drawn scenes are made of, each a function that draws it with a `Pen`."""

import math
from collections.abc import Callable
from random import Random

from ramcore.scenes.canvas import COLOURS, Pen, Point, ellipse_points, mix_paint, shade

Excluded = frozenset[str]


def pick_colour(rng: Random, excluded: Excluded, among: tuple[str, ...] = tuple(COLOURS)) -> str:
    """A random named colour that is not one of those behind the object, so that it can be seen."""
    return rng.choice([colour for colour in among if colour not in excluded] or ["teal"])


def _arc(radius: float, start: float, end: float, steps: int, x: float = 0.0, y: float = 0.0) -> list[Point]:
    """Points of a circular arc; angles in degrees, clockwise from the right."""
    angles = [math.radians(start + (end - start) * i / (steps - 1)) for i in range(steps)]
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def _star() -> list[Point]:
    corners = []
    for i in range(10):
        radius, angle = (1.0 if i % 2 == 0 else 0.42), math.radians(36 * i - 90)
        corners.append((radius * math.cos(angle), radius * math.sin(angle)))
    return corners


def _heart() -> list[Point]:
    angles = [2 * math.pi * i / 36 for i in range(36)]
    return [
        (
            math.sin(a) ** 3,
            -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16 - 0.1,
        )
        for a in angles
    ]


def _cross() -> list[Point]:
    w = 0.33
    return [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w), (-1, -w), (-w, -w)]


OUTLINES: dict[str, list[Point]] = {
    "circle": ellipse_points(0, 0, 0.95, 0.95),
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -0.95), (0.98, 0.8), (-0.98, 0.8)],
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
    "arrow": [(-1, -0.27), (0.1, -0.27), (0.1, -0.75), (1, 0), (0.1, 0.75), (0.1, 0.27), (-1, 0.27)],
    "ring": _arc(0.97, 0, 360, 40) + _arc(0.56, 360, 0, 40),
}
PATTERNED = ("circle", "square", "triangle", "heart")


def draw_outline(pen: Pen, name: str, rng: Random, excluded: Excluded, pattern: str | None = None) -> None:
    """Draw a shape of `OUTLINES`, plain or with a pattern of two colours."""
    first = pick_colour(rng, excluded)
    if pattern is None:
        pen.polygon(OUTLINES[name], mix_paint(rng, first))
        return
    second = pick_colour(rng, excluded | {first} | _CLOSE.get(first, frozenset()))
    pen.pattern(OUTLINES[name], pattern, (mix_paint(rng, first), mix_paint(rng, second)), rng)


# Pairs whose pattern would be hard to see.
_CLOSE: dict[str, Excluded] = {
    "black": frozenset({"brown", "purple"}),
    "brown": frozenset({"black", "purple", "red"}),
    "purple": frozenset({"black", "brown", "blue"}),
    "blue": frozenset({"purple"}),
    "red": frozenset({"brown", "orange"}),
    "orange": frozenset({"red", "yellow"}),
    "yellow": frozenset({"orange", "white"}),
    "white": frozenset({"yellow", "pink"}),
    "pink": frozenset({"white"}),
}


def _house(pen: Pen, rng: Random, excluded: Excluded) -> None:
    wall = pick_colour(rng, excluded, ("white", "yellow", "pink", "orange", "gray", "blue", "purple"))
    roof = pick_colour(rng, excluded | {wall}, ("red", "brown", "gray", "black", "blue", "green"))
    roof_paint, door = mix_paint(rng, roof), mix_paint(rng, "slate")
    if rng.random() < 0.5:
        pen.box(0.4, -0.85, 0.62, -0.3, shade(roof_paint, 0.85))
    pen.box(-0.8, -0.15, 0.8, 1.0, mix_paint(rng, wall))
    pen.polygon([(-1, -0.1), (0, -1), (1, -0.1)], roof_paint)
    pen.box(-0.18, 0.35, 0.22, 1.0, door)
    window = mix_paint(rng, "glass")
    for left in (-0.64, 0.34):
        pen.box(left, 0.12, left + 0.32, 0.48, window)


def _tree(pen: Pen, rng: Random, excluded: Excluded) -> None:
    # On a meadow the crown is darker than the grass, or it could not be told from it.
    leaves = shade(mix_paint(rng, "green"), 0.72 if "green" in excluded else 1.0)
    pen.box(-0.15, 0.2, 0.15, 1.0, mix_paint(rng, "brown"))
    if rng.random() < 0.5:
        for top, width in ((-1.0, 0.45), (-0.6, 0.6), (-0.15, 0.72)):
            pen.polygon([(0, top), (width, top + 0.75), (-width, top + 0.75)], shade(leaves, 1.0 + top * 0.15))
    else:
        for x, y, r in ((-0.34, -0.2, 0.42), (0.34, -0.2, 0.42), (0, -0.5, 0.5), (0, -0.05, 0.4)):
            pen.disc(x, y, r, leaves)


def _sun(pen: Pen, rng: Random, excluded: Excluded) -> None:
    paint = mix_paint(rng, pick_colour(rng, excluded, ("yellow", "yellow", "orange")))
    rays = rng.choice((8, 10, 12))
    for i in range(rays):
        a = 2 * math.pi * i / rays
        b = 0.16
        pen.polygon(
            [
                (math.cos(a), math.sin(a)),
                (0.66 * math.cos(a + b), 0.66 * math.sin(a + b)),
                (0.66 * math.cos(a - b), 0.66 * math.sin(a - b)),
            ],
            paint,
        )
    pen.disc(0, 0, 0.58, paint)


def _moon(pen: Pen, rng: Random, excluded: Excluded) -> None:
    paint = mix_paint(rng, pick_colour(rng, excluded, ("yellow", "white")))
    pen.polygon(_arc(0.95, 60, 300, 28) + _arc(0.87, 290, 70, 24, x=0.42), paint)


def _cloud(pen: Pen, rng: Random, excluded: Excluded) -> None:
    paint = mix_paint(rng, pick_colour(rng, excluded, ("white", "white", "gray")))
    middle = rng.uniform(-0.15, 0.15)
    for x, y, r in ((-0.58, 0.12, 0.4), (0.58, 0.14, 0.38), (middle, -0.12, 0.54)):
        pen.disc(x, y, r, paint)
    pen.box(-0.6, 0.1, 0.6, 0.52, paint)


def _flower(pen: Pen, rng: Random, excluded: Excluded) -> None:
    petal = pick_colour(rng, excluded | {"green"}, ("red", "pink", "purple", "white", "orange", "yellow", "blue"))
    paint, petals = mix_paint(rng, petal), rng.choice((5, 6, 7))
    stem = mix_paint(rng, "green")
    pen.bar((0, 0), (0, 1.0), 0.13, stem)
    pen.polygon([(0, 0.85), (0.5, 0.42), (0.32, 0.82)], stem)
    pen.polygon([(0, 0.9), (-0.5, 0.5), (-0.32, 0.86)], stem)
    for i in range(petals):
        a = 2 * math.pi * i / petals - math.pi / 2
        pen.disc(0.38 * math.cos(a), -0.4 + 0.38 * math.sin(a), 0.25, paint)
    heart = pick_colour(rng, frozenset({petal}), ("yellow", "brown", "orange"))
    pen.disc(0, -0.4, 0.22, mix_paint(rng, heart))


def _boat(pen: Pen, rng: Random, excluded: Excluded) -> None:
    hull = pick_colour(rng, excluded | {"white"}, ("red", "brown", "black", "green", "orange", "purple"))
    sail = pick_colour(rng, excluded | {hull}, ("white", "white", "yellow", "red", "orange", "pink"))
    pen.polygon([(-1, 0.35), (1, 0.35), (0.62, 0.85), (-0.62, 0.85)], mix_paint(rng, hull))
    pen.bar((0, -1), (0, 0.4), 0.07, mix_paint(rng, "slate"))
    paint = mix_paint(rng, sail)
    pen.polygon([(0.08, -0.95), (0.85, 0.25), (0.08, 0.25)], paint)
    pen.polygon([(-0.08, -0.7), (-0.65, 0.25), (-0.08, 0.25)], paint)


def _car(pen: Pen, rng: Random, excluded: Excluded) -> None:
    paint = mix_paint(
        rng, pick_colour(rng, excluded, ("red", "blue", "yellow", "orange", "purple", "green", "white", "pink"))
    )
    pen.polygon([(-0.55, 0.0), (-0.38, -0.42), (0.3, -0.42), (0.58, 0.0)], paint)
    pen.polygon([(-0.98, 0.02), (0.7, -0.03), (0.98, 0.1), (0.98, 0.4), (-0.98, 0.4)], paint)
    window = mix_paint(rng, "glass")
    pen.polygon([(-0.42, -0.02), (-0.3, -0.32), (-0.06, -0.32), (-0.06, -0.02)], window)
    pen.polygon([(0.04, -0.02), (0.04, -0.32), (0.24, -0.32), (0.42, -0.02)], window)
    tyre, hub = mix_paint(rng, "slate"), mix_paint(rng, "beige")
    for x in (-0.52, 0.54):
        pen.disc(x, 0.4, 0.25, tyre)
        pen.disc(x, 0.4, 0.11, hub)


def _fish(pen: Pen, rng: Random, excluded: Excluded) -> None:
    paint = mix_paint(rng, pick_colour(rng, excluded, ("orange", "red", "yellow", "purple", "pink", "gray", "green")))
    fin = shade(paint, 0.85)
    pen.polygon([(0.42, 0), (1, -0.5), (0.86, 0), (1, 0.5)], fin)
    pen.polygon([(-0.3, -0.3), (0.1, -0.72), (0.3, -0.25)], fin)
    pen.disc(-0.2, 0, 0.78, paint, flatten=0.58)
    pen.disc(-0.62, -0.12, 0.13, mix_paint(rng, "skin"))
    pen.disc(-0.64, -0.12, 0.06, mix_paint(rng, "slate"))


def _mushroom(pen: Pen, rng: Random, excluded: Excluded) -> None:
    cap = mix_paint(rng, pick_colour(rng, excluded, ("red", "brown", "orange", "purple")))
    stem, spot = mix_paint(rng, "skin"), mix_paint(rng, "skin")
    pen.polygon([(-0.26, -0.05), (0.26, -0.05), (0.36, 1), (-0.36, 1)], stem)
    pen.polygon([(0.98 * x, 0.05 + 0.98 * y) for x, y in _arc(1.0, 180, 360, 24)], cap)
    for x, y, r in ((-0.5, -0.28, 0.14), (0.02, -0.58, 0.17), (0.5, -0.3, 0.15)):
        pen.disc(x, y, r, spot)


def _umbrella(pen: Pen, rng: Random, excluded: Excluded) -> None:
    paint = mix_paint(rng, pick_colour(rng, excluded, ("red", "blue", "yellow", "purple", "pink", "orange", "green")))
    handle = mix_paint(rng, "slate")
    pen.bar((0, -0.9), (0, 0.85), 0.1, handle)
    pen.polygon(_arc(0.24, 0, 180, 10, x=-0.19, y=0.78) + _arc(0.13, 180, 0, 10, x=-0.19, y=0.78), handle)
    edge: list[Point] = []
    for i in range(4):
        edge += _arc(0.245, 0, -180, 8, x=0.735 - 0.49 * i, y=0.12)
    pen.polygon([(x, y * 0.98 + 0.12) for x, y in _arc(0.98, 180, 360, 24)] + edge, paint)


def _balloon(pen: Pen, rng: Random, excluded: Excluded) -> None:
    paint = mix_paint(rng, pick_colour(rng, excluded, ("red", "yellow", "orange", "purple", "green", "pink", "blue")))
    rope = mix_paint(rng, "slate")
    for x in (-1, 1):
        pen.bar((x * 0.5, 0.1), (x * 0.16, 0.72), 0.06, rope)
    pen.disc(0, -0.3, 0.68, paint)
    pen.polygon([(-0.6, 0.0), (0.6, 0.0), (0.2, 0.48), (-0.2, 0.48)], paint)
    pen.polygon(ellipse_points(0, -0.3, 0.24, 0.68), shade(paint, 0.86))
    pen.box(-0.2, 0.7, 0.2, 1.0, mix_paint(rng, "slate"))


THINGS: dict[str, Callable[[Pen, Random, Excluded], None]] = {
    "house": _house,
    "tree": _tree,
    "sun": _sun,
    "moon": _moon,
    "cloud": _cloud,
    "flower": _flower,
    "boat": _boat,
    "car": _car,
    "fish": _fish,
    "mushroom": _mushroom,
    "umbrella": _umbrella,
    "hot air balloon": _balloon,
}
# How far, in degrees, a shape or thing may be turned and still be called what it is.
TURNS: dict[str, float] = {
    "circle": 180, "ring": 180, "arrow": 180, "square": 10, "triangle": 20, "star": 36, "heart": 18, "cross": 12,
    "house": 4, "tree": 4, "sun": 45, "moon": 30, "cloud": 5, "flower": 12, "boat": 8, "car": 5, "fish": 18,
    "mushroom": 10, "umbrella": 15, "hot air balloon": 8,
}  # fmt: skip
