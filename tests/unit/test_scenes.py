"""Drawn scenes: repeatable, and labelled only with what can be seen."""

from random import Random

import numpy as np
import pytest

from ramcore.scenes import drawing
from ramcore.scenes.backgrounds import REGION_TAGS
from ramcore.scenes.canvas import COLOURS, Canvas, Pen, mix_paint
from ramcore.scenes.demo_pictures import choose_seeds
from ramcore.scenes.drawing import SCENE_TAGS, TAG_NAMES, draw_batch, draw_located_batch, draw_scene
from ramcore.scenes.stream import SPLITS, scene_seeds, stream_batches
from ramcore.scenes.things import OUTLINES, THINGS, TURNS


@pytest.fixture(scope="module")
def sample():
    """A few hundred scenes with their labels and places."""
    return draw_located_batch(range(400), 96, 6)


def test_a_seed_is_a_scene():
    """The same seed gives the same pixels and labels, another seed another picture."""
    first, again, other = draw_scene(7), draw_scene(7), draw_scene(8)
    assert np.array_equal(first.image, again.image)
    assert first.labels == again.labels
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [64, 96, 224])
def test_pictures_have_the_size_asked_for(size):
    """Any side; uint8 RGB."""
    image = draw_scene(3, size).image
    assert image.shape == (size, size, 3)
    assert image.dtype == np.uint8


def test_every_tag_occurs_and_none_is_everywhere(sample):
    """No tag is too rare to be learned or measured."""
    shares = sample[1].mean(axis=0)
    assert shares.min() > 0.02
    assert shares.max() < 0.7


def test_tags_have_names_and_different_descriptions():
    """Chinese names and at least three different descriptions for every tag, no tag twice."""
    assert len(set(TAG_NAMES)) == len(SCENE_TAGS) >= 30
    for entry in SCENE_TAGS:
        assert entry.tag_zh
        assert len(set(entry.descriptions)) == 4
    assert {*OUTLINES, *THINGS, *COLOURS, *filter(None, REGION_TAGS)} <= set(TAG_NAMES)
    assert set(TURNS) == {*OUTLINES, *THINGS}


def _compose(draw):
    """A composition of one circle on a sheet, then whatever `draw(canvas)` puts in front."""
    canvas = Canvas(64)
    sheet = canvas.part(mix_paint(Random(3), "beige"), REGION_TAGS.index(""))
    canvas.polygon([(0, 0), (1, 0), (1, 1), (0, 1)], sheet)
    pen = Pen(canvas, len(REGION_TAGS), (0.5, 0.5), 0.2)
    pen.polygon(OUTLINES["circle"], mix_paint(Random(0), "red"))
    composition = drawing._Composition(canvas, drawing.Background())
    composition.objects.append("circle")
    composition.drawn.append(int(canvas.owner_pixels(len(REGION_TAGS) + 1)[-1]))
    draw(canvas)
    return composition


def _cover(share):
    """Hide this share of the circle (which is 0.31 … 0.69) from the left with a paint that has no name."""

    def draw(canvas):
        edge = 0.31 + 0.38 * share
        part = canvas.part(mix_paint(Random(1), "teal"), REGION_TAGS.index(""))
        canvas.polygon([(0, 0), (edge, 0), (edge, 1), (0, 1)], part)

    return draw


def test_only_what_is_visible_is_labelled():
    """Seen whole: labelled. Half hidden: the scene is refused, because people could disagree."""
    assert set(drawing._labels(_compose(_cover(0.0)))) == {"circle", "red", "one object"}
    assert set(drawing._labels(_compose(_cover(0.2)))) == {"circle", "red", "one object"}
    assert drawing._labels(_compose(_cover(0.55))) is None
    assert drawing._labels(_compose(_cover(1.0))) is None


def test_a_few_pixels_of_a_colour_are_no_label():
    """A speck is not labelled, a bit more makes the scene debatable, a clear patch counts."""

    def patch(side):
        def draw(canvas):
            part = canvas.part(mix_paint(Random(2), "green"), REGION_TAGS.index(""))
            canvas.polygon([(0, 0), (side, 0), (side, side), (0, side)], part)

        return draw

    assert "green" not in drawing._labels(_compose(patch(0.03)))
    assert drawing._labels(_compose(patch(0.08))) is None
    assert "green" in drawing._labels(_compose(patch(0.2)))


def test_colours_look_as_their_names_say():
    """The mean colour of a sheet of each named colour is nearest to that name's own shades."""
    centres = {name: np.mean([mix_paint(Random(i), name).rgb for i in range(50)], axis=0) for name in COLOURS}
    for name in COLOURS:
        for i in range(50, 80):
            paint = mix_paint(Random(i), name)
            distances = {other: np.abs(centre - paint.rgb).sum() for other, centre in centres.items()}
            assert min(distances, key=distances.get) == name


def test_places_agree_with_labels(sample):
    """What clearly has a place is a label, and things and regions that are labels have a place."""
    _, targets, places = sample
    # A speck of a colour that is too small for a label fills at most half of what a cell needs.
    assert ((places.max(axis=1) > 0.6) <= (targets > 0)).all()
    located = [TAG_NAMES.index(tag) for tag in [*OUTLINES, *THINGS, *filter(None, REGION_TAGS)]]
    assert ((places.max(axis=1) > 0)[:, located] == (targets[:, located] > 0)).all()


def test_splits_share_no_seed():
    """Even the longest training does not reach another split."""
    train = scene_seeds("train", 10**8, run=65535)
    others = [scene_seeds(split, 10**6) for split in SPLITS if split != "train"]
    assert all(train[-1] < seeds[0] for seeds in others)
    assert len({seeds[0] for seeds in others}) == len(others)


@pytest.mark.lengthy
def test_the_stream_is_the_same_with_and_without_workers():
    """Drawing ahead in another process changes nothing and keeps the order."""
    here = list(stream_batches(4, 3, 32, 4, run=2, workers=0))
    there = list(stream_batches(4, 3, 32, 4, run=2, workers=1))
    for a, b in zip(here, there, strict=True):
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert np.array_equal(here[1][0], draw_batch(scene_seeds("train", 4, 4, run=2), 32)[0])


@pytest.mark.lengthy
def test_demo_pictures_show_every_tag():
    """The choice is repeatable and covers the vocabulary."""
    seeds = choose_seeds(40)
    assert len(set(seeds)) == 40
    assert {label for seed in seeds for label in draw_scene(seed, 64, clean=True).labels} == set(TAG_NAMES)
