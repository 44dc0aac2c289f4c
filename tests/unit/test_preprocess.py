"""uint8 pixels to model input."""

import goldens
import numpy as np
import PIL
import pytest
import torch
from PIL import Image

from ramcore.config import IMAGENET_MEAN, IMAGENET_STD
from ramcore.preprocess import normalise


def _normalise(pixels, size=128):
    return normalise(pixels, size, IMAGENET_MEAN, IMAGENET_STD)


_PILLOW = int(PIL.__version__.split(".")[0])


def test_pillow_resizes_as_for_the_goldens(tiny_golden):
    """The models' pixels are the reference's; Pillow before 13, with which they were not made, rounds otherwise."""
    pictures = (Image.fromarray(tiny_golden[name]) for name in ("image0", "image1"))
    pixels = np.stack([np.array(p.resize((128, 128), Image.Resampling.BILINEAR)) for p in pictures])
    difference = np.abs(pixels.astype(int) - goldens.model_pixels(tiny_golden))
    assert difference.max() <= (0 if _PILLOW >= 13 else 1)


def test_pictures_of_the_goldens_are_reproduced(tiny_golden):
    """The generator of the input pictures gives the stored ones."""
    pictures = goldens.synth_images("tiny")
    assert all(np.array_equal(p, tiny_golden[f"image{n}"]) for n, p in enumerate(pictures))


@pytest.mark.parametrize("channels_first", [False, True])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_normalised_pixels_equal_the_reference_bit_by_bit(tiny_golden, channels_first, as_tensor):
    """Both layouts, as array or tensor, give exactly the reference's input."""
    pixels = goldens.model_pixels(tiny_golden)
    if channels_first:
        pixels = pixels.transpose(0, 3, 1, 2)
    result = _normalise(torch.from_numpy(pixels) if as_tensor else pixels)
    assert result.is_contiguous()
    assert np.array_equal(result.numpy(), tiny_golden["preproc"])


def test_input_is_not_changed_and_may_be_read_only(tiny_golden):
    """Arrays in shared memory are read-only and stay as they are."""
    pixels = goldens.model_pixels(tiny_golden)
    before = pixels.copy()
    pixels.setflags(write=False)
    _normalise(pixels)
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((1, 128, 128, 3), np.float32), r"pixels are torch\.float32: give uint8"),
        (np.zeros((128, 128, 3), np.uint8), r"shape \[128, 128, 3\]: give uint8 \[B, 128, 128, 3\]"),
        (np.zeros((1, 96, 128, 3), np.uint8), r"shape \[1, 96, 128, 3\]"),
        (np.zeros((1, 128, 128, 4), np.uint8), r"shape \[1, 128, 128, 4\]"),
        ([[1]], "pixels are a list"),
    ],
)
def test_wrong_pixels_say_what_was_given_and_what_is_needed(pixels, message):
    """Another dtype, size or container is a ValueError that names it."""
    with pytest.raises(ValueError, match=message):
        _normalise(pixels)
