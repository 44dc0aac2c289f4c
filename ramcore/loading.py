"""From a bundle to a model that is ready for use."""

from pathlib import Path

import torch

from ramcore.bundle import demo_bundle, read_config_and_vocabulary, read_tokenizer, weights_file
from ramcore.tagger import Tagger, resolve_device, resolve_dtype
from ramcore.weights import load_model


def load(
    dir: str | Path | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
) -> Tagger:
    """Load a bundle for inference.

    dir: the bundle; None is the demo bundle.
    device: "auto" is cuda where there is a card, else cpu.
    dtype: "fp32", "bf16", "fp16", a torch dtype, or "auto": fp32 on a CPU, fp16 on a card of compute
        capability 7 or more (its error is a tenth of bf16's), fp32 on older ones. fp16 on a CPU is refused.

    Stored weights of another dtype are cast; weights that stay as stored on a CPU are mapped from the file, so that
    several processes share them, until the first image: then each copies those of linear layers into the layout that
    computes fastest. Raises `BundleError` when the folder is not a usable bundle, and
    ValueError for an unknown device or dtype.
    """
    folder = demo_bundle() if dir is None else Path(dir)
    config, vocabulary = read_config_and_vocabulary(folder)
    chosen_device = resolve_device(device)
    chosen_dtype = resolve_dtype(dtype, chosen_device)
    tokenizer = read_tokenizer(folder, config)
    model = load_model(config, weights_file(folder), chosen_device, chosen_dtype)
    return Tagger(model, vocabulary, bundle=folder, tokenizer=tokenizer)
