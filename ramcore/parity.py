"""The parity gate: how far each way of computing is from float64, on the same weights and pictures.

The referee is the float32 model run in float64 on the CPU, from the same uint8 pixels. What is compared are
logits, and the decisions at the bundle's thresholds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ramcore.preprocess import normalise
from ramcore.tag_model import TagModel
from ramcore.tagger import Tagger
from ramcore.vocabulary import Vocabulary

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Bound:
    """Largest and mean difference of logits that a backend may have."""

    max_error: float
    mean_error: float


BOUNDS: Mapping[str, Bound] = {
    "fp32": Bound(5e-5, 1e-5),
    "bf16": Bound(0.15, 0.05),
    "fp16": Bound(0.03, 0.006),
}
"""Bounds of the dtypes; "-compiled" backends have the same.

Measured on the released architectures with synthetic weights: fp32 1.3e-5 at most and 2e-6 on average, bf16 0.15
and 0.025 (0.042 for a tiny RAM++, whose few channels average less), fp16 0.014 at most; the last is from one
machine and its mean is not known. A weight file whose logits are larger errs more in bf16."""


@dataclass(frozen=True)
class Parity:
    """What one backend does on all pictures.

    max_error, mean_error: of logits. flips: decisions unlike the referee's, of `decisions`. f1: of the tags against
    the referee's, over all pictures; 1 where neither has any. within_bound: both errors are.
    """

    backend: str
    device: str
    max_error: float
    mean_error: float
    flips: int
    decisions: int
    f1: float
    bound: Bound
    within_bound: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def default_backends(device: torch.device) -> list[str]:
    """fp32 and bf16, and fp16 where the device has it."""
    return ["fp32", "bf16", "fp16"] if device.type == "cuda" else ["fp32", "bf16"]


def builtin_pixels(size: int) -> Pixels:
    """Four pictures that need no file: colours, edges, texture and noise; uint8 [4, size, size, 3]."""
    generator = np.random.default_rng(0)
    y, x = np.mgrid[0:size, 0:size] / size
    ramps = np.stack([x, y, 1 - x], axis=-1)
    board = np.repeat((((x * 8).astype(int) + (y * 8).astype(int)) % 2)[..., None], 3, axis=-1) * [1.0, 0.6, 0.2]
    waves = 0.5 + 0.5 * np.sin(np.stack([40 * x, 30 * y, 25 * (x + y)], axis=-1))
    noise = generator.random((size, size, 3))
    pictures = np.stack([ramps, board, waves, noise])
    return (pictures * 255).round().astype(np.uint8)


def check_parity(tagger: Tagger, backends: Sequence[str], pixels: Pixels) -> list[Parity]:
    """Compare backends on the same pictures.

    tagger: loaded in fp32, on the device to check. backends: of `BOUNDS`, each with "-compiled" after it for
    torch.compile. pixels: uint8 [B, S, S, 3], B > 0; taken one by one, by what is compiled together. Raises ValueError
    for an unknown backend, a tagger of another dtype or no pictures.
    """
    _check_arguments(tagger, backends, pixels)
    referee = _referee_logits(tagger, pixels)
    return [_compare(tagger, backend, pixels, referee) for backend in backends]


def _check_arguments(tagger: Tagger, backends: Sequence[str], pixels: Pixels) -> None:
    known = [f"{name}{suffix}" for name in BOUNDS for suffix in ("", "-compiled")]
    for backend in backends:
        if backend not in known:
            raise ValueError(f"backend is {backend!r}: give {', '.join(known)}")
        if backend.startswith("fp16") and tagger.device.type == "cpu":
            raise ValueError(f"backend is {backend!r} on a CPU, which has no fp16 arithmetic: give fp32 or bf16")
    if tagger.dtype != torch.float32:
        raise ValueError(f"the tagger computes in {tagger.dtype}: load the bundle with dtype fp32")
    if not len(pixels):
        raise ValueError("there is no picture to compare on: give at least one")


def _referee_logits(tagger: Tagger, pixels: Pixels) -> Tensor:
    """float64 [B, N] on the CPU."""
    model = _rebuilt(tagger.model, torch.float64, torch.device("cpu"))
    return torch.cat([_run(model, tagger, picture) for picture in pixels])


def _compare(tagger: Tagger, backend: str, pixels: Pixels, referee: Tensor) -> Parity:
    dtype_name = backend.removesuffix("-compiled")
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    model = tagger.model
    if dtype_name != "fp32":
        model = _rebuilt(tagger.model, dtypes[dtype_name], tagger.device)
    backend_tagger = Tagger(model, tagger.vocabulary)
    if backend.endswith("-compiled"):
        backend_tagger.compile()
        batches = [pixels]  # together: another number of images would be compiled anew
    else:
        batches = [picture[None] for picture in pixels]
    logits = torch.cat([backend_tagger.logits(batch).cpu() for batch in batches]).double()
    return _judge(backend, str(tagger.device), logits, referee, tagger.vocabulary, BOUNDS[dtype_name])


def _judge(backend: str, device: str, logits: Tensor, referee: Tensor, vocabulary: Vocabulary, bound: Bound) -> Parity:
    error = (logits - referee).abs()
    ours, theirs = (_fired(values, vocabulary) for values in (logits, referee))
    found = int(ours.sum() + theirs.sum())
    # A comparison with NaN is false, so logits that are not finite are beyond every bound.
    within = bool(error.max() <= bound.max_error) and bool(error.mean() <= bound.mean_error)
    return Parity(
        backend=backend,
        device=device,
        max_error=float(error.max()),
        mean_error=float(error.mean()),
        flips=int((ours != theirs).sum()),
        decisions=ours.size,
        f1=2 * int((ours & theirs).sum()) / found if found else 1.0,
        bound=bound,
        within_bound=within,
    )


def _fired(logits: Tensor, vocabulary: Vocabulary) -> npt.NDArray[np.bool_]:
    # As in use: the sigmoid in float32.
    fired: npt.NDArray[np.bool_] = logits.float().sigmoid().numpy() > vocabulary.thresholds
    return fired


def _rebuilt(model: TagModel, dtype: torch.dtype, device: torch.device) -> TagModel:
    """The same weights in another dtype; the one scalar keeps float32 where the others have 16 bits."""
    state = {
        key: tensor.detach().to(device, dtype if tensor.ndim or dtype == torch.float64 else torch.float32)
        for key, tensor in model.state_dict().items()
    }
    return type(model).from_state(model.config, state)


@torch.inference_mode()
def _run(model: TagModel, tagger: Tagger, picture: Pixels) -> Tensor:
    config = tagger.config
    floats = normalise(picture[None], config.image_size, config.image_mean, config.image_std)
    logits: Tensor = model(floats.to(torch.float64))
    return logits
