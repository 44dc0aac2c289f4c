"""Drawn scenes with exact labels: what the demo model learns from and is measured on.

`draw_scene(seed, size)` composes shapes and things on a background, draws them on a map of parts
(`ramcore.scenes.canvas`), and labels only what can be seen:

- an object counts when at least 60 % of it is visible after everything in front of it was drawn;
- a colour counts when it covers at least 1 % of the picture;
- compositions with an object less visible than that, or a colour on 0.35 to 1 %, are drawn anew, so that no
  picture has a label about which two people could disagree.
"""

import io
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from ramcore.scenes.backgrounds import REGION_TAGS, Background, draw_background
from ramcore.scenes.canvas import Canvas, Pen, Pixels, Point
from ramcore.scenes.tags import SCENE_TAGS, TAG_NAMES, SceneTag
from ramcore.scenes.things import OUTLINES, PATTERNED, THINGS, TURNS, draw_outline

__all__ = ["SCENE_TAGS", "TAG_NAMES", "Scene", "SceneTag", "draw_scene"]

OBJECT_VISIBLE = 0.60
COLOUR_VISIBLE, COLOUR_ABSENT = 0.010, 0.0035
REGION_VISIBLE = 0.06
CLOSE_UP_EXTENT = 0.62
# What scenes hold, and how often; the easy mixture is for the beginning of a training.
KINDS = {"one": 0.24, "few": 0.46, "many": 0.17, "close": 0.13}
KINDS_EASY = {"one": 0.40, "few": 0.15, "many": 0.05, "close": 0.40}
# Extent of an object as a share of the picture's side.
SIZES = {"one": (0.26, 0.48), "few": (0.22, 0.42), "many": (0.18, 0.26)}

Targets = npt.NDArray[np.float32]

_SHEET = REGION_TAGS.index("")  # owner of plain sheets and patterns


class Scene(NamedTuple):
    """image: uint8 [size, size, 3], RGB; labels: the tags that are true, in the order of `TAG_NAMES`."""

    image: Pixels
    labels: tuple[str, ...]


@dataclass
class _Composition:
    """What was drawn so far: the canvas and, per owner number, its tag and how many pixels it had when drawn."""

    canvas: Canvas
    background: Background
    objects: list[str] = field(default_factory=list)
    drawn: list[int] = field(default_factory=list)
    patterns: dict[int, str] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    boxes: list[tuple[float, float, float]] = field(default_factory=list)


def draw_scene(seed: int, size: int = 96, *, clean: bool = False) -> Scene:
    """Draw the scene that belongs to a seed.

    size: side in pixels. clean: without noise, blur and JPEG artefacts (for pictures to look at).
    The same arguments give the same picture and labels.
    """
    return _draw(seed, size, clean=clean)[0]


def _draw(seed: int, size: int, *, clean: bool, easy: bool = False) -> tuple[Scene, _Composition]:
    rng = Random(seed)
    labels = None
    while labels is None:
        composition = _compose(rng, size, KINDS_EASY if easy else KINDS)
        labels = _labels(composition)
    image, texture = composition.canvas.render()
    noise = np.random.default_rng(seed)
    picture = _light(image, texture, rng, noise)
    if composition.background.rain:
        picture = _rain(picture, rng)
    return Scene(picture if clean else _camera(picture, rng, noise), labels), composition


def _compose(rng: Random, size: int, kinds: dict[str, float]) -> _Composition:
    canvas = Canvas(size)
    kind = rng.choices(list(kinds), list(kinds.values()))[0]
    background = draw_background(canvas, rng)
    composition = _Composition(canvas, background)
    composition.tags |= background.tags
    if background.pattern is not None:
        composition.patterns[_SHEET] = background.pattern
    if kind == "close":
        half = rng.uniform(CLOSE_UP_EXTENT, 0.85) / 2
        _add_object(composition, rng, half, (rng.uniform(0.44, 0.56), rng.uniform(0.44, 0.56)))
        composition.tags.add("close-up")
        count = rng.choice((0, 0, 1))
    else:
        low, high = {"one": (1, 1), "few": (2, 4), "many": (5, 8)}[kind]
        count = rng.randint(low, high)
    twins = count > 1 and rng.random() < 0.3
    name = None
    for _ in range(count):
        half = rng.uniform(*SIZES["many" if kind in ("many", "close") else kind]) / 2
        place = _free_place(composition, rng, half)
        if place is None:
            break
        name = _add_object(composition, rng, half, place, name if twins else None)
    return composition


