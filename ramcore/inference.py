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


def for_inference(model: _Model, encoder: nn.Module | None = None) -> _Model:
    """A model that computes what this one does, up to rounding, with its weights as they are now.

    Linear layers are `FixedLinear`, the image encoder is `WindowOrderSwin`; all other tensors are shared with `model`,
    which stays as it is. encoder: one that was made of the same image encoder before.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    fast = copy.deepcopy(model, shared)
    swin: Any = fast.visual_encoder
    fast.visual_encoder = WindowOrderSwin(swin) if encoder is None else encoder
    _fix_linears(fast)
    return fast.eval()


def _fix_linears(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, WindowOrderSwin):
            continue
        if type(child) is DenseGelu:  # not what is built on top of it
            setattr(module, name, FixedLinear(child.dense.weight, child.dense.bias, gelu=True))
        elif isinstance(child, nn.Linear) and child.out_features >= _FEWEST_OUTPUTS:
            setattr(module, name, FixedLinear(child.weight, child.bias))
        else:
            _fix_linears(child)
