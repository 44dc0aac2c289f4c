"""What every tagging model has in common: images of S × S pixels to one logit per tag.

Shapes: B images, N tags, T + 1 visual tokens (the pooled one first), C channels of what the tagging head
attends to.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from ramcore.config import ModelConfig
from ramcore.skeleton import ParametersOnMeta, place_buffers


class TagModel(nn.Module, ABC):
    """A model with freshly initialised weights; `from_state` takes finished ones.

    Parameters are named as in the released checkpoints, but for timm's places of patch merging
    (`ramcore.swin.timm_key`); tensors that a checkpoint holds under two names are held once.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_state(cls, config: ModelConfig, state: Mapping[str, Tensor]) -> Self:
        """A model in eval mode that holds the given tensors themselves (nothing is copied).

        Names and shapes must be exactly those of the state dict of `cls(config)`, all on one device.
        """
        with ParametersOnMeta():
            model = cls(config)
        model.load_state_dict(dict(state), strict=True, assign=True)
        place_buffers(model, model.tag_weight.device, model.tag_weight.dtype)
        return model.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: float [B, 3, S, S], normalised. Returns logits [B, N]."""
        return self.tag_logits(self.image_embeds(pixels))

    @property
    @abstractmethod
    def tag_weight(self) -> Tensor:
        """The parameter that stands for the tags; its device and dtype are the model's."""

    @abstractmethod
    def image_embeds(self, pixels: Tensor) -> Tensor:
        """pixels: float [B, 3, S, S], normalised. Returns [B, 1 + T, C], the pooled token first."""

    @abstractmethod
    def tag_logits(self, image_embeds: Tensor) -> Tensor:
        """image_embeds: [B, 1 + T, C]. Returns logits [B, N]."""

    @abstractmethod
    def subset(self, tag_ids: Sequence[int]) -> Self:
        """A model for these tags only, in this order; the weights that do not belong to a tag are shared.

        Tags do not see each other, so the logits are those of the full model and cost falls with their
        number. Raises ValueError for an empty list or an id outside 0 … N − 1.
        """


def check_tag_ids(tag_ids: Sequence[int], num_tags: int) -> None:
    """Raise ValueError for an empty list or an id outside 0 … num_tags − 1."""
    if not tag_ids or not all(0 <= tag < num_tags for tag in tag_ids):
        raise ValueError(f"tag_ids {list(tag_ids)!r}: give at least one id in 0 … {num_tags - 1}")
