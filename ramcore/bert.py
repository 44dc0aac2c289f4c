"""The two BERTs of Tag2Text, reduced to what captioning does with them (arXiv:1810.04805, arXiv:2201.12086).

Attributes are named as in the released checkpoints. Shapes: B texts, L tokens, H channels, heads · d = H.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from ramcore.config import CaptionConfig, HeadConfig
from ramcore.head import CrossAttention, DenseGelu, HeadLayer, init_bert, split_heads

# Added to the logits of tokens not to be looked at: BERT's number. exp(−10000) is 0 in every dtype.
_MASKED = -10000.0


class TagEncoder(nn.Module):
    """Reads a text of tags, looking at the image: self-attention, cross-attention, feed-forward per layer.

    The first layers' cross-attention and feed-forward block are the tagging head's, handed over at the call.
    """

    def __init__(self, caption: CaptionConfig, head: HeadConfig, image_dim: int) -> None:
        super().__init__()
        self.num_heads = caption.num_heads
        self.embeddings = Embeddings(caption, head)
        self.encoder = nn.Module()
        own = range(head.num_layers, caption.num_encoder_layers)
        shared = [SelfAttentionLayer(caption, head) for _ in range(head.num_layers)]
        self.encoder.layer = nn.ModuleList([*shared, *(BertLayer(caption, head, image_dim) for _ in own)])
        self.apply(init_bert)

    def forward(self, tokens: Tensor, mask: Tensor, image: Tensor, shared: Sequence[HeadLayer]) -> Tensor:
        """tokens: int64 [B, L]; mask: [B, L], 1 for tokens and 0 for padding; image: [B, T, E].

        shared: the tagging head's layers. Returns [B, L, H], rows of padding included.
        """
        x: Tensor = self.embeddings(tokens)
        added = (_MASKED * (1 - mask.to(x.dtype)))[:, None, None, :]
        layers: list[BertLayer] = list(self.encoder.layer)  # type: ignore[arg-type]
        for layer, other in zip(layers, [*shared, *layers[len(shared) :]], strict=True):
            x, _ = layer.attention(x, added)
            x = other.feed_forward(other.crossattention(x, image, num_heads=self.num_heads))
        return x


class TextDecoder(nn.Module):
    """Writes a text token by token, looking at what it wrote and at a memory."""

    def __init__(self, caption: CaptionConfig, head: HeadConfig) -> None:
        super().__init__()
        self.num_heads = caption.num_heads
        self.bert = nn.Module()
        self.bert.embeddings = Embeddings(caption, head)
        self.bert.encoder = nn.Module()
        layers = (BertLayer(caption, head, head.hidden_size) for _ in range(caption.num_decoder_layers))
        self.bert.encoder.layer = nn.ModuleList(layers)
        self.cls = nn.Module()
        self.cls.predictions = _Predictions(caption, head)
        self.apply(init_bert)

    def start(self, memory: Tensor) -> "DecoderState":
        """memory: [B, M, H], what to look at. Returns the state before the first token."""
        layers = list(self.bert.encoder.layer)  # type: ignore[union-attr, arg-type]
        return DecoderState([layer.crossattention.keys_and_values(memory, self.num_heads) for layer in layers])

    def forward(self, tokens: Tensor, state: "DecoderState") -> Tensor:
        """tokens: int64 [B, L], the next ones. Returns the logits after the last one, float32 [B, vocabulary].

        `state` remembers keys and values of all tokens so far, so that no token is computed twice.
        """
        length = tokens.shape[1]
        x = self.bert.embeddings(tokens, state.length)  # type: ignore[operator]
        mask = torch.full((length, length), _MASKED, dtype=x.dtype, device=x.device).triu(1) if length > 1 else None
        if mask is not None and state.length:
            mask = F.pad(mask, (state.length, 0))
        for number, layer in enumerate(self.bert.encoder.layer):  # type: ignore[union-attr, arg-type]
            x, state.past[number] = layer.attention(x, mask, state.past[number])
            query = split_heads(layer.crossattention.self.query(x), self.num_heads)
            x = layer.feed_forward(layer.crossattention.attend(x, query, *state.memory[number]))
        state.length += length
        words = self.bert.embeddings.word_embeddings.weight  # type: ignore[union-attr]
        logits: Tensor = self.cls.predictions(x[:, -1], words)  # type: ignore[operator]
        return logits.float()


KeysAndValues = tuple[Tensor, Tensor]


@dataclass
class DecoderState:
    """What `TextDecoder` remembers: per layer, keys and values of the memory and of the tokens so far."""

    memory: list[KeysAndValues]
    past: list[KeysAndValues | None] = field(default_factory=list)
    length: int = 0

    def __post_init__(self) -> None:
        self.past = self.past or [None] * len(self.memory)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows of the batch, in this order, of the tokens so far; the memory stays."""
        self.past = [None if kept is None else (kept[0][rows], kept[1][rows]) for kept in self.past]


class Embeddings(nn.Module):
    """Word plus position, then layer norm."""

    def __init__(self, caption: CaptionConfig, head: HeadConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(caption.vocab_size, head.hidden_size)
        self.position_embeddings = nn.Embedding(caption.num_positions, head.hidden_size)
        self.LayerNorm = nn.LayerNorm(head.hidden_size, eps=head.layer_norm_eps)

    def forward(self, tokens: Tensor, first_position: int = 0) -> Tensor:
        """tokens: int64 [B, L] at first_position and after. Returns [B, L, H]."""
        positions = self.position_embeddings.weight[first_position : first_position + tokens.shape[1]]
        embedded: Tensor = self.LayerNorm(self.word_embeddings(tokens) + positions)
        return embedded


class SelfAttention(CrossAttention):
    """Attention of tokens over each other."""

    def __init__(self, caption: CaptionConfig, head: HeadConfig) -> None:
        super().__init__(head, head.hidden_size)
        self.num_heads = caption.num_heads

    def forward(  # type: ignore[override]
        self, x: Tensor, mask: Tensor | None, past: KeysAndValues | None = None
    ) -> tuple[Tensor, KeysAndValues]:
        """x: [B, L, H]; mask: added to the logits; past: keys and values of the tokens before.

        Returns [B, L, H], and keys and values of all tokens so far.
        """
        key, value = self.keys_and_values(x, self.num_heads)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        query = split_heads(self.self.query(x), self.num_heads)
        return self.attend(x, query, key, value, mask), (key, value)


class SelfAttentionLayer(nn.Module):
    """A layer of which only the self-attention is its own."""

    def __init__(self, caption: CaptionConfig, head: HeadConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(caption, head)


class BertLayer(HeadLayer):
    """Self-attention, cross-attention to something of `memory_dim` channels, feed-forward block."""

    def __init__(self, caption: CaptionConfig, head: HeadConfig, memory_dim: int) -> None:
        super().__init__(head, memory_dim)
        self.attention = SelfAttention(caption, head)


class _Predictions(nn.Module):
    """Channels to one logit per word; the words' weights are the embeddings."""

    def __init__(self, caption: CaptionConfig, head: HeadConfig) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(caption.vocab_size))
        self.transform = _Transform(head)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        return F.linear(self.transform(x), words, self.bias)


class _Transform(DenseGelu):
    def __init__(self, head: HeadConfig) -> None:
        super().__init__(head.hidden_size, head.hidden_size)
        self.LayerNorm = nn.LayerNorm(head.hidden_size, eps=head.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(super().forward(x))  # type: ignore[no-any-return]
