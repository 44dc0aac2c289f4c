"""uint8 pixels to the normalised float tensor that the models take."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

PixelBatch = Tensor | npt.NDArray[np.uint8]
"""uint8 RGB, [B, S, S, 3] or [B, 3, S, S]."""


def normalise(
    pixels: PixelBatch,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Normalise RGB uint8 [B, size, size, 3] or [B, 3, size, size] to float32 [B, 3, size, size] on `device`.

    The order of operations is the reference's (to float32, / 255, − mean, / std), so the result is bit-equal
    to torchvision's ToTensor and Normalize. Bytes, not floats, travel to the device. Raises ValueError for
    another dtype or shape.
    """
    batch = _as_tensor(pixels)
    wanted = f"uint8 [B, {size}, {size}, 3] or [B, 3, {size}, {size}]"
    if batch.dtype != torch.uint8:
        raise ValueError(f"pixels are {batch.dtype}: give {wanted}, values 0 to 255")
    shape = tuple(batch.shape)
    if shape[1:] == (size, size, 3):
        batch = batch.permute(0, 3, 1, 2)
    elif shape[1:] != (3, size, size):
        raise ValueError(f"pixels have shape {list(shape)}: give {wanted}")
    floats = _sent(batch, torch.device(device)).contiguous().to(torch.float32).div_(255)
    return floats.sub_(_per_channel(tuple(mean), floats.device)).div_(_per_channel(tuple(std), floats.device))


def _as_tensor(pixels: PixelBatch) -> Tensor:
    if isinstance(pixels, Tensor):
        return pixels
    if not isinstance(pixels, np.ndarray):
        raise ValueError(f"pixels are a {type(pixels).__name__}: give a numpy array or a torch tensor")
    if not (pixels.flags.writeable and pixels.flags.c_contiguous):
        # PyTorch shares memory with writable arrays only; arrays from shared memory are read-only.
        pixels = pixels.copy()
    return torch.from_numpy(pixels)


def _sent(batch: Tensor, device: torch.device) -> Tensor:
    """The batch on the device. A card fetches it by itself, from memory that does not move: the caller goes on."""
    if device.type != "cuda" or batch.is_cuda:
        return batch.to(device)
    staged = torch.empty_like(batch, pin_memory=True)  # PyTorch reuses it only when the card has read it
    return staged.copy_(batch).to(device, non_blocking=True)


@lru_cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """On the device once: a copy to a card waits for all that the card was asked for before."""
    with torch.inference_mode(False):  # so that the one copy can be used in training too
        return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
