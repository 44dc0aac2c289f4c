"""RAM++'s reweighting: each tag's descriptions are mixed by their likeness to the image (arXiv:2310.15200, 3.2).

Shapes: B images, N tags, R descriptions of all tags together, E channels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

from ramcore.config import ModelConfig


class DescriptionMixer(nn.Module):
    """Softmax over each tag's own descriptions, then their weighted sum; has no parameters.

    Where all tags have as many descriptions, that is one batched product. Otherwise tags of equal count are
    computed together: there is no padding, so every softmax is over exactly the tag's descriptions.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._uniform = config.descriptions_per_tag if isinstance(config.descriptions_per_tag, int) else None
        self._groups = [] if self._uniform else _group_tags(config.description_counts)
        self._starts = [] if self._uniform else _starts(config.description_counts)
        # Rows of a group that are not one slice of label_embed, and the groups' tags in vocabulary order.
        for name, values in self._indices().items():
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, pooled: Tensor, label_embed: Tensor, scale: Tensor) -> Tensor:
        """pooled: [B, E]; label_embed: [R, E], tag by tag; scale: scalar, the logarithm of what cosines are times.

        Returns [B, N, E] in pooled's dtype: for every tag the sum of its descriptions weighted by
        softmax(exp(scale) · cos) over these.
        """
        # Lengths and softmax in float32 whatever the weights are: 16-bit sums lose the small differences
        # between descriptions. The length has a floor so that an all-zero token gives even weights, not NaN.
        query = F.normalize(_at_least_float32(pooled), dim=-1).to(pooled.dtype)
        similarity = _at_least_float32(F.linear(query, label_embed)) * _at_least_float32(scale).exp()
        if self._uniform:
            return _mix(similarity, label_embed, self._uniform)
        parts = []
        for number, (count, tags) in enumerate(self._groups):
            rows = self._rows(number, similarity, label_embed, count, tags)
            parts.append(_mix(*rows, count))
        return torch.cat(parts, dim=1).index_select(1, self.get_buffer("order"))

    def _rows(
        self, number: int, similarity: Tensor, label_embed: Tensor, count: int, tags: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        start = self._starts[tags[0]]
        if _is_run(tags):  # a view: nothing is copied
            length = count * len(tags)
            return similarity.narrow(1, start, length), label_embed.narrow(0, start, length)
        rows = self.get_buffer(f"rows_{number}")
        return similarity.index_select(1, rows), label_embed.index_select(0, rows)

    def _indices(self) -> dict[str, list[int]]:
        if self._uniform:
            return {}
        indices = {
            f"rows_{number}": [self._starts[tag] + row for tag in tags for row in range(count)]
            for number, (count, tags) in enumerate(self._groups)
            if not _is_run(tags)
        }
        position = {tag: place for place, tag in enumerate(tag for _, tags in self._groups for tag in tags)}
        return indices | {"order": [position[tag] for tag in range(len(position))]}


def description_rows(counts: Sequence[int], tag_ids: Sequence[int]) -> list[int]:
    """Rows of `label_embed` that hold the descriptions of these tags, tag by tag in the given order.

    counts: number of descriptions of every tag of the vocabulary.
    """
    starts = _starts(counts)
    return [starts[tag] + row for tag in tag_ids for row in range(counts[tag])]


def _mix(similarity: Tensor, label_embed: Tensor, count: int) -> Tensor:
    """similarity: [B, n · count]; label_embed: [n · count, E]. Returns [B, n, E]."""
    weights = similarity.view(len(similarity), -1, count).softmax(dim=-1)
    # One product per tag, [B, D] @ [D, E]: label_embed is read once per batch, not once per image.
    descriptions = label_embed.view(-1, count, label_embed.shape[-1])
    return torch.bmm(weights.transpose(0, 1).to(descriptions.dtype), descriptions).transpose(0, 1)


def _group_tags(counts: Sequence[int]) -> list[tuple[int, list[int]]]:
    """Tags by their number of descriptions, as (count, tag ids in rising order)."""
    groups: dict[int, list[int]] = {}
    for tag, count in enumerate(counts):
        groups.setdefault(count, []).append(tag)
    return list(groups.items())


def _is_run(tags: Sequence[int]) -> bool:
    return tags[-1] - tags[0] == len(tags) - 1


def _starts(counts: Sequence[int]) -> list[int]:
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += count
    return starts


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
