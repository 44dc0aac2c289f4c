"""Weights between models and safetensors files, with every missing, unexpected or misshapen key named."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import safetensors
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ramcore.config import ModelConfig
from ramcore.errors import BundleError
from ramcore.ram import Ram
from ramcore.ram_plus import RamPlus
from ramcore.skeleton import ParametersOnMeta
from ramcore.swin import set_fused_window_attention
from ramcore.tag2text import Tag2Text
from ramcore.tag_model import TagModel

MODELS: Mapping[str, type[TagModel]] = {"ram_plus": RamPlus, "ram": Ram, "tag2text": Tag2Text}

Shapes = Mapping[str, tuple[int, ...]]

_LISTED = 20


def model_class(kind: str) -> type[TagModel]:
    """The class that implements a kind; raises `BundleError` for one that is not implemented."""
    if kind not in MODELS:
        raise BundleError(f"kind is {kind!r}: this version runs {', '.join(MODELS)}")
    return MODELS[kind]


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the model's state dict; no weights are allocated."""
    return dict(_shapes(config))


@lru_cache(maxsize=4)  # one bundle asks several times, and timm takes a tenth of a second
def _shapes(config: ModelConfig) -> Shapes:
    with ParametersOnMeta():
        model = model_class(config.kind)(config)
    return {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}


def describe_mismatch(expected: Shapes, found: Shapes) -> str:
    """Which keys are missing, unexpected or misshapen: "" for none, else a list with at most 20 of each."""
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    misshapen = [
        f"{key} {list(found[key])} instead of {list(shape)}"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    groups = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    return "; ".join(f"{len(keys)} {what}: {_listing(keys)}" for what, keys in groups.items() if keys)


def load_model(config: ModelConfig, path: Path, device: torch.device, dtype: torch.dtype) -> TagModel:
    """The model in eval mode with the file's weights on `device`, cast to `dtype` (scalars stay float32).

    Beyond the weights themselves no more than one tensor is held at a time. Raises `BundleError` when the
    file cannot be read or its keys and shapes are not those of the model.
    """
    state = read_weights(config, path, device, dtype)
    model = model_class(config.kind).from_state(config, state)
    set_fused_window_attention(model, device.type == "cuda")
    return model


def read_weights(
    config: ModelConfig, path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> dict[str, Tensor]:
    """The state dict in a bundle's file; dtype: None is as stored. Raises as `load_model`."""
    expected = expected_shapes(config)
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            problems = describe_mismatch(expected, found)
            if problems:
                raise BundleError(f"{path} does not fit config.json: {problems}; convert the checkpoint again")
            return {key: _cast(file.get_tensor(key), dtype) for key in expected}
    except (safetensors.SafetensorError, OSError) as error:
        raise BundleError(f"{path} cannot be read: {error}; fetch or convert it again") from error


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the model's state dict, in its own dtypes, to a new safetensors file."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    save_file(state, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors makes it private, but a cluster's workers may be other users


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None:
        return tensor
    # The one scalar, reweight_scale, is used in float32; rounding it to 16 bit would gain nothing.
    return tensor.to(dtype) if tensor.ndim else tensor.to(torch.float32)


def _listing(keys: list[str]) -> str:
    rest = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return ", ".join(keys[:_LISTED]) + rest