def _free_place(composition: _Composition, rng: Random, half: float) -> Point | None:
    """A random centre whose object would cover others only at their edge, or None."""
    for _ in range(40):
        x, y = rng.uniform(half * 0.8, 1 - half * 0.8), rng.uniform(half * 0.8, 1 - half * 0.8)
        if all(
            max(abs(x - other_x), abs(y - other_y)) > 0.78 * (half + other)
            for other_x, other_y, other in composition.boxes
        ):
            return x, y
    return None


def _add_object(composition: _Composition, rng: Random, half: float, centre: Point, name: str | None = None) -> str:
    """Draw one object, of the given or a fitting random name; returns the name."""
    if name is None:
        name = _pick_name(composition.background, rng, centre[1])
    owner = len(REGION_TAGS) + len(composition.objects)
    excluded = composition.background.colours_at(centre[1], half)
    turn = TURNS[name]
    pen = Pen(composition.canvas, owner, centre, half, rng.uniform(-turn, turn), rng.random() < 0.5)
    if name in OUTLINES:
        pattern = None
        if name in PATTERNED and half > 0.17 and rng.random() < 0.7:
            pattern = rng.choice(("striped", "dotted", "checkered"))
            composition.tags.add(pattern)
            composition.patterns[owner] = pattern
        draw_outline(pen, name, rng, excluded, pattern)
    else:
        THINGS[name](pen, rng, excluded)
    composition.objects.append(name)
    composition.boxes.append((*centre, half))
    composition.drawn.append(int(composition.canvas.owner_pixels(owner + 1)[owner]))
    return name


def _pick_name(background: Background, rng: Random, y: float) -> str:
    """Mostly what belongs to that place of the background, at times anything."""
    fitting = background.fitting(y)
    if fitting and rng.random() < 0.6:
        return rng.choice(fitting)
    return rng.choice([*OUTLINES, *THINGS])


def _labels(composition: _Composition) -> tuple[str, ...] | None:
    """The tags that are true for this composition, or None when any of them would be debatable."""
    tags = set(composition.tags)
    regions, objects = len(REGION_TAGS), composition.objects
    pixels = composition.canvas.owner_pixels(regions + len(objects))
    total = composition.canvas.side**2
    for tag, seen in zip(REGION_TAGS, pixels[:regions], strict=True):
        if seen > REGION_VISIBLE * total:
            tags.add(tag)
        elif seen:
            return None
    for tag, drawn, seen in zip(objects, composition.drawn, pixels[regions:], strict=True):
        if seen < OBJECT_VISIBLE * drawn:
            return None
        tags.add(tag)
    for colour, share in composition.canvas.colour_shares().items():
        if share >= COLOUR_VISIBLE:
            tags.add(colour)
        elif share > COLOUR_ABSENT:
            return None
    count = len(objects)
    if count in (1, 2, 3):
        tags.add(("one object", "two objects", "three objects")[count - 1])
    elif count >= 5:
        tags.add("many objects")
    return tuple(tag for tag in TAG_NAMES if tag in tags)


def _light(image: Pixels, texture: npt.NDArray[np.float32], rng: Random, noise: np.random.Generator) -> Pixels:
    """Add the parts' cloudy texture and light that falls off to one side; uint8 [size, size, 3]."""
    size = image.shape[0]
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    across, down = rng.uniform(-0.07, 0.07), rng.uniform(-0.07, 0.07)
    light = 1 + across * axis[None, :] + down * axis[:, None]
    result = image * light[:, :, None]
    if texture.any():
        cells = noise.standard_normal((rng.choice((28, 40, 56)),) * 2, dtype=np.float32)
        clouds = np.asarray(Image.fromarray(cells).resize((size, size), Image.Resampling.BICUBIC))
        result += (texture * clouds)[:, :, None]
    return result.clip(0, 255).astype(np.uint8)


