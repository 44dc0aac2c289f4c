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
        self.apply(init_bert)

    def forward(self, tags: Tensor, image: Tensor, first_query: Tensor | None = None) -> Tensor:
        """tags: [B, Q, H]; image: [B, T, E]. Returns [B, Q, H].

        first_query [B, Q, H]: the first layer's query of these tags, where the caller has computed it already.
        """
        for layer in self.layers:
            tags = layer(tags, image, first_query)
            first_query = None
        return tags

    @property
    def layers(self) -> "list[HeadLayer]":
        """The layers in order."""
        return list(self.encoder.layer)  # type: ignore[arg-type]


class HeadLayer(nn.Module):
    """Cross-attention, then a feed-forward block, each with residual and layer norm after it."""

    def __init__(self, config: HeadConfig, image_dim: int) -> None:
        super().__init__()
        self.crossattention = CrossAttention(config, image_dim)
        self.intermediate = DenseGelu(config.hidden_size, config.intermediate_size)
        self.output = DenseAddNorm(config.intermediate_size, config)

    def forward(self, tags: Tensor, image: Tensor, query: Tensor | None = None) -> Tensor:
        """tags: [B, Q, H]; image: [B, T, E]; query as for `CrossAttention`. Returns [B, Q, H]."""
        return self.feed_forward(self.crossattention(tags, image, query))

    def feed_forward(self, tags: Tensor) -> Tensor:
        """tags: [B, Q, H]. Returns [B, Q, H]."""
        return self.output(self.intermediate(tags), tags)  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Multi-head attention of tags over all visual tokens, without a mask."""

    def __init__(self, config: HeadConfig, image_dim: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.self = QueryKeyValue(config.hidden_size, image_dim)
        self.output = DenseAddNorm(config.hidden_size, config)

    def forward(self, tags: Tensor, image: Tensor, query: Tensor | None = None, num_heads: int | None = None) -> Tensor:
        """tags: [B, Q, H]; image: [B, T, E]. Returns [B, Q, H].

        query [B, Q, H]: the projected tags, where they are known; num_heads: instead of the configured number.
        """
        heads = num_heads or self.num_heads
        projected = self.self.query(tags) if query is None else query
        return self.attend(tags, split_heads(projected, heads), *self.keys_and_values(image, heads))

    def keys_and_values(self, image: Tensor, num_heads: int) -> tuple[Tensor, Tensor]:
        """image: [B, T, E]. Returns keys and values, [B, num_heads, T, H / num_heads] each."""
        return split_heads(self.self.key(image), num_heads), split_heads(self.self.value(image), num_heads)

    def attend(self, tags: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """tags: [B, Q, H]; the others split into heads, [B, heads, Q or T, H / heads]. Returns [B, Q, H].

        mask: float, added to the attention's logits; broadcast to [B, heads, Q, T].
        """
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)  # scale 1/sqrt(H / heads)
        return self.output(join_heads(attended), tags)  # type: ignore[no-any-return]


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, N, H] to [B, num_heads, N, H / num_heads]."""
    batch, length, channels = x.shape
    return x.view(batch, length, num_heads, channels // num_heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, num_heads, N, H / num_heads] to [B, N, H]."""
    return x.transpose(1, 2).flatten(2)


class QueryKeyValue(nn.Module):
    """BERT's three projections of attention."""

    def __init__(self, hidden_size: int, image_dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(image_dim, hidden_size)
        self.value = nn.Linear(image_dim, hidden_size)


class DenseGelu(nn.Module):
    """A linear layer under BERT's name, and GELU of it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in_features]. Returns [..., out_features]."""
        return F.gelu(self.dense(x))  # the exact (erf) form, not tanh


class DenseAddNorm(nn.Module):
    """LayerNorm(dense(x) + residual)."""

    def __init__(self, in_features: int, config: HeadConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(in_features, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """x: [..., in_features]; residual: [..., H]. Returns [..., H]."""
        return self.LayerNorm(self.dense(x) + residual)  # type: ignore[no-any-return]


def init_bert(module: nn.Module) -> None:
    """BERT's initialisation, for `Module.apply`: normal(0, 0.02) weights, zero biases."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
