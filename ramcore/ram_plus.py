"""RAM++ (Recognize Anything Plus, arXiv:2310.15200): an image and a fixed list of described tags to logits.

Shapes: B images of S × S pixels, T + 1 visual tokens (the pooled one first), N tags of D descriptions each,
E = embed_dim channels, H = channels of the tagging head.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from ramcore.config import ModelConfig
from ramcore.head import TaggingHead
from ramcore.swin import build_swin, materialise_buffers, visual_tokens


class RamPlus(nn.Module):
    """RAM++ with freshly initialised weights; `from_state` takes finished ones.

    Parameters are named as in the released checkpoints, but for timm's places of patch merging
    (`ramcore.swin.timm_key`). `label_embed` [N · D, E] holds the descriptions of tag n in rows
    n · D … n · D + D − 1.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        rows = config.num_tags * config.descriptions_per_tag
        # Rows of unit length, as the text encoder's are.
        self.label_embed = nn.Parameter(F.normalize(torch.randn(rows, config.embed_dim), dim=-1))
        self.reweight_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.visual_encoder = build_swin(config.swin)
        self.image_proj = nn.Linear(config.swin.num_features, config.embed_dim)
        self.wordvec_proj = nn.Linear(config.embed_dim, config.head.hidden_size)
        self.tagging_head = TaggingHead(config.head, config.embed_dim)
        self.fc = nn.Linear(config.head.hidden_size, 1)

    @classmethod
    def from_state(cls, config: ModelConfig, state: Mapping[str, Tensor]) -> "RamPlus":
        """A model in eval mode that holds the given tensors themselves (nothing is copied).

        Names and shapes must be exactly those of `RamPlus(config).state_dict()`, all on one device.
        """
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict(dict(state), strict=True, assign=True)
        materialise_buffers(model, model.label_embed.device)
        return model.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: float [B, 3, S, S], normalised. Returns logits [B, N]."""
        return self.tag_logits(self.image_embeds(pixels))

    def image_embeds(self, pixels: Tensor) -> Tensor:
        """pixels: float [B, 3, S, S], normalised. Returns [B, 1 + T, E], the pooled token first."""
        embeds: Tensor = self.image_proj(visual_tokens(self.visual_encoder, pixels))
        return embeds

    def tag_logits(self, image_embeds: Tensor) -> Tensor:
        """image_embeds: [B, 1 + T, E]. Returns logits [B, N]."""
        logits: Tensor = self.fc(self.tagging_hidden(image_embeds))
        return logits.squeeze(-1)

    def tagging_hidden(self, image_embeds: Tensor) -> Tensor:
        """image_embeds: [B, 1 + T, E]. Returns the head's output per tag, [B, N, H]."""
        return self.attend(self.reweight(image_embeds[:, 0]), image_embeds)

    def attend(self, label_embeds: Tensor, image_embeds: Tensor) -> Tensor:
        """label_embeds: [B, Q, E], any Q text embeddings; image_embeds: [B, 1 + T, E]. Returns [B, Q, H]."""
        tags = F.relu(self.wordvec_proj(label_embeds))
        hidden: Tensor = self.tagging_head(tags, image_embeds)
        return hidden

    def reweight(self, pooled: Tensor) -> Tensor:
        """Mix each tag's descriptions by their likeness to the image.

        pooled: [B, E], the pooled visual token. Returns [B, N, E] in its dtype: for every tag the sum of its
        descriptions weighted by softmax(exp(reweight_scale) · cos) over the D descriptions.
        """
        config = self.config
        # Lengths and softmax in float32 whatever the weights are: 16-bit sums lose the small differences
        # between descriptions. The length has a floor so that an all-zero token gives even weights, not NaN.
        query = F.normalize(pooled.float(), dim=-1).to(pooled.dtype)
        similarity = F.linear(query, self.label_embed).float() * self.reweight_scale.float().exp()
        weights = similarity.view(-1, config.num_tags, config.descriptions_per_tag).softmax(dim=-1)
        # One product per tag, [B, D] @ [D, E]: label_embed is read once per batch, not once per image.
        descriptions = self.label_embed.view(config.num_tags, config.descriptions_per_tag, -1)
        mixed = torch.bmm(weights.transpose(0, 1).to(descriptions.dtype), descriptions)
        return mixed.transpose(0, 1)

    def subset(self, tag_ids: Sequence[int]) -> "RamPlus":
        """A model for these tags only, in this order; all weights but label_embed are shared with this one.

        Tags do not see each other, so the logits are those of the full model and cost falls with their
        number. Raises ValueError for an empty list or an id outside 0 … N − 1.
        """
        config = self.config
        if not tag_ids or not all(0 <= tag < config.num_tags for tag in tag_ids):
            raise ValueError(f"tag_ids {list(tag_ids)!r}: give at least one id in 0 … {config.num_tags - 1}")
        chosen = torch.as_tensor(tag_ids, device=self.label_embed.device)
        rows = self.label_embed.detach().view(config.num_tags, config.descriptions_per_tag, -1)[chosen]
        state = self.state_dict() | {"label_embed": rows.flatten(0, 1)}
        return RamPlus.from_state(dataclasses.replace(config, num_tags=len(tag_ids)), state)
