"""The tagging head: tags attend to the image ("Query2Label", arXiv:2107.10834, with BERT's layers).

Attributes are named as in the released checkpoints, so their keys need no translation.
Shapes: B images, Q tags, T visual tokens, E channels of a visual token, H channels of a tag.
"""

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from ramcore.config import HeadConfig


class TaggingHead(nn.Module):
    """`num_layers` post-norm layers without self-attention: tags do not see each other.

    Hence the output for a tag does not depend on which other tags are asked.
    """

    def __init__(self, config: HeadConfig, image_dim: int) -> None:
        super().__init__()
        self.encoder = nn.Module()
        layers = (HeadLayer(config, image_dim) for _ in range(config.num_layers))
        self.encoder.layer = nn.ModuleList(layers)
        self.apply(_init_bert)

    def forward(self, tags: Tensor, image: Tensor) -> Tensor:
        """tags: [B, Q, H]; image: [B, T, E]. Returns [B, Q, H]."""
        for layer in self.encoder.layer:  # type: ignore[union-attr]
            tags = layer(tags, image)
        return tags


class HeadLayer(nn.Module):
    """Cross-attention, then a feed-forward block, each with residual and layer norm after it."""

    def __init__(self, config: HeadConfig, image_dim: int) -> None:
        super().__init__()
        self.crossattention = CrossAttention(config, image_dim)
        self.intermediate = _Dense(config.hidden_size, config.intermediate_size)
        self.output = _DenseAddNorm(config.intermediate_size, config)

    def forward(self, tags: Tensor, image: Tensor) -> Tensor:
        """tags: [B, Q, H]; image: [B, T, E]. Returns [B, Q, H]."""
        tags = self.crossattention(tags, image)
        hidden = F.gelu(self.intermediate.dense(tags))  # the exact (erf) form, not tanh
        return self.output(hidden, tags)  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head attention of tags over all visual tokens, without a mask."""

    def __init__(self, config: HeadConfig, image_dim: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.self = _QueryKeyValue(config.hidden_size, image_dim)
        self.output = _DenseAddNorm(config.hidden_size, config)

    def forward(self, tags: Tensor, image: Tensor) -> Tensor:
        """tags: [B, Q, H]; image: [B, T, E]. Returns [B, Q, H]."""
        query = self._split(self.self.query(tags))
        key = self._split(self.self.key(image))
        value = self._split(self.self.value(image))
        attended = F.scaled_dot_product_attention(query, key, value)  # scale 1/sqrt(H / num_heads)
        return self.output(attended.transpose(1, 2).flatten(2), tags)  # type: ignore[no-any-return]

    def _split(self, x: Tensor) -> Tensor:
        """[B, N, H] to [B, num_heads, N, H / num_heads]."""
        batch, length, _ = x.shape
        return x.view(batch, length, self.num_heads, -1).transpose(1, 2)


class _QueryKeyValue(nn.Module):
    def __init__(self, hidden_size: int, image_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(image_dim, hidden_size)
        self.value = nn.Linear(image_dim, hidden_size)


class _Dense(nn.Module):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, out_features)


class _DenseAddNorm(nn.Module):
    def __init__(self, in_features: int, config: HeadConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(x) + residual)  # type: ignore[no-any-return]


def _init_bert(module: nn.Module) -> None:
    """BERT's initialisation: normal(0, 0.02) weights, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
