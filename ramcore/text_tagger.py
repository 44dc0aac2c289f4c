"""What RAM and RAM++ have in common: a tag is text embeddings, which attend to the image.

Shapes: B images of S × S pixels, T + 1 visual tokens (the pooled one first), N tags, R text embeddings of all
tags together, E = embed_dim channels, H = channels of the tagging head.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from ramcore.config import ModelConfig
from ramcore.head import TaggingHead
from ramcore.reweight import description_rows
from ramcore.swin import build_swin, visual_tokens
from ramcore.tag_model import TagModel, check_tag_ids


class TextTagger(TagModel):
    """`label_embed` [R, E] holds the text embeddings tag by tag, `config.description_counts` of them each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        rows = nn.init.normal_(torch.empty(config.num_descriptions, config.embed_dim))
        self.label_embed = nn.Parameter(F.normalize(rows, dim=-1))  # of unit length, as the text encoder's are
        self.visual_encoder = build_swin(config.swin)
        self.image_proj = nn.Linear(config.swin.num_features, config.embed_dim)
        self.wordvec_proj = nn.Linear(config.embed_dim, config.head.hidden_size)
        self.tagging_head = TaggingHead(config.head, config.embed_dim)
        self.fc = nn.Linear(config.head.hidden_size, 1)

    @property
    def tag_weight(self) -> Tensor:
        """`label_embed`."""
        return self.label_embed

    def image_embeds(self, pixels: Tensor) -> Tensor:
        """pixels: float [B, 3, S, S], normalised. Returns [B, 1 + T, E], the pooled token first."""
        embeds: Tensor = self.image_proj(visual_tokens(self.visual_encoder, pixels))
        return embeds

    def tag_logits(self, image_embeds: Tensor) -> Tensor:
        """image_embeds: [B, 1 + T, E]. Returns logits [B, N]."""
        logits: Tensor = self.fc(self.tagging_hidden(image_embeds))
        return logits.squeeze(-1)

    @abstractmethod
    def tagging_hidden(self, image_embeds: Tensor) -> Tensor:
        """image_embeds: [B, 1 + T, E]. Returns the head's output per tag, [B, N, H]."""

    def attend(self, label_embeds: Tensor, image_embeds: Tensor) -> Tensor:
        """label_embeds: [B, Q, E], any Q text embeddings; image_embeds: [B, 1 + T, E]. Returns [B, Q, H]."""
        tags = F.relu(self.wordvec_proj(label_embeds))
        hidden: Tensor = self.tagging_head(tags, image_embeds)
        return hidden

    def subset(self, tag_ids: Sequence[int]) -> Self:
        """As `TagModel.subset`; all weights but label_embed are shared with this model."""
        check_tag_ids(tag_ids, self.config.num_tags)
        counts = self.config.description_counts
        rows = torch.tensor(description_rows(counts, tag_ids), device=self.label_embed.device)
        return self.with_labels(self.label_embed.detach()[rows], [counts[tag] for tag in tag_ids])

    def with_labels(self, label_embed: Tensor, counts: Sequence[int]) -> Self:
        """A model for other tags; all weights but label_embed are shared with this one.

        label_embed: float [sum(counts), E], tag by tag, from the text encoder that the model was trained with;
        it is cast to this model's dtype and device. counts: number of embeddings of each tag, all 1 for RAM.
        Raises ValueError where the shapes do not fit, `BundleError` for impossible counts.
        """
        wanted = (sum(counts), self.config.embed_dim)
        if tuple(label_embed.shape) != wanted:
            raise ValueError(f"label_embed has shape {list(label_embed.shape)}: give {list(wanted)}")
        config = dataclasses.replace(self.config, num_tags=len(counts), descriptions_per_tag=tuple(counts))
        return self.from_state(config, self.state_dict() | {"label_embed": label_embed.to(self.label_embed)})
