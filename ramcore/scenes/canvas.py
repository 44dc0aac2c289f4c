"""What drawn scenes are painted on: a map of parts, so that every pixel knows its colour and its owner.

A scene is drawn once, as small integers (one per painted part), at twice the wanted side. Colours, textures and
the question "how much of this object is still visible?" are then look-ups in that one map.
All coordinates are shares of the picture's side: (0, 0) top left, (1, 1) bottom right.
"""

import math
from collections.abc import Iterable, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Point = tuple[float, float]
Pixels = npt.NDArray[np.uint8]

SUPERSAMPLE = 2
_MAX_PARTS = 256
_CIRCLE = [(math.cos(2 * math.pi * i / 32), math.sin(2 * math.pi * i / 32)) for i in range(32)]


class Paint(NamedTuple):
    """A colour with the name it is labelled by; `name` is None for colours that no tag of ours describes.

    rgb: 0 … 255 each; texture: strength of the cloudy noise that is laid over it, in grey levels.
    """

    rgb: tuple[int, int, int]
    name: str | None = None
    texture: float = 0.0


# Hue in degrees, saturation and value in [0, 1], each a range. The gaps between neighbours are wide on purpose:
# there is no cyan, no dark red, no olive, so that every colour has exactly one name.
COLOURS: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-5, 5), (0.80, 0.95), (0.75, 0.92)),
    "orange": ((25, 33), (0.88, 1.0), (0.94, 1.0)),
    "yellow": ((51, 58), (0.75, 0.95), (0.94, 1.0)),
    "green": ((108, 140), (0.60, 0.90), (0.48, 0.72)),
    "blue": ((214, 228), (0.70, 0.95), (0.65, 0.95)),
    "purple": ((274, 286), (0.60, 0.85), (0.45, 0.65)),
    "pink": ((332, 344), (0.33, 0.48), (0.95, 1.0)),
    "brown": ((20, 27), (0.62, 0.75), (0.34, 0.45)),
    "black": ((0, 360), (0.0, 0.1), (0.03, 0.10)),
    "white": ((0, 360), (0.0, 0.03), (0.95, 1.0)),
    "gray": ((0, 360), (0.0, 0.04), (0.46, 0.60)),
}
_NAMELESS = {
    "teal": ((174, 182), (0.45, 0.70), (0.60, 0.75)),
    "beige": ((38, 44), (0.28, 0.40), (0.80, 0.90)),
    "mint": ((155, 165), (0.22, 0.32), (0.82, 0.90)),
    "slate": ((205, 225), (0.22, 0.30), (0.22, 0.27)),
    "glass": ((185, 192), (0.25, 0.35), (0.85, 0.92)),
    "sky": ((202, 212), (0.38, 0.60), (0.88, 1.0)),
    "skin": ((30, 36), (0.18, 0.26), (0.90, 0.96)),
}


def mix_paint(rng: Random, colour: str, texture: float = 0.0) -> Paint:
    """A random shade of a colour of `COLOURS`, or of one of the colours without a tag ("teal", "glass", …)."""
    ranges = COLOURS.get(colour) or _NAMELESS[colour]
    hue, saturation, value = (rng.uniform(*bounds) for bounds in ranges)
    return Paint(_hsv_to_rgb(hue, saturation, value), colour if colour in COLOURS else None, texture)


def shade(paint: Paint, factor: float) -> Paint:
    """The same named colour, darker (factor < 1) or lighter (> 1)."""
    red, green, blue = (min(255, round(channel * factor)) for channel in paint.rgb)
    return paint._replace(rgb=(red, green, blue))


