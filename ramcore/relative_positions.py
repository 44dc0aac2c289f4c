"""Swin's relative position tables for another window, as the reference implementation resizes them."""

import numpy as np
import torch
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

from ramcore.errors import CheckpointError

# Where the ratio of the geometric grid is looked for, and how closely.
_LOWEST, _HIGHEST, _PRECISION = 1.01, 1.5, 1e-6


def resize_table(table: Tensor, window: int) -> Tensor:
    """The relative position biases for windows of `window` tokens' side.

    table: float [(2w − 1)², heads], row by row of vertical, then horizontal distance. Returns
    [(2 · window − 1)², heads] in its dtype, the same tensor where the window is w.

    The known biases are put at distances that grow geometrically, so that the outermost stay outermost and near
    ones keep their detail; between them, a cubic spline is read at the whole distances of the new window
    (the "geometric" interpolation of BEiT, arXiv:2106.08254, and BLIP). Raises `CheckpointError` for a table
    that is no square of distances, or of a window under 3, which has too few points for a cubic spline.
    """
    rows, heads = table.shape
    side, new_side = round(rows**0.5), 2 * window - 1
    if side * side != rows or side % 2 == 0:
        raise CheckpointError(f"a relative position table has {rows} rows: expected (2 · window − 1)²")
    if side == new_side:
        return table
    if side < 5:
        raise CheckpointError(f"relative positions of window {(side + 1) // 2} cannot be resized: it takes 3 or more")
    known, wanted = _geometric_grid(side // 2, new_side // 2), np.arange(-(new_side // 2), new_side // 2 + 1)
    values = table.float().numpy().reshape(side, side, heads)
    splines = (RectBivariateSpline(known, known, values[:, :, head], kx=3, ky=3) for head in range(heads))
    resized = np.stack([spline(wanted, wanted).ravel() for spline in splines], axis=1)
    return torch.from_numpy(resized).to(table.dtype)


def _geometric_grid(steps: int, reach: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """2 · steps + 1 places around 0, step k of length ratio^k, such that the outermost is at about ± reach."""
    low, high, ratio = _LOWEST, _HIGHEST, _LOWEST
    while high - low > _PRECISION:
        ratio = (low + high) / 2
        if (1 - ratio**steps) / (1 - ratio) > reach:
            high = ratio
        else:
            low = ratio
    positive = np.cumsum(ratio ** np.arange(steps, dtype=np.float64))
    return np.concatenate([-positive[::-1], [0.0], positive])