def _rain(image: Pixels, rng: Random) -> Pixels:
    """Draw slanted light streaks over the whole picture."""
    size = image.shape[0]
    canvas = Canvas(size)
    lean = rng.uniform(0.15, 0.4) * rng.choice((-1, 1))
    for _ in range(rng.randint(45, 75)):
        x, y, length = rng.uniform(-0.2, 1.2), rng.uniform(-0.1, 1.0), rng.uniform(0.08, 0.14)
        width = 0.008
        end = x + lean * length, y + length
        canvas.polygon([(x, y), (x + width, y), (end[0] + width, end[1]), end], 255)
    streaks = np.asarray(canvas.image.reduce(2), dtype=np.float32)[:, :, None] / 255
    drop = np.array((215, 225, 240), dtype=np.float32)
    return (image + (drop - image) * streaks * 0.75).astype(np.uint8)


def _camera(image: Pixels, rng: Random, noise: np.random.Generator) -> Pixels:
    """What a camera does to a picture: exposure, blur, noise, JPEG. uint8 in and out."""
    gain, offset = rng.uniform(0.88, 1.08), rng.uniform(-8, 8)
    result = image.astype(np.float32) * gain + offset
    if rng.random() < 0.6:
        result += noise.standard_normal(result.shape, dtype=np.float32) * rng.uniform(1, 9)
    picture = Image.fromarray(result.clip(0, 255).astype(np.uint8))
    if rng.random() < 0.3:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.8) * image.shape[0] / 112))
    if rng.random() < 0.5:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=rng.randint(40, 95))
        picture = Image.open(buffer)
    return np.asarray(picture)


def draw_batch(seeds: range, size: int) -> tuple[Pixels, npt.NDArray[np.float32]]:
    """Scenes of several seeds: images uint8 [B, size, size, 3] and targets float32 [B, tags], 0 or 1."""
    images = np.empty((len(seeds), size, size, 3), dtype=np.uint8)
    targets = np.zeros((len(seeds), len(TAG_NAMES)), dtype=np.float32)
    for row, seed in enumerate(seeds):
        images[row], labels = draw_scene(seed, size)
        targets[row, [_TAG_IDS[label] for label in labels]] = 1
    return images, targets


_TAG_IDS = {tag: tag_id for tag_id, tag in enumerate(TAG_NAMES)}


def draw_located_batch(seeds: range, size: int, grid: int, *, easy: bool = False) -> tuple[Pixels, Targets, Targets]:
    """As `draw_batch`, and where the tags are: float32 [B, grid², tags] in [0, 1].

    A cell has a thing, region, pattern or colour fully (1) when at least a quarter of it shows that; below, in
    proportion. Weather and counts have no place. easy: mostly single and big objects.
    """
    images = np.empty((len(seeds), size, size, 3), dtype=np.uint8)
    targets = np.zeros((len(seeds), len(TAG_NAMES)), dtype=np.float32)
    places = np.zeros((len(seeds), len(TAG_NAMES), grid, grid), dtype=np.float32)
    for row, seed in enumerate(seeds):
        (images[row], labels), composition = _draw(seed, size, clean=False, easy=easy)
        targets[row, [_TAG_IDS[label] for label in labels]] = 1
        owners = [*REGION_TAGS, *composition.objects]
        for paint, owner, cells in composition.canvas.part_cells(grid):
            for tag in (owners[owner], composition.patterns.get(owner), paint.name):
                if tag:
                    places[row, _TAG_IDS[tag]] += cells
    places = (places * 4).clip(0, 1)
    return images, targets, places.reshape(len(seeds), len(TAG_NAMES), grid**2).transpose(0, 2, 1)
