"""The image encoder: timm's Swin Transformer, built from our config, with the released models' key names."""

import re

import torch
from timm.models.swin_transformer import SwinTransformer, WindowAttention
from torch import Tensor, nn

from ramcore.config import SwinConfig


def build_swin(config: SwinConfig) -> SwinTransformer:
    """A freshly initialised Swin Transformer without a classifier (patch norm on, no absolute position)."""
    return SwinTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=0,
        embed_dim=config.embed_dim,
        depths=config.depths,
        num_heads=config.num_heads,
        window_size=config.window_size,
        drop_path_rate=config.drop_path_rate,
    )


def visual_tokens(encoder: SwinTransformer, pixels: Tensor) -> Tensor:
    """Tokens of the last stage after its layer norm, their mean in front: [B, 1 + T, C].

    pixels: float [B, 3, S, S], normalised. The mean gets no layer norm of its own; the T tokens are in
    row-major order.
    """
    tokens = encoder.forward_features(pixels).flatten(1, 2)
    return torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)


def set_fused_window_attention(model: nn.Module, enabled: bool) -> None:
    """Switch scaled_dot_product_attention on or off in this model's windows (timm's default is off).

    timm offers only a process-wide switch read at construction; every module keeps its own copy, which is
    what is set here. Fused attention saves memory traffic on a GPU and costs time on a CPU.
    """
    for module in model.modules():
        if isinstance(module, WindowAttention):
            module.fused_attn = enabled


def timm_key(key: str) -> str:
    """Name in timm's Swin of a tensor that has this name in a released checkpoint.

    The original implementation merges patches at the end of a stage, timm at the start of the next one;
    the tensors are the same: `layers.{i}.downsample.*` becomes `layers.{i + 1}.downsample.*`.
    """
    return re.sub(r"\blayers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", key)
