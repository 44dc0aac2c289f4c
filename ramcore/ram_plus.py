"""RAM++ (Recognize Anything Plus, arXiv:2310.15200): an image and a list of described tags to logits.

Shapes: B images, T + 1 visual tokens (the pooled one first), N tags, E = embed_dim channels, H = channels of
the tagging head.
"""

import math

import torch
from torch import Tensor, nn

from ramcore.config import ModelConfig
from ramcore.reweight import DescriptionMixer
from ramcore.text_tagger import TextTagger


class RamPlus(TextTagger):
    """RAM++: a tag is several descriptions, mixed anew for every image.

    `label_embed` holds the descriptions of all tags, tag by tag, `config.description_counts` of them each.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.reweight_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        self.mixer = DescriptionMixer(config)

    def tagging_hidden(self, image_embeds: Tensor) -> Tensor:
        """image_embeds: [B, 1 + T, E]. Returns the head's output per tag, [B, N, H]."""
        return self.attend(self.reweight(image_embeds[:, 0]), image_embeds)

    def reweight(self, pooled: Tensor) -> Tensor:
        """Mix each tag's descriptions by their likeness to the image.

        pooled: [B, E], the pooled visual token. Returns [B, N, E] in its dtype, see `DescriptionMixer`.
        """
        mixed: Tensor = self.mixer(pooled, self.label_embed, self.reweight_scale)
        return mixed
