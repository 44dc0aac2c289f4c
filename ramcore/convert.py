"""A released checkpoint (`.pth`) to a bundle: strict where the reference implementation loads loosely."""

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ramcore.bundle import check_target, save_bundle
from ramcore.config import HeadConfig, ModelConfig, SwinConfig
from ramcore.errors import BundleError, CheckpointError
from ramcore.swin import timm_key
from ramcore.vocabulary import Vocabulary
from ramcore.weights import describe_mismatch, expected_shapes, model_class

# Buffers that follow from the architecture and are computed anew.
_BUFFERS = ("relative_position_index", "attn_mask", "position_ids")

# What `infer_config` reads sizes from, with the number of dimensions each must have.
_ANCHORS = {
    "label_embed": 2,
    "visual_encoder.patch_embed.proj.weight": 4,
    "visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table": 2,
    "wordvec_proj.weight": 2,
    "tagging_head.encoder.layer.0.intermediate.dense.weight": 2,
}
_BIAS_TABLE = re.compile(r"visual_encoder\.layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table")
_HEAD_LAYER = re.compile(r"tagging_head\.encoder\.layer\.(\d+)\.")


def convert_checkpoint(
    kind: str,
    checkpoint: str | Path,
    tags: str | Path,
    out: str | Path,
    tags_zh: str | Path | None = None,
    thresholds: str | Path | None = None,
    *,
    image_size: int | None = None,
) -> ModelConfig:
    """Write a bundle to the new or empty folder `out` and return its config.

    kind: only "ram_plus" so far. checkpoint: a file of torch.save, a state dict or one under "model";
    anything beside it (optimizer, epoch, …) is ignored. tags, tags_zh, thresholds: lists as
    `Vocabulary.from_lists` reads them. image_size: checked against the checkpoint's windows.

    The architecture is read from the tensors' shapes. Nothing in the file is executed. Raises
    `CheckpointError` when it cannot be read or a key is missing, unexpected or misshapen,
    `VocabularyError` for lists that do not fit together and `BundleError` for a folder in use.
    """
    check_target(Path(out))
    try:
        model_type = model_class(kind)
    except BundleError as error:
        raise CheckpointError(f"cannot convert this checkpoint: {error}") from error
    vocabulary = Vocabulary.from_lists(tags, tags_zh, thresholds)
    state = translate_keys(read_checkpoint(checkpoint))
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    config = infer_config(kind, shapes, len(vocabulary), image_size)
    problems = describe_mismatch(expected_shapes(config), shapes)
    if problems:
        raise CheckpointError(f"{checkpoint} is no {kind} checkpoint: {problems}")
    card = _model_card(config, Path(checkpoint).name)
    save_bundle(out, model_type.from_state(config, state), config, vocabulary, card)
    return config


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file of torch.save, memory-mapped where the format allows it.

    Takes the mapping under "model" if there is one. Unpickling admits tensors and plain containers only;
    raises `CheckpointError` for a file that holds other objects or is not of torch.save.
    """
    document = _load_weights_only(Path(path))
    if isinstance(document, Mapping) and isinstance(document.get("model"), Mapping):
        document = document["model"]
    if not isinstance(document, Mapping) or not document:
        raise CheckpointError(f'{path} holds no state dict: expected a mapping of tensors, or one under "model"')
    others = [str(key) for key, value in document.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path}: {', '.join(others[:20])} are no tensors: save the model's state dict")
    return {str(key): value for key, value in document.items()}


def translate_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for the tensors of a released state dict; computed buffers are dropped.

    "vision_multi" anywhere in a key is an old name of "tagging_head". Two keys that become the same name
    raise `CheckpointError`.
    """
    translated: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.rsplit(".", 1)[-1] in _BUFFERS:
            continue
        name = key.replace("vision_multi", "tagging_head")
        if name.startswith("visual_encoder."):
            name = timm_key(name)
        if name in translated:
            raise CheckpointError(f"two keys of the checkpoint are names of {name}, one of them is {key}")
        translated[name] = tensor
    return translated


