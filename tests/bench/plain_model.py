"""The baseline of the benchmarks: RAM++ as its authors' code computes it, in plain eager PyTorch.

Their method, in our own words: the batch's images are reweighted one after the other, each with a product of all
descriptions by its weights that is summed afterwards; attention's weights are made and kept; linear layers are
PyTorch's own. It computes the same numbers as `ramcore.ram_plus.RamPlus`, with the same weights.
"""

import torch
from torch import Tensor

from ramcore.head import CrossAttention, join_heads
from ramcore.ram_plus import RamPlus
from ramcore.swin import set_fused_window_attention


class PlainRamPlus(RamPlus):
    """RAM++ in eager operations; uniform numbers of descriptions only."""

    def reweight(self, pooled: Tensor) -> Tensor:
        """As `RamPlus.reweight`: [B, E] to [B, N, E]."""
        tags = self.config.num_tags
        query = pooled / pooled.norm(dim=-1, keepdim=True)
        logits = self.reweight_scale.exp() * query @ self.label_embed.t()
        logits = logits.view(len(pooled), tags, -1)
        descriptions = self.label_embed.view(tags, logits.shape[-1], -1)
        mixed = [(descriptions * row.softmax(dim=-1)[:, :, None]).sum(dim=1) for row in logits]
        return torch.stack(mixed)


class PlainAttention(CrossAttention):
    """Cross-attention with its weights in memory."""

    def attend(self, tags: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """As `CrossAttention.attend`."""
        scores = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        attended = (scores if mask is None else scores + mask).softmax(dim=-1) @ value
        return self.output(join_heads(attended), tags)  # type: ignore[no-any-return]


def plain(model: RamPlus) -> PlainRamPlus:
    """The same weights, computed plainly; nothing is copied, and `model` stays as it is."""
    baseline = PlainRamPlus.from_state(model.config, model.state_dict())
    for module in baseline.modules():
        if type(module) is CrossAttention:
            module.__class__ = PlainAttention
    set_fused_window_attention(baseline, False)
    return baseline
