"""The image encoder of a finished model: timm's Swin with its tokens kept in the order of attention windows.

Attention needs a window's tokens together, and every other block needs windows that are shifted by half their side
(arXiv:2103.14030, 3.2). timm rolls the map, cuts it into windows, puts these together and rolls back, four copies of
all tokens in each block. All but attention is the same for every token, so that here they stay in the order in which a
block needs them, and are brought into the next block's order by one copy. Relative positions and the mask of shifted
windows are added up once. On a CPU, whose weights are copied into another layout in any case, the scale of queries and
the affine part of layer norms are multiplied into them; on a card weights stay as they are, and attention is fused.
Shapes: B images, T tokens of a stage, C channels, W windows of N tokens, h heads of d channels.
"""

from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from ramcore.products import FixedLinear, can_pack


class WindowOrderSwin(nn.Module):
    """Computes what `swin.forward_features` does, with the same weights.

    fused: attention without its weights in memory, which pays on a card; None = where the weights are on one.
    """

    def __init__(self, swin: SwinTransformer, fused: bool | None = None) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        device = next(swin.parameters()).device
        patches = _Patches(swin, device)
        if fused is None:
            fused = device.type == "cuda"
        order = patches.order
        stages: Any = swin.layers
        for stage in stages:
            merge = stage.downsample
            if not isinstance(merge, nn.Identity):
                step = _Merge(merge, order, _order_of(stage.blocks[0]), device)
                order = step.order_after
                steps.append(step)
            for block in stage.blocks:
                wanted = _order_of(block)
                if not torch.equal(order, wanted):
                    steps.append(_Gather(_places(order)[wanted].to(device)))
                order = wanted
                steps.append(_Block(block, fused))
        if not torch.equal(order, torch.arange(len(order))):
            steps.append(_Gather(_places(order).to(device)))
        norm: Any = swin.norm
        self._steps = nn.Sequential(patches, *steps, norm)
        self._side = int(len(order) ** 0.5)

    def forward_features(self, pixels: Tensor) -> Tensor:
        """pixels: [B, 3, S, S], normalised. Returns the last stage's tokens after its norm, [B, side, side, C]."""
        tokens: Tensor = self._steps(pixels)
        return tokens.view(len(tokens), self._side, self._side, -1)