def infer_config(
    kind: str,
    shapes: Mapping[str, tuple[int, ...]],
    num_tags: int,
    image_size: int | None = None,
) -> ModelConfig:
    """The config of a model whose state dict (in our names) has these shapes.

    Number of head attention heads (4) and layer norm epsilon leave no trace in the shapes and are the
    released models'. image_size None: the size at which the last stage is one window, as in all released
    models. Raises `CheckpointError` where a size cannot be read or contradicts num_tags or image_size.
    """
    lost = [key for key, ndim in _ANCHORS.items() if len(shapes.get(key, ())) != ndim]
    if lost:
        raise CheckpointError(f"this is no {kind} checkpoint: missing or misshapen {', '.join(lost)}")
    rows, text_dim = shapes["label_embed"]
    if rows % num_tags:
        raise CheckpointError(
            f"label_embed has {rows} rows, not a multiple of the {num_tags} tags in the list: "
            "give the tag list that this checkpoint was trained with"
        )
    try:
        return ModelConfig(
            kind=kind,
            swin=_infer_swin(shapes, image_size),
            head=_infer_head(shapes),
            embed_dim=text_dim,
            num_tags=num_tags,
            descriptions_per_tag=rows // num_tags,
        )
    except BundleError as error:
        raise CheckpointError(f"the shapes in this checkpoint make no model: {error}") from error


def _infer_head(shapes: Mapping[str, tuple[int, ...]]) -> HeadConfig:
    return HeadConfig(
        hidden_size=shapes["wordvec_proj.weight"][0],
        intermediate_size=shapes["tagging_head.encoder.layer.0.intermediate.dense.weight"][0],
        num_layers=1 + max(int(match[1]) for match in map(_HEAD_LAYER.match, shapes) if match),
    )


def _infer_swin(shapes: Mapping[str, tuple[int, ...]], image_size: int | None) -> SwinConfig:
    heads: dict[int, int] = {}
    depths: dict[int, int] = {}
    for key, shape in shapes.items():
        match = _BIAS_TABLE.fullmatch(key)
        if match:
            stage, block = int(match[1]), int(match[2])
            heads[stage] = shape[-1]
            depths[stage] = max(depths.get(stage, 0), block + 1)
    stages = range(max(depths) + 1)
    rows = shapes["visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table"][0]
    window = (math.isqrt(rows) + 1) // 2
    embed_dim, _, patch_size, _ = shapes["visual_encoder.patch_embed.proj.weight"]
    natural_size = patch_size * 2 ** stages[-1] * window
    if image_size not in (None, natural_size):
        raise CheckpointError(
            f"image size {image_size} asked for, but this checkpoint has window {window}, which belongs to "
            f"{natural_size} pixels: interpolation of relative positions is not available yet; "
            f"leave the image size out or give {natural_size}"
        )
    return SwinConfig(
        image_size=natural_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        # A stage without any block is reported as missing keys once the expected ones are known.
        depths=tuple(depths.get(stage, 1) for stage in stages),
        num_heads=tuple(heads.get(stage, 1) for stage in stages),
        window_size=window,
    )


def _load_weights_only(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: give a checkpoint written by torch.save")
    try:
        with warnings.catch_warnings():
            # PyTorch warns of foreign pickle protocols; such a file loads or raises below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        refused = re.search(r"Unsupported (?:global|class)[^\n]*", str(error))
        if refused is None:
            raise _not_a_checkpoint(path, error) from error
        raise CheckpointError(
            f"{path} was refused: it holds more than tensors and could run code when loaded "
            f"({refused[0][:120]}). Where you trust its source, load it there and save the weights alone: "
            "torch.save({'model': checkpoint['model']}, 'weights.pth')"
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _not_a_checkpoint(path, error) from error


def _not_a_checkpoint(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return CheckpointError(f"{path} is not a complete file of torch.save ({reason}): fetch it again")


def _model_card(config: ModelConfig, source: str) -> str:
    return f"""---
tags:
- image-tagging
- {config.kind}
---

# {config.kind} · {config.num_tags} tags · {config.image_size} pixels

Converted from `{source}` by `ramfleet model convert`; the weights and their licence are those of that file.

| file | holds |
|---|---|
| `config.json` | architecture and input normalisation |
| `model.safetensors` | weights |
| `vocabulary.csv` | tag, Chinese name and threshold per tag id |

```python
import ramcore

print(ramcore.load("this folder").tag("picture.jpg").tags)
```
"""
