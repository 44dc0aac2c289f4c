"""Backgrounds of drawn scenes: landscapes with a sky and a ground, plain sheets, patterns and brick walls."""

from dataclasses import dataclass, field
from random import Random

import numpy as np

from ramcore.scenes.canvas import Canvas, Paint, Point, mix_paint, pattern_parts, shade

REGION_TAGS = ("sky", "night", "grass", "sand", "sea", "snow", "mountain", "brick wall", "")
"""Owners of background parts by number; the last is everything that has no tag of its own."""

_OWNER = {tag: number for number, tag in enumerate(REGION_TAGS)}
_PLAIN = ("teal", "beige", "mint", "red", "orange", "yellow", "purple", "pink", "brown", "white", "gray")
_IN_SKY = {"sky": ("sun", "cloud", "hot air balloon"), "night": ("moon", "moon", "cloud")}
_ON_GROUND = {
    "grass": ("house", "tree", "flower", "mushroom", "car"),
    "sand": ("umbrella", "house", "car", "tree"),
    "snow": ("house", "tree", "car"),
    "sea": ("boat", "boat", "fish"),
}


@dataclass
class Background:
    """What lies behind the objects.

    tags: patterns and weather, true for the whole picture; horizon: where the sky ends, from the top;
    above, below: named colours there; sky, ground: tags of the regions, or None.
    """

    tags: set[str] = field(default_factory=set)
    horizon: float = 0.0
    above: set[str] = field(default_factory=set)
    below: set[str] = field(default_factory=set)
    sky: str | None = None
    ground: str | None = None
    rain: bool = False
    pattern: str | None = None

    def colours_at(self, y: float, half: float) -> frozenset[str]:
        """Named colours behind an object at height y, with half its extent."""
        colours: set[str] = set()
        if y - half * 0.5 < self.horizon:
            colours |= self.above
        if y + half * 0.5 > self.horizon:
            colours |= self.below
        return frozenset(colours)

    def fitting(self, y: float) -> tuple[str, ...]:
        """Names of things that belong to height y."""
        if self.sky is not None and y < self.horizon * 0.75:
            return _IN_SKY[self.sky]
        if self.ground is not None and y > self.horizon * 0.75:
            return _ON_GROUND[self.ground]
        return ()


def draw_background(canvas: Canvas, rng: Random) -> Background:
    """Fill the canvas with a random background and say what it is."""
    kind = rng.choices(("landscape", "plain", "pattern", "bricks"), (0.54, 0.26, 0.13, 0.07))[0]
    if kind == "landscape":
        background = _landscape(canvas, rng)
    else:
        background = {"plain": _plain, "pattern": _pattern, "bricks": _bricks}[kind](canvas, rng)
    if rng.random() < (0.12 if kind == "landscape" else 0.03) and "white" not in background.below:
        background.rain = True
        background.tags.add("rain")
    return background


def _fill(canvas: Canvas, top: float, bottom: float, paint: Paint, tag: str) -> None:
    corners = [(-0.1, top), (1.1, top), (1.1, bottom), (-0.1, bottom)]
    canvas.polygon(corners, canvas.part(paint, _OWNER[tag]))


def _plain(canvas: Canvas, rng: Random) -> Background:
    paint = mix_paint(rng, rng.choice(_PLAIN), texture=rng.choice((0.0, 0.0, 3.0)))
    _fill(canvas, -0.1, 1.1, paint, "")
    colours = {paint.name} if paint.name else set()
    return Background(below=colours, above=colours)


def _pattern(canvas: Canvas, rng: Random) -> Background:
    pattern = rng.choice(("striped", "dotted", "checkered"))
    first, second = rng.choice(_PATTERN_PAIRS)
    paints = mix_paint(rng, first), mix_paint(rng, second)
    parts = canvas.part(paints[0], _OWNER[""]), canvas.part(paints[1], _OWNER[""])
    period = rng.uniform(0.14, 0.26)
    canvas.paste(pattern_parts(canvas.side, pattern, parts, period, (rng.random(), rng.random()), rng))
    colours = {paint.name for paint in paints if paint.name}
    return Background(tags={pattern}, above=colours, below=colours, pattern=pattern)


_PATTERN_PAIRS = (
    ("teal", "white"), ("beige", "teal"), ("white", "gray"), ("beige", "brown"), ("pink", "white"),
    ("yellow", "gray"), ("slate", "beige"), ("mint", "purple"), ("orange", "beige"), ("red", "white"),
    ("blue", "white"), ("black", "white"), ("green", "beige"),
)  # fmt: skip


def _bricks(canvas: Canvas, rng: Random) -> Background:
    brick = mix_paint(rng, "brown", texture=5.0)
    paints = [brick._replace(rgb=shade(brick, factor).rgb) for factor in (1.2, 1.32, 1.45)]
    parts = np.array([canvas.part(paint, _OWNER["brick wall"]) for paint in paints], dtype=np.uint8)
    mortar = canvas.part(mix_paint(rng, "beige"), _OWNER["brick wall"])
    rows = rng.randint(6, 9)
    axis = (np.arange(canvas.side, dtype=np.float32) + 0.5) / canvas.side * rows
    row = np.floor(axis).astype(int)
    along = axis[None, :] / 2 + 0.5 * (row[:, None] % 2)
    column = np.floor(along).astype(int)
    shades = np.array([rng.randrange(3) for _ in range(97)])
    fill = parts[shades[(row[:, None] * 7 + column * 13) % 97]]
    joint = ((axis % 1)[:, None] < 0.14) | (along % 1 < 0.07)
    canvas.paste(np.where(joint, np.uint8(mortar), fill))
    return Background(above={"brown", "red"}, below={"brown", "red"})


