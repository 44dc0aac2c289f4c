"""How a card is cut up for a model: replicas, micro-batch, memory shares, and the images/s to expect of them.

Pure arithmetic on a card's profile and a model's sizes; what it does not know is left to measuring.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.cards.profiles import GIB, CardProfile
from ramcore.bundle import read_config, stored_parameters
from ramcore.config import ModelConfig
from ramcore.describe import (
    CUDA_CONTEXT_BYTES,
    VALUE_BYTES,
    activation_bytes,
    caption_flops,
    count_flops,
    count_parameters,
    traffic_bytes,
)

LARGE_MODEL = 100_000_000
"""Parameters from which on a model is large: float64 takes it a minute and gigabytes on a CPU, 16 bit pays there."""
MOST_REPLICAS = 4
"""Replicas of a card at most: more of them wait for the same kernels."""
_MICROBATCHES = (1, 2, 4, 8, 16, 32, 64)
_UNKNOWN_MICROBATCH = 32
"""Micro-batch at most where nothing is known of the card but its memory."""
_KNEE = 0.97
_RESERVED_SHARE, _RESERVED_BYTES = 0.03, 256 * 2**20
"""Of a card's memory, the larger one is left to the driver, the screen and fragmentation."""
_HOST_S_PER_IMAGE = 0.5e-3
"""What a replica's process does by itself for each image: pixels to the card, scores to tags. A guess to plan with."""
_HOST_S_PER_BATCH = 5e-3
"""Starting the kernels of a micro-batch and waiting for the last one. A guess to plan with."""
_SHARE_STEP = 10_000
"""Ray counts fractions of a GPU in steps of this part."""


@dataclass(frozen=True)
class ModelLoad:
    """What one model asks of a device. By dtype: weights, activations per image of a micro-batch, traffic per image.

    bundle_hash: identity of the model; tags: it knows; parameters: numbers in its weights; flops: operations per
    image, captions included where they are written; fused_traffic_bytes: where operations are fused into each other.
    """

    bundle_hash: str
    tags: int
    parameters: int
    flops: int
    weight_bytes: Mapping[str, int]
    activation_bytes: Mapping[str, int]
    traffic_bytes: Mapping[str, int]
    fused_traffic_bytes: Mapping[str, int]


def model_load(bundle: str | Path, bundle_hash: str, captions: bool = False) -> ModelLoad:
    """The load of a bundle, without PyTorch. Raises BundleError."""
    return load_of(read_config(bundle), bundle_hash, captions, stored_parameters(bundle))


def load_of(
    config: ModelConfig, bundle_hash: str = "", captions: bool = False, parameters: int | None = None
) -> ModelLoad:
    """The load of a model of this config, whether there is a bundle of it or not; parameters: where they are known."""
    parameters = parameters or sum(count_parameters(config).values())
    flops = sum(count_flops(config).values()) + (caption_flops(config) if captions else 0)
    sizes = VALUE_BYTES.items()
    return ModelLoad(
        bundle_hash=bundle_hash,
        tags=config.num_tags,
        parameters=parameters,
        flops=flops,
        weight_bytes={dtype: parameters * size for dtype, size in sizes},
        activation_bytes={dtype: activation_bytes(config, size) for dtype, size in sizes},
        traffic_bytes={dtype: traffic_bytes(config, size, fused=False) for dtype, size in sizes},
        fused_traffic_bytes={dtype: traffic_bytes(config, size, fused=True) for dtype, size in sizes},
    )


@dataclass(frozen=True)
class CardSize:
    """How one card is used.

    replicas: processes on it; num_gpus: what each asks of Ray, so that exactly so many fit; microbatch: images through
    the model at once; memory_share: part of the card's memory that PyTorch may allocate in each;
    images_per_s: of all replicas together, None where nothing is known of the card.
    """

    replicas: int
    num_gpus: float
    microbatch: int
    memory_share: float
    images_per_s: float | None


def images_per_s_ceiling(profile: CardProfile, load: ModelLoad, dtype: str, fused: bool) -> float:
    """What a card could do at best: matrix products at its full rate, then all other traffic at its full bandwidth.

    1 / (operations / rate + bytes / bandwidth), a roofline without overlap. With datasheet rates this is the table of
    ceilings that the sizes were planned with: 1,595 images/s of the released RAM++ on an H100 SXM, 123 on a T4, fused.
    """
    traffic = load.fused_traffic_bytes if fused else load.traffic_bytes
    return 1 / (load.flops / (profile.tflops(dtype) * 1e12) + traffic[dtype] / (profile.bandwidth_gb_s * 1e9))


