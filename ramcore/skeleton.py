"""Models without memory for weights, to be filled with tensors from a file: any size is built in no time."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


class ParametersOnMeta(TorchFunctionMode):
    """Within it `torch.empty` allocates nothing: layers make their parameters with it.

    Unlike `torch.device("meta")` it lets a constructor compute with other tensors, which timm's did until 1.0.20
    (drop path rates) and 1.0.22 (window position indices and shift masks, which nothing computes later).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, with device "meta" if it is `torch.empty` and no device is named."""
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def place_buffers(model: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Bring to `device` the buffers that no file holds, after a model was built within `ParametersOnMeta`.

    Those that the constructor computed move, floats among them to `dtype`. Those that it left on the meta device
    are computed by their module's own hook, which takes device and dtype of the weights: these must be in place.
    """
    for module in model.modules():
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, _placed(buffer, device, dtype), persistent=False)
    for module in model.modules():
        fill = getattr(module, "init_non_persistent_buffers", None)
        if fill is not None:
            fill()


def _placed(buffer: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    wanted = dtype if buffer.is_floating_point() else buffer.dtype
    return torch.empty_like(buffer, device=device, dtype=wanted) if buffer.is_meta else buffer.to(device, wanted)