class _Patches(nn.Module):
    """Patches of the image to tokens, in the order of the first block's windows."""

    def __init__(self, swin: SwinTransformer, device: torch.device) -> None:
        super().__init__()
        embed: Any = swin.patch_embed
        stages: Any = swin.layers
        self._patch, self._side = embed.patch_size[0], embed.grid_size[0]
        self.order = _order_of(stages[0].blocks[0])
        self.register_buffer("_index", self.order.to(device), persistent=False)
        weight = embed.proj.weight
        self._embed = FixedLinear(weight.flatten(1), embed.proj.bias)
        self._norm = embed.norm

    def forward(self, pixels: Tensor) -> Tensor:
        """[B, 3, S, S] to [B, T, C]."""
        batch, channels, *_ = pixels.shape
        side, patch = self._side, self._patch
        patches = pixels.view(batch, channels, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
        patches = patches.reshape(batch, side * side, channels * patch * patch)
        tokens: Tensor = self._norm(self._embed(patches.index_select(1, self.get_buffer("_index"))))
        return tokens


class _Gather(nn.Module):
    """Tokens in another order."""

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("_index", index, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        return x.index_select(1, self.get_buffer("_index"))


class _Merge(nn.Module):
    """Two by two tokens to one, from the order of one stage's windows to that of the next one's."""

    def __init__(self, merge: Any, order: Tensor, order_after: Tensor, device: torch.device) -> None:
        super().__init__()
        self.order_after = order_after
        half = int(len(order_after) ** 0.5)
        row, column = order_after // half, order_after % half
        # timm lists the four by column first.
        four = [2 * half * (2 * row + down) + 2 * column + right for right in (0, 1) for down in (0, 1)]
        index = _places(order)[torch.stack(four, dim=1).flatten()]
        self.register_buffer("_index", index.to(device), persistent=False)
        self._width = merge.reduction.in_features
        self._norm, self._linear = _norm_and_linear(merge.norm, merge.reduction)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, T / 4, 2 C]."""
        four = x.index_select(1, self.get_buffer("_index")).view(len(x), -1, self._width)
        merged: Tensor = self._linear(self._norm(four))
        return merged


class _Block(nn.Module):
    """Attention within windows, then two dense layers, each with a norm before it and a residual around it."""

    def __init__(self, block: Any, fused: bool) -> None:
        super().__init__()
        attention = block.attn
        self._heads, self._area, self._fused = attention.num_heads, attention.window_area, fused
        self._norm, self._qkv = _norm_and_linear(block.norm1, attention.qkv, attention.scale)
        self._scale = 1.0 if self._qkv.is_packed else attention.scale
        self._project = FixedLinear(attention.proj.weight, attention.proj.bias)
        self._norm2, self._widen = _norm_and_linear(block.norm2, block.mlp.fc1, gelu=True)
        self._narrow = FixedLinear(block.mlp.fc2.weight, block.mlp.fc2.bias)
        self.register_buffer("_positions", _positions(block), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        x = self._project(self._attend(self._norm(x))).add_(x)
        narrowed: Tensor = self._narrow(self._widen(self._norm2(x)))
        return narrowed.add_(x)

    def _attend(self, x: Tensor) -> Tensor:
        """[B, T, C] to [B, T, C]."""
        batch, tokens, channels = x.shape
        windows = tokens // self._area
        # [3, B W, h, N, d]
        split = self._qkv(x).view(batch * windows, self._area, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        positions = self.get_buffer("_positions")
        if self._fused:
            mask = positions if len(positions) == 1 else positions.repeat(batch, 1, 1, 1)
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self._scale)
        else:
            weights = query @ key.transpose(-2, -1)
            if self._scale != 1:
                weights.mul_(self._scale)
            weights.view(batch, windows, *weights.shape[1:]).add_(positions)
            attended = weights.softmax(dim=-1) @ value
        together: Tensor = attended.transpose(1, 2).reshape(batch, tokens, channels)
        return together


def _positions(block: Any) -> Tensor:
    """What is added to attention's logits: [1 or W, h, N, N]."""
    attention = block.attn
    area = attention.window_area
    index = attention.relative_position_index.flatten()
    table = attention.relative_position_bias_table.detach()
    bias: Tensor = table[index].view(area, area, -1).permute(2, 0, 1).contiguous()[None]
    mask: Tensor | None = block.attn_mask
    return bias if mask is None else bias + mask[:, None]


def _order_of(block: Any) -> Tensor:
    """Tokens, by their number row by row, in the order of the block's windows: [T]."""
    (height, width), (window, _), (shift, _) = block.input_resolution, block.window_size, block.shift_size
    numbers = torch.arange(height * width).view(height, width).roll((-shift, -shift), (0, 1))
    return numbers.view(height // window, window, width // window, window).transpose(1, 2).flatten()


def _places(order: Tensor) -> Tensor:
    """Where each token stands in an order."""
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    return places


def _norm_and_linear(
    norm: Any, linear: Any, query_scale: float = 1.0, gelu: bool = False
) -> tuple[nn.LayerNorm, FixedLinear]:
    """A layer norm and the linear layer after it; the norm is without its affine part where the layer does that.

    query_scale: what the first third of the outputs, attention's queries, are multiplied with if the layer can do it.
    """
    if not can_pack(linear.weight):
        return norm, FixedLinear(linear.weight, linear.bias, gelu)
    # In float64, so that one rounding remains.
    weight = linear.weight.detach().double()
    bias = weight @ norm.bias.detach().double()
    if linear.bias is not None:
        bias = bias + linear.bias.detach().double()
    weight = weight * norm.weight.detach().double()
    queries = len(weight) // 3
    weight[:queries] *= query_scale
    bias[:queries] *= query_scale
    dtype = linear.weight.dtype
    bare = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, elementwise_affine=False)
    return bare, FixedLinear(weight.to(dtype), bias.to(dtype), gelu)
