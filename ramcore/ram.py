"""RAM (Recognize Anything, arXiv:2306.03514): an image and a list of tags, one text embedding each, to logits.

Shapes: B images, T + 1 visual tokens (the pooled one first), N tags, E = embed_dim channels, H = channels of
the tagging head.
"""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from ramcore.config import ModelConfig
from ramcore.text_tagger import TextTagger


class Ram(TextTagger):
    """RAM: a tag is one text embedding, the same for all images.

    So what the head does with tags alone is done once, by `from_state`: relu(wordvec_proj(label_embed)) and the
    first layer's query of it. A model made by the constructor, for training, computes both in every call.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self._tags: Tensor | None
        self._first_query: Tensor | None
        self.register_buffer("_tags", None, persistent=False)
        self.register_buffer("_first_query", None, persistent=False)

    @classmethod
    def from_state(cls, config: ModelConfig, state: Mapping[str, Tensor]) -> Self:
        """As `TagModel.from_state`, with the tags' side of the head computed: 2 · N · H values more."""
        model = super().from_state(config, state)
        with torch.no_grad():
            model._tags, model._first_query = model._tag_side()
        return model

    def train(self, mode: bool = True) -> Self:
        """Switch training mode; training forgets what was computed of the tags, as weights will change."""
        if mode:
            self._tags = self._first_query = None
        return super().train(mode)

    def tagging_hidden(self, image_embeds: Tensor) -> Tensor:
        """image_embeds: [B, 1 + T, E]. Returns the head's output per tag, [B, N, H]."""
        if self._tags is None or self._first_query is None:
            tags, query = self._tag_side()
        else:
            tags, query = self._tags, self._first_query
        batch = len(image_embeds)
        hidden: Tensor = self.tagging_head(
            tags.expand(batch, -1, -1), image_embeds, first_query=query.expand(batch, -1, -1)
        )
        return hidden

    def _tag_side(self) -> tuple[Tensor, Tensor]:
        """Tags as the head takes them and the first layer's query of them, [N, H] each."""
        tags = F.relu(self.wordvec_proj(self.label_embed))
        return tags, self.tagging_head.layers[0].crossattention.self.query(tags)
