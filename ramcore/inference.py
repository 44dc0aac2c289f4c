"""A finished model made ready to compute: the same results from fewer and faster operations."""

import copy
from typing import Any, TypeVar

from torch import nn

from ramcore.head import DenseGelu
from ramcore.products import FixedLinear
from ramcore.tag_model import TagModel
from ramcore.window_order import WindowOrderSwin

_FEWEST_OUTPUTS = 16
"""Narrower layers have nothing to gain."""

_Model = TypeVar("_Model", bound=TagModel)


def for_inference(model: _Model, microbatch: int = 1) -> _Model:
    """A model that computes what this one does, up to rounding, with its weights as they are now.

    Linear layers are `FixedLinear`, the image encoder is `WindowOrderSwin`; all other tensors are shared with `model`,
    which stays as it is. microbatch: images that are expected at once.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fast = copy.deepcopy(model, shared)
    encoder: Any = fast.visual_encoder
    fast.visual_encoder = WindowOrderSwin(encoder, microbatch)
    _fix_linears(fast, microbatch * model.config.num_tags)
    return fast.eval()


def _fix_linears(module: nn.Module, rows: int) -> None:
    for name, child in module.named_children():
        if type(child) is DenseGelu:  # not what is built on top of it
            setattr(module, name, FixedLinear(child.dense.weight, child.dense.bias, rows, gelu=True))
        elif isinstance(child, nn.Linear) and child.bias is not None and child.out_features >= _FEWEST_OUTPUTS:
            setattr(module, name, FixedLinear(child.weight, child.bias, rows))
        else:
            _fix_linears(child, rows)
