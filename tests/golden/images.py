"""The two input pictures of the goldens: smooth blobs, texture and noise, not square."""

import numpy as np

SIZES = {"tiny": [(90, 140), (150, 101)], "full": [(240, 320), (301, 211)]}


def synth_images(which):
    """Two RGB uint8 arrays [H, W, 3]; which: "tiny" or "full"."""
    return [_synth_image(seed, height, width) for seed, (height, width) in enumerate(SIZES[which], 1000)]


def _synth_image(seed, height, width):
    # The order of the draws decides the picture.
    rng = np.random.Generator(np.random.PCG64(seed))
    yy, xx = np.mgrid[0:height, 0:width].astype(np.float64)
    image = np.zeros((height, width, 3))
    for channel in range(3):
        for _ in range(6):
            cy, cx = rng.uniform(0, height), rng.uniform(0, width)
            spread = rng.uniform(0.08, 0.35) * min(height, width)
            amplitude = rng.uniform(-130, 130)
            squares = (yy - cy) ** 2 + (xx - cx) ** 2
            image[..., channel] += amplitude * np.exp(-squares / (2 * spread * spread))
        fy, fx = rng.uniform(0.05, 0.6, 2)
        image[..., channel] += 25 * np.sin(fy * yy + fx * xx + channel)
    image += 110 + rng.normal(0, 12, image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)