def _landscape(canvas: Canvas, rng: Random) -> Background:
    horizon = rng.uniform(0.42, 0.68)
    sky = rng.choices(("sky", "night"), (0.7, 0.3))[0]
    ground = rng.choices(("grass", "sand", "sea", "snow"), (0.32, 0.2, 0.28, 0.2))[0]
    whole = rng.random()
    if whole < 0.08:
        horizon = 1.2  # nothing but sky
    elif whole < 0.14 and ground == "sea":
        horizon = -0.2  # under water
    background = Background(horizon=horizon, sky=sky, ground=ground)
    if horizon > 0:
        background.above |= _sky(canvas, rng, sky, horizon)
        if horizon < 1 and rng.random() < 0.22:
            background.above |= _mountains(canvas, rng, horizon)
    if horizon < 1:
        background.below |= _GROUNDS[ground](canvas, rng, horizon)
    if horizon < 0:
        background.sky = None
    elif horizon > 1:
        background.ground = None
    return background


def _sky(canvas: Canvas, rng: Random, tag: str, horizon: float) -> set[str]:
    if tag == "night":
        paint = mix_paint(rng, "black")
        _fill(canvas, -0.1, horizon, paint, tag)
        star = canvas.part(mix_paint(rng, "skin"), _OWNER[tag])
        for _ in range(rng.randint(14, 26)):
            x, y, r = rng.random(), rng.uniform(0, horizon), rng.uniform(0.005, 0.009)
            canvas.polygon([(x - r, y), (x, y - r), (x + r, y), (x, y + r)], star)
        return {"black"}
    paint = mix_paint(rng, "sky")._replace(name="blue")
    steps = 6
    for i in range(steps):
        fade = 0.35 * i / steps
        red, green, blue = (round(channel + (250 - channel) * fade) for channel in paint.rgb)
        band = paint._replace(rgb=(red, green, blue))
        _fill(canvas, horizon * i / steps if i else -0.1, horizon, band, tag)
    return {"blue", "white"} if horizon < 0.2 else {"blue"}


def _mountains(canvas: Canvas, rng: Random, horizon: float) -> set[str]:
    rock = mix_paint(rng, "gray", texture=4.0)
    x = rng.uniform(-0.1, 0.2)
    while x < 1.1:
        width, height = rng.uniform(0.28, 0.45), rng.uniform(0.22, 0.34)
        part = canvas.part(shade(rock, rng.uniform(0.9, 1.1)), _OWNER["mountain"])
        peak: Point = (x, horizon - height)
        canvas.polygon([(x - width, horizon), peak, (x + width, horizon)], part)
        x += width * rng.uniform(0.9, 1.3)
    return {"gray"}


def _grass(canvas: Canvas, rng: Random, horizon: float) -> set[str]:
    paint = mix_paint(rng, "green", texture=9.0)
    _fill(canvas, horizon, 1.1, paint, "grass")
    blades = [canvas.part(shade(paint, factor), _OWNER["grass"]) for factor in (0.72, 1.25)]
    for _ in range(60):
        x, y = rng.random(), rng.uniform(horizon + 0.03, 1.05)
        height, lean = rng.uniform(0.025, 0.05), rng.uniform(-0.02, 0.02)
        canvas.polygon([(x - 0.008, y), (x + lean, y - height), (x + 0.008, y)], rng.choice(blades))
    return {"green"}


def _sand(canvas: Canvas, rng: Random, horizon: float) -> set[str]:
    _fill(canvas, horizon, 1.1, mix_paint(rng, "beige", texture=10.0), "sand")
    return set()


def _snow(canvas: Canvas, rng: Random, horizon: float) -> set[str]:
    paint = mix_paint(rng, "white", texture=3.0)
    _fill(canvas, horizon, 1.1, paint, "snow")
    drift = canvas.part(shade(paint, 0.94), _OWNER["snow"])
    for _ in range(3):
        x, y, width = rng.random(), rng.uniform(horizon + 0.1, 1.0), rng.uniform(0.2, 0.4)
        canvas.polygon([(x - width, y), (x, y - 0.05), (x + width, y), (x, y + 0.02)], drift)
    return {"white"}


def _sea(canvas: Canvas, rng: Random, horizon: float) -> set[str]:
    paint = mix_paint(rng, "blue", texture=3.0)
    _fill(canvas, horizon, 1.1, paint, "sea")
    crest = canvas.part(shade(paint, 1.3), _OWNER["sea"])
    for _ in range(26):
        x, y, width = rng.random(), rng.uniform(max(horizon, 0) + 0.03, 1.0), rng.uniform(0.05, 0.1)
        canvas.polygon([(x - width, y), (x, y - 0.02), (x + width, y), (x, y - 0.008)], crest)
    return {"blue"}


_GROUNDS = {"grass": _grass, "sand": _sand, "sea": _sea, "snow": _snow}