def size_card(
    vram_bytes: int,
    load: ModelLoad,
    dtype: str,
    profile: CardProfile | None,
    microbatch: Literal["auto"] | int = "auto",
    replicas: int | None = None,
    most_replicas: int = MOST_REPLICAS,
) -> CardSize | str:
    """The smallest use of a card within 3 % of its best, or why it cannot be used.

    vram_bytes: memory of the card; profile: None for one of which only that is known, which gets one replica;
    microbatch, replicas: as asked for, "auto" and None: to be found; most_replicas: that the host has memory for.
    """
    if replicas is not None and replicas > most_replicas:
        return f"fleet.replicas_per_gpu={replicas}: the node has host memory for {most_replicas} per card"
    counts = [replicas] if replicas is not None else list(range(1, most_replicas + 1 if profile else 2))
    batches = _MICROBATCHES if microbatch == "auto" else (microbatch,)
    points = [(needed_bytes(count, batch, load, dtype), count, batch) for count in counts for batch in batches]
    fitting = [point for point in points if point[0] <= usable_bytes(vram_bytes)]
    if not fitting:
        return _too_small(vram_bytes, counts[0], batches[0], load, dtype)
    if profile is None:
        smaller = [point for point in fitting if point[2] <= _UNKNOWN_MICROBATCH or microbatch != "auto"]
        _, count, batch = max(smaller)
        return _cut(vram_bytes, count, batch, None)
    # In the order of memory: a card with more of it never gets a slower use.
    rates = [
        (modelled_images_per_s(profile, load, dtype, count, batch), count, batch) for _, count, batch in sorted(fitting)
    ]
    best = max(rate for rate, _, _ in rates)
    rate, count, batch = next(point for point in rates if point[0] >= _KNEE * best)
    return _cut(vram_bytes, count, batch, rate)


def measured_card(
    vram_bytes: int, load: ModelLoad, dtype: str, replicas: int, microbatch: int, images_per_s: float
) -> CardSize | str:
    """The use of a card as it was measured, or why it does not fit here."""
    if needed_bytes(replicas, 1, load, dtype) > usable_bytes(vram_bytes):
        return _too_small(vram_bytes, replicas, 1, load, dtype)
    return _cut(vram_bytes, replicas, microbatch, images_per_s)


def modelled_images_per_s(profile: CardProfile, load: ModelLoad, dtype: str, replicas: int, microbatch: int) -> float:
    """Images/s of so many replicas on one card.

    The card works on one micro-batch at a time, `images_per_s_ceiling` without fusing and the weights read once;
    each replica's own work on the CPU goes on beside the card's work for the others, not beside that for itself.
    """
    on_card = microbatch / images_per_s_ceiling(profile, load, dtype, fused=False)
    on_card += load.weight_bytes[dtype] / (profile.bandwidth_gb_s * 1e9)
    on_host = microbatch * _HOST_S_PER_IMAGE + _HOST_S_PER_BATCH
    return microbatch * min(1 / on_card, replicas / (on_card + on_host))


def usable_bytes(vram_bytes: int) -> int:
    """A card's memory without what is left to others."""
    return vram_bytes - max(_RESERVED_BYTES, int(vram_bytes * _RESERVED_SHARE))


def needed_bytes(replicas: int, microbatch: int, load: ModelLoad, dtype: str) -> int:
    """Memory that so many replicas take of a card, each with a CUDA context, weights, activations of a micro-batch.

    In fp16 there is room for a second copy of the weights: images whose logits overflow are computed again in bf16.
    """
    weights, image = load.weight_bytes[dtype], load.activation_bytes[dtype]
    beside = microbatch * image
    if dtype == "fp16":
        beside = max(beside, weights + image)
    return replicas * (CUDA_CONTEXT_BYTES + weights + beside)


def gpu_fraction(replicas: int) -> float:
    """The share of a GPU that each of so many replicas asks of Ray: rounded down, so that all of them always fit."""
    return 1.0 if replicas == 1 else (_SHARE_STEP // replicas) / _SHARE_STEP


def _cut(vram_bytes: int, replicas: int, microbatch: int, images_per_s: float | None) -> CardSize:
    # PyTorch's cap counts what it allocates, of the whole memory; every process has a context beside that.
    share = (usable_bytes(vram_bytes) / replicas - CUDA_CONTEXT_BYTES) / vram_bytes
    share = int(share * _SHARE_STEP) / _SHARE_STEP
    return CardSize(replicas, gpu_fraction(replicas), microbatch, share, images_per_s)


def _too_small(vram_bytes: int, replicas: int, microbatch: int, load: ModelLoad, dtype: str) -> str:
    needed = needed_bytes(replicas, microbatch, load, dtype)
    return (
        f"{replicas} replica(s) in {dtype} with micro-batch {microbatch} need {needed / GIB:.1f} GiB, "
        f"the card has {usable_bytes(vram_bytes) / GIB:.1f} of {vram_bytes / GIB:.1f} GiB to give"
    )
