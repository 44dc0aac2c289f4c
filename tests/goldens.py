"""Golden numbers and the synthetic models they belong to; tests/golden/README.md explains them."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ramcore.config import IMAGENET_MEAN, IMAGENET_STD, CaptionConfig, HeadConfig, ModelConfig, SwinConfig
from ramcore.weights import expected_shapes

GOLDEN = Path(__file__).parent / "golden"
LOGIT_TOLERANCE = 5e-5


def _import(name):
    spec = importlib.util.spec_from_file_location(f"golden_{name}", GOLDEN / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


synth, canonical = _import("synth").synth, _import("synth").canonical
synth_images = _import("images").synth_images


def load_golden(name):
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def load_json(name):
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


def released_shapes(kind="ram_plus"):
    """Key and shape of every tensor in a released checkpoint of this kind, buffers included."""
    return {key: tuple(shape) for key, (shape, _) in load_json(f"ckpt_keys_{kind}.json")["keys"].items()}


def tiny_config(num_tags=20, kind="ram_plus"):
    swin = SwinConfig(image_size=128, embed_dim=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), window_size=4)
    text = {"tag2text": {"embed_dim": 256, "caption": TINY_CAPTION}}.get(kind, {})
    return ModelConfig(
        kind=kind,
        swin=swin,
        head=HeadConfig(hidden_size=96, intermediate_size=192),
        num_tags=num_tags,
        descriptions_per_tag=5 if kind == "ram_plus" else 1,
        **text,
    )


TINY_CAPTION = CaptionConfig(vocab_size=164, num_positions=64, num_encoder_layers=3, num_decoder_layers=3)


def released_key(key):
    """The released name of a tensor of ours: patch merging belongs to the stage before."""
    return re.sub(r"layers\.(\d+)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)


def synth_state(config, fc_bias=None):
    """Our state dict with the weights of the goldens."""
    state = {key: torch.from_numpy(synth(released_key(key), shape)) for key, shape in expected_shapes(config).items()}
    return state if fc_bias is None else state | {"fc.bias": torch.full((1,), float(fc_bias))}


def released_state(config, fc_bias=None):
    """The same weights as a released checkpoint holds them: its names, its aliases, its buffers."""
    state = {released_key(key): tensor for key, tensor in synth_state(config, fc_bias).items()}
    for key, shape in released_shapes(config.kind).items():
        owner = key.rsplit(".", 1)[0]
        if key.endswith("relative_position_index") and f"{owner}.qkv.weight" in state:
            state[key] = torch.zeros(16, 16, dtype=torch.int64)
        if key.endswith("attn_mask") and f"{owner}.norm1.weight" in state:
            state[key] = torch.zeros(4, 16, 16)
        if key.endswith("position_ids"):
            state[key] = torch.arange(64)[None]
        if canonical(key) != key and canonical(key) in state:
            state[key] = state[canonical(key)]
        elif config.kind == "ram" and key.startswith(("tag_encoder", "text_decoder")) and key not in state:
            state[key] = torch.zeros([min(size, 2) for size in shape])  # never read
    return state


def as_picture(array):
    """A PIL image of one of the goldens' input arrays."""
    return Image.fromarray(array)


def model_pixels(golden):
    """The uint8 [B, S, S, 3] that the golden's normalised pixels are of: how it resizes is up to Pillow's version."""
    mean, std = (np.array(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((golden["preproc"] * std + mean) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1).copy()


def largest_difference(ours, golden):
    return float((ours.double() - torch.from_numpy(golden).double()).abs().max())
