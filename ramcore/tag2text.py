"""Tag2Text (arXiv:2303.05657): an image to tags, and an image with tags to a caption.

Shapes: B images, T + 1 visual tokens (the pooled one first) of C channels, N tags, H channels of the tagging
head and of both BERTs, L tokens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ramcore.bert import TagEncoder, TextDecoder
from ramcore.config import ModelConfig
from ramcore.errors import BundleError
from ramcore.head import TaggingHead, init_bert
from ramcore.swin import build_swin, visual_tokens
from ramcore.tag_model import TagModel, check_tag_ids


class Tag2Text(TagModel):
    """Tags are learned embeddings, each with a classifier of its own; there is no projection of visual tokens.

    The tagging head's layers serve twice: with the head's number of attention heads for tagging, and with the
    caption side's as the lowest layers of the tag encoder.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        if config.caption is None:
            raise BundleError(f"model config: caption is None: kind {config.kind} needs it")
        head, channels = config.head, config.swin.num_features
        self.label_embed = nn.Embedding(config.num_tags, head.hidden_size)
        self.label_embed.apply(init_bert)
        self.visual_encoder = build_swin(config.swin)
        self.tagging_head = TaggingHead(head, channels)
        self.fc = GroupWiseLinear(config.num_tags, head.hidden_size)
        self.tag_encoder = TagEncoder(config.caption, head, channels)
        self.text_decoder = TextDecoder(config.caption, head)
        self._first_query: Tensor | None
        self.register_buffer("_first_query", None, persistent=False)

    @classmethod
    def from_state(cls, config: ModelConfig, state: Mapping[str, Tensor]) -> Self:
        """As `TagModel.from_state`, with the first layer's query of the tags computed: N · H values more."""
        model = super().from_state(config, state)
        with torch.no_grad():
            model._first_query = model._query()
        return model

    @property
    def tag_weight(self) -> Tensor:
        """The tags' embeddings."""
        return self.label_embed.weight

    def train(self, mode: bool = True) -> Self:
        """Switch training mode; training forgets what was computed of the tags, as weights will change."""
        if mode:
            self._first_query = None
        return super().train(mode)

    def image_embeds(self, pixels: Tensor) -> Tensor:
        """pixels: float [B, 3, S, S], normalised. Returns [B, 1 + T, C], the pooled token first."""
        return visual_tokens(self.visual_encoder, pixels)

    def tag_logits(self, image_embeds: Tensor) -> Tensor:
        """image_embeds: [B, 1 + T, C]. Returns logits [B, N]."""
        logits: Tensor = self.fc(self.tagging_hidden(image_embeds))
        return logits

    def tagging_hidden(self, image_embeds: Tensor) -> Tensor:
        """image_embeds: [B, 1 + T, C]. Returns the head's output per tag, [B, N, H]."""
        query = self._query() if self._first_query is None else self._first_query
        batch = len(image_embeds)
        hidden: Tensor = self.tagging_head(
            self.label_embed.weight.expand(batch, -1, -1), image_embeds, first_query=query.expand(batch, -1, -1)
        )
        return hidden

    def encode_tags(self, tokens: Tensor, mask: Tensor, image_embeds: Tensor) -> Tensor:
        """What the text decoder looks at.

        tokens, mask: int64 [B, L], the text of the tags and 1 for tokens, 0 for padding; image_embeds:
        [B, 1 + T, C]. Returns [B, L, H]. Rows of padding are meant to be looked at, too: it is what the
        released model was trained on.
        """
        memory: Tensor = self.tag_encoder(tokens, mask, image_embeds, self.tagging_head.layers)
        return memory

    def subset(self, tag_ids: Sequence[int]) -> Self:
        """As `TagModel.subset`; captions from given tags stay those of the full model."""
        check_tag_ids(tag_ids, self.config.num_tags)
        ids = torch.tensor(tag_ids, device=self.tag_weight.device)
        state = self.state_dict()
        state |= {"label_embed.weight": state["label_embed.weight"][ids]}
        state |= {key: state[key][:, ids] for key in ("fc.W", "fc.b")}
        config = dataclasses.replace(self.config, num_tags=len(tag_ids), descriptions_per_tag=1)
        return self.from_state(config, state)

    def _query(self) -> Tensor:
        """The first layer's query of the tags, [N, H]."""
        query: Tensor = self.tagging_head.layers[0].crossattention.self.query(self.label_embed.weight)
        return query


class GroupWiseLinear(nn.Module):
    """A linear classifier per tag ("Query2Label", arXiv:2107.10834)."""

    def __init__(self, num_tags: int, channels: int) -> None:
        super().__init__()
        bound = channels**-0.5
        self.W = nn.Parameter(torch.empty(1, num_tags, channels).uniform_(-bound, bound))
        self.b = nn.Parameter(torch.empty(1, num_tags).uniform_(-bound, bound))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: [B, N, H]. Returns [B, N]: each tag's own product and bias."""
        return (self.W * hidden).sum(dim=-1) + self.b
