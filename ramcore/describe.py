"""What a bundle is and what it costs: sizes, thresholds, operations and memory, without loading weights."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ramcore.bundle import bundle_hash, read_config_and_vocabulary
from ramcore.config import ModelConfig
from ramcore.vocabulary import Vocabulary

# Measured for the released RAM++ in 16 bit: 0.13 GiB per image, of which the widest point of the head
# (`_widest_bytes`) is 0.077. The rest is what PyTorch's allocator and the kernels' work space add.
_ACTIVATION_OVERHEAD = 1.7
CUDA_CONTEXT_BYTES = 600 * 2**20
"""Of a card's memory that a process takes beside what PyTorch allocates."""

_TAG_TOKENS = 40  # of the text that the caption side reads

VALUE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}
"""Bytes of a number of each dtype."""
_SHOWN_DTYPES = ("fp32", "fp16")

# How often a value of a token (Swin block) or of a tag (head layer) is read or written on a card, when every operation
# is a kernel of its own, and when only matrix products and attention are, with the rest fused into them.
_BLOCK_PASSES = {False: 48, True: 22}
_HEAD_PASSES = {False: 18, True: 10}
_HEAD_INNER_PASSES = {False: 4, True: 2}
# What such a count leaves out (masks, index copies, alignment): the released RAM++ moves 2.27 GB per image in 16 bit,
# and 1.0 GB with fused operations, where the count gives 1.84 and 0.88.
_TRAFFIC_SCALE = {False: 1.243, True: 1.127}


@dataclass(frozen=True)
class Description:
    """The facts that `ramfleet model show` prints.

    parameters, flops: per part, flops per image with a multiply-add counted as two operations; caption_flops:
    of a caption of 50 tokens, 0 for a kind without.
    never_fire: tags whose threshold is 1 or more, which no score exceeds.
    vram_bytes: estimate by dtype and micro-batch.
    """

    path: str
    bundle_hash: str
    config: ModelConfig
    thresholds: dict[str, float]
    never_fire: list[str]
    without_chinese: int
    parameters: dict[str, int]
    flops: dict[str, int]
    caption_flops: int
    vram_bytes: dict[str, dict[int, int]]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON, with totals."""
        totals = {
            "parameters_total": sum(self.parameters.values()),
            "flops_total": sum(self.flops.values()),
        }
        return asdict(self) | totals


def describe_bundle(dir: str | Path, batches: tuple[int, ...] = (1, 8, 32, 128)) -> Description:
    """Describe a bundle. Raises `BundleError` or `VocabularyError` where it is not usable."""
    config, vocabulary = read_config_and_vocabulary(dir)
    return Description(
        path=str(dir),
        bundle_hash=bundle_hash(dir),
        config=config,
        thresholds=_threshold_summary(vocabulary),
        never_fire=[vocabulary.tags[i] for i in np.flatnonzero(vocabulary.thresholds >= 1)],
        without_chinese=sum(not name for name in vocabulary.tags_zh),
        parameters=count_parameters(config),
        flops=count_flops(config),
        caption_flops=caption_flops(config),
        vram_bytes={
            dtype: {batch: vram_bytes(config, batch, VALUE_BYTES[dtype]) for batch in batches}
            for dtype in _SHOWN_DTYPES
        },
    )


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters per part of the model (the first component of their names)."""
    from ramcore.weights import expected_shapes  # PyTorch, which the rest of this module does without

    parts: dict[str, int] = {}
    for key, shape in expected_shapes(config).items():
        part = key.split(".", 1)[0]
        parts[part] = parts.get(part, 0) + int(np.prod(shape, dtype=np.int64))
    return parts


def count_flops(config: ModelConfig) -> dict[str, int]:
    """Operations per image and part, a multiply-add counted as two.

    Matrix products only, as in the Swin paper's table (arXiv:2103.14030, eq. 2, there counted once):
    norms, activations and softmax are under 1 %. The released RAM++ comes to 324.9 GFLOP. Without captions, see
    `caption_flops`.
    """
    head, tags, text = config.head, config.num_tags, config.embed_dim
    tokens, hidden = config.swin.num_tokens, head.hidden_size
    attention = tags * hidden * hidden * 2 + tokens * text * hidden * 2 + 2 * tags * tokens * hidden
    feed_forward = 2 * tags * hidden * head.intermediate_size
    # The tags' side of the first layer does not depend on the image but for RAM++, and is computed at load.
    once = 0 if config.kind == "ram_plus" else tags * hidden * hidden
    products = {
        "visual_encoder": _swin_products(config),
        "tagging_head": head.num_layers * (attention + feed_forward) - once,
        "fc": tags * hidden,
    }
    if config.kind != "tag2text":
        products["image_proj"] = tokens * config.swin.num_features * text
    if config.kind == "ram_plus":
        products["reweighting"] = 2 * config.num_descriptions * text
        products["wordvec_proj"] = tags * text * hidden
    return {part: 2 * count for part, count in products.items()}


