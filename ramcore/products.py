"""Linear layers of a finished model, in the form in which the device multiplies fastest.

On CPUs PyTorch's own float32 product reaches half to two thirds of what oneDNN does with weights in its own layout, and
oneDNN applies GELU while the result is still in the cache. The operators for that are those that PyTorch's compiler
emits. They have no public name, so they are tried on a small product first, and done without where they fail.
"""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention

_PACKED_DTYPES = (torch.float32, torch.bfloat16)
_ROWS = 1024
"""Of the products that a layout is made for. One number for all, so that the same weights give the same bits with any
vocabulary."""
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


class FixedLinear(nn.Module):
    """y = x Wᵀ + b, optionally GELU (erf) of it, for weights that do not change any more.

    weight: [out, in]; bias: [out] or None. is_packed: whether the weight was copied into oneDNN's layout; else it is
    shared.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> None:
        super().__init__()
        self._gelu = gelu
        self.is_packed = can_pack(weight)
        weight = weight.detach()
        if self.is_packed:
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
        self._weight, self._bias = weight, None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in]. Returns [..., out]."""
        if self.is_packed:
            return _packed(x, self._weight, self._bias, self._gelu)
        y = F.linear(x, self._weight, self._bias)
        return F.gelu(y) if self._gelu else y


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN can take this weight in its own layout here."""
    return weight.device.type == "cpu" and weight.dtype in _PACKED_DTYPES and _works(weight.dtype)


def _packed(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu" if gelu else "none", [], "none")
    return y


@cache
def _works(dtype: torch.dtype) -> bool:
    """Whether the operators are there, and right."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((5, 48), (32, 48), (32,)))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), _ROWS)
        found = [_packed(x.to(dtype), packed, bias.to(dtype), gelu).float() for gelu in (False, True)]
    except (AttributeError, RuntimeError, NotImplementedError):  # another PyTorch, or one built without oneDNN
        return False
    exact = F.linear(x, weight, bias)
    scale = _TOLERANCE[dtype] * float(exact.abs().max())
    return all(
        torch.allclose(y, wanted, rtol=0, atol=scale) for y, wanted in zip(found, (exact, F.gelu(exact)), strict=True)
    )