def _hsv_to_rgb(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    def channel(offset: float) -> int:
        k = (offset + hue / 60) % 6
        return round(255 * (value - value * saturation * max(0.0, min(k, 4 - k, 1.0))))

    return channel(5), channel(3), channel(1)


class Canvas:
    """A square map of parts. `owner` 0 … are objects and background regions, numbered by who paints."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.side = size * SUPERSAMPLE
        self.image = Image.new("L", (self.side, self.side))
        self._draw = ImageDraw.Draw(self.image)
        self._parts: dict[tuple[Paint, int], int] = {}

    def part(self, paint: Paint, owner: int) -> int:
        """The number in the map that stands for this paint of this owner."""
        part = self._parts.setdefault((paint, owner), len(self._parts))
        if part >= _MAX_PARTS:
            raise ValueError(f"a scene has more than {_MAX_PARTS} parts: draw fewer objects")
        return part

    def polygon(self, points: Iterable[Point], part: int) -> None:
        """Fill a polygon given by its corners."""
        side = self.side
        self._draw.polygon([(x * side, y * side) for x, y in points], fill=part)

    def stencil(self, points: Iterable[Point]) -> Image.Image:
        """A polygon as an "L" mask (0 or 255) of the map's side, for `paste`."""
        mask = Image.new("L", self.image.size)
        side = self.side
        ImageDraw.Draw(mask).polygon([(x * side, y * side) for x, y in points], fill=255)
        return mask

    def paste(self, parts: Pixels, mask: Image.Image | None = None) -> None:
        """Put a whole map of parts [side, side] where the mask is set (everywhere without one)."""
        if mask is None:
            self.image.paste(Image.fromarray(parts))
        else:
            self.image.paste(Image.fromarray(parts), mask=mask)

    def owner_pixels(self, owners: int) -> npt.NDArray[np.int64]:
        """Visible pixels of every owner 0 … owners − 1."""
        counts = self._counts()
        table = np.zeros(owners, dtype=np.int64)
        for (_, owner), part in self._parts.items():
            table[owner] += counts[part]
        return table

    def part_cells(self, grid: int) -> list[tuple[Paint, int, npt.NDArray[np.float32]]]:
        """Paint and owner of every part, and the share of each cell of a grid that it visibly covers.

        The shares are float32 [grid, grid].
        """
        row = np.arange(self.side) * grid // self.side
        index = np.asarray(self.image) * np.int32(grid**2) + (row[:, None] * grid + row[None, :])
        counts = np.bincount(index.ravel(), minlength=len(self._parts) * grid**2).reshape(-1, grid, grid)
        cells = (counts * (grid / self.side) ** 2).astype(np.float32)
        return [(paint, owner, cells[part]) for (paint, owner), part in self._parts.items()]

    def colour_shares(self) -> dict[str, float]:
        """Share of the picture covered by each named colour that is in it."""
        counts = self._counts()
        shares: dict[str, float] = {}
        for (paint, _), part in self._parts.items():
            if paint.name is not None:
                shares[paint.name] = shares.get(paint.name, 0.0) + float(counts[part]) / self.side**2
        return shares

    def _counts(self) -> list[int]:
        return self.image.histogram()

    def render(self) -> tuple[Pixels, npt.NDArray[np.float32]]:
        """The picture, uint8 [size, size, 3], antialiased; and its texture strength, float32 [size, size]."""
        colours = np.zeros((_MAX_PARTS, 3), dtype=np.uint8)
        textures = np.zeros(_MAX_PARTS, dtype=np.float32)
        for (paint, _), part in self._parts.items():
            colours[part] = paint.rgb
            textures[part] = paint.texture
        parts = np.asarray(self.image)
        picture = Image.fromarray(colours[parts]).reduce(SUPERSAMPLE)
        return np.asarray(picture), textures[parts[::SUPERSAMPLE, ::SUPERSAMPLE]]


class Pen:
    """Draws one object in its own frame, x and y from −1 to 1 (y downwards), placed, turned and scaled.

    centre: shares of the picture's side; half: half the object's extent, likewise; angle: degrees clockwise.
    """

    def __init__(
        self, canvas: Canvas, owner: int, centre: Point, half: float, angle: float = 0.0, mirror: bool = False
    ) -> None:
        self.canvas = canvas
        self.owner = owner
        self.centre = centre
        self.half = half
        self._flip = -1.0 if mirror else 1.0
        self._cos, self._sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))

    def place(self, points: Iterable[Point]) -> list[Point]:
        """Points of the object's frame in the picture's."""
        cx, cy = self.centre
        cos, sin, half, flip = self._cos, self._sin, self.half, self._flip
        return [(cx + half * (flip * x * cos - y * sin), cy + half * (flip * x * sin + y * cos)) for x, y in points]

    def polygon(self, points: Iterable[Point], paint: Paint) -> None:
        """Fill a polygon."""
        self.canvas.polygon(self.place(points), self.canvas.part(paint, self.owner))

    def box(self, left: float, top: float, right: float, bottom: float, paint: Paint) -> None:
        """Fill a rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], paint)

    def disc(self, x: float, y: float, radius: float, paint: Paint, flatten: float = 1.0) -> None:
        """Fill a circle, or an ellipse `flatten` times as high as wide."""
        self.polygon(ellipse_points(x, y, radius, radius * flatten), paint)

    def bar(self, start: Point, end: Point, width: float, paint: Paint) -> None:
        """Fill a straight bar from start to end."""
        dx, dy = end[0] - start[0], end[1] - start[1]
        length = math.hypot(dx, dy)
        nx, ny = -dy / length * width / 2, dx / length * width / 2
        (x0, y0), (x1, y1) = start, end
        self.polygon([(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)], paint)

    def pattern(self, points: Sequence[Point], pattern: str, paints: tuple[Paint, Paint], rng: Random) -> None:
        """Fill a polygon with stripes, dots or squares of two colours, sized to the object."""
        parts = self.canvas.part(paints[0], self.owner), self.canvas.part(paints[1], self.owner)
        period = 2 * self.half / rng.uniform(2.6, 3.6)
        fill = pattern_parts(self.canvas.side, pattern, parts, period, self.centre, rng)
        self.canvas.paste(fill, self.canvas.stencil(self.place(points)))


def ellipse_points(x: float, y: float, rx: float, ry: float) -> list[Point]:
    """The corners of a 32-gon that stands for an ellipse."""
    return [(x + rx * cos, y + ry * sin) for cos, sin in _CIRCLE]


def pattern_parts(side: int, pattern: str, parts: tuple[int, int], period: float, centre: Point, rng: Random) -> Pixels:
    """A map of parts [side, side] with a "striped", "dotted" or "checkered" pattern of two parts.

    period: share of the side after which the pattern repeats; centre: where it is anchored.
    """
    axis = np.arange(side, dtype=np.float32) / side
    x = (axis[None, :] - centre[0]) / period
    y = (axis[:, None] - centre[1]) / period
    if pattern == "striped":
        angle = rng.choice((0.0, 45.0, 90.0, 135.0)) + rng.uniform(-8, 8)
        inside = (x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle))) % 1 < 0.5
    elif pattern == "checkered":
        inside = (np.floor(x * 2 + 0.5) + np.floor(y * 2 + 0.5)) % 2 < 1
    elif pattern == "dotted":
        shifted = x + 0.5 * (np.floor(y) % 2)
        inside = ((shifted % 1) - 0.5) ** 2 + ((y % 1) - 0.5) ** 2 < 0.3**2
    else:
        raise ValueError(f"pattern is {pattern!r}: give striped, dotted or checkered")
    return np.where(inside, np.uint8(parts[0]), np.uint8(parts[1]))