def caption_flops(config: ModelConfig, tokens: int = 50, beams: int = 3) -> int:
    """Operations per caption of so many tokens, counted as in `count_flops`; 0 for a model without captions."""
    caption, head = config.caption, config.head
    if caption is None:
        return 0
    hidden, image, tags = head.hidden_size, config.swin.num_tokens, _TAG_TOKENS
    dense = 6 * hidden * hidden + 2 * hidden * head.intermediate_size  # per token and layer
    encoder = tags * (dense + 2 * (tags + image) * hidden) + 2 * image * config.embed_dim * hidden
    memory = 2 * tags * hidden * hidden
    decoder = tokens * (dense + (tokens + 2 * tags) * hidden) + memory
    words = tokens * hidden * (caption.vocab_size + hidden)
    products = caption.num_encoder_layers * encoder + beams * (caption.num_decoder_layers * decoder + words)
    return 2 * products


def vram_bytes(config: ModelConfig, batch: int, bytes_per_value: int) -> int:
    """Estimate of a card's memory in use: weights, activations of one micro-batch and the CUDA context.

    Fitted to the released RAM++: 0.63 GiB + 0.13 GiB per image + 0.6 GiB of context in 16 bit. It is an
    estimate to plan with; `ramfleet calibrate` measures.
    """
    activations = batch * activation_bytes(config, bytes_per_value)
    return sum(count_parameters(config).values()) * bytes_per_value + activations + CUDA_CONTEXT_BYTES


def activation_bytes(config: ModelConfig, bytes_per_value: int) -> int:
    """Estimate of what one image of a micro-batch adds to a card's memory in use, see `vram_bytes`."""
    return int(_widest_bytes(config, bytes_per_value) * _ACTIVATION_OVERHEAD)


def traffic_bytes(config: ModelConfig, bytes_per_value: int, fused: bool) -> int:
    """Estimate of the bytes per image that a card reads and writes for activations.

    fused: norms, GELU, residuals and window copies are part of the matrix products beside them (torch.compile at
    best), else each is a kernel of its own. Weights, which a micro-batch reads once, do not count. Fitted to the
    released RAM++ in 16 bit: 2.27 GB, fused 1.0 GB.
    """
    swin, head = config.swin, config.head
    tokens = sum(
        depth * side**2 * swin.embed_dim * 2**stage
        for stage, (side, depth) in enumerate(zip(swin.map_sizes, swin.depths, strict=True))
    )
    layer = _HEAD_PASSES[fused] * head.hidden_size + _HEAD_INNER_PASSES[fused] * head.intermediate_size
    tags = config.num_tags * (head.num_layers * layer + 3 * head.hidden_size + 2 * config.embed_dim)
    return int((_BLOCK_PASSES[fused] * tokens + tags) * bytes_per_value * _TRAFFIC_SCALE[fused])


def _widest_bytes(config: ModelConfig, bytes_per_value: int) -> int:
    """Activations alive per image where they are most: in the head's feed-forward block, or in stage one."""
    head, swin = config.head, config.swin
    in_head = config.num_tags * (2 * head.intermediate_size + 3 * head.hidden_size + config.embed_dim)
    tokens, window = swin.map_sizes[0] ** 2, swin.window_sizes[0] ** 2
    in_swin = tokens * (5 * swin.embed_dim + 2 * swin.num_heads[0] * window)
    return max(in_head, in_swin) * bytes_per_value


def _swin_products(config: ModelConfig) -> int:
    swin = config.swin
    total = swin.map_sizes[0] ** 2 * swin.embed_dim * 3 * swin.patch_size**2
    sizes = zip(swin.map_sizes, swin.window_sizes, swin.depths, strict=True)
    for stage, (side, window, depth) in enumerate(sizes):
        tokens, channels = side**2, swin.embed_dim * 2**stage
        if stage:  # patch merging: four neighbours of half the channels to one token
            total += tokens * 2 * channels * channels
        projections = 4 * tokens * channels**2
        attention = 2 * tokens * window**2 * channels
        feed_forward = 8 * tokens * channels**2
        total += depth * (projections + attention + feed_forward)
    return total


def _threshold_summary(vocabulary: Vocabulary) -> dict[str, float]:
    values = vocabulary.thresholds
    return {
        "min": float(values.min()),
        "median": float(np.median(values)),
        "max": float(values.max()),
        "different": len(np.unique(values)),
    }
