"""A released checkpoint (`.pth`) to a bundle: strict where the reference implementation loads loosely."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from ramcore.bundle import check_target, save_bundle
from ramcore.checkpoint import read_checkpoint, translate_keys
from ramcore.config import ModelConfig
from ramcore.errors import BundleError, CheckpointError
from ramcore.infer_config import infer_config
from ramcore.relative_positions import resize_table
from ramcore.vocabulary import Vocabulary
from ramcore.weights import describe_mismatch, expected_shapes, model_class

# The released Tag2Text decides by these in place of 0.68, and drops these tags from its results, because they
# spoil captions. By tag id and name: another list has other tags at these places.
_TAG2TEXT_THRESHOLDS = {2701: ("person", 0.7), 2828: ("man", 0.7), 1167: ("woman", 0.7)}
_TAG2TEXT_DELETED = {
    127: "quarter",
    2961: "back",
    3351: "two",
    3265: "three",
    3338: "four",
    3355: "five",
    3359: "one",
}
# A score is never greater than 1, so a tag with this threshold never fires.
_NEVER = 1.0


def convert_checkpoint(
    kind: str,
    checkpoint: str | Path,
    tags: str | Path,
    out: str | Path,
    tags_zh: str | Path | None = None,
    thresholds: str | Path | None = None,
    *,
    image_size: int | None = None,
    tokenizer: str | Path | None = None,
) -> ModelConfig:
    """Write a bundle to the new or empty folder `out` and return its config.

    kind: one of `ramcore.config.KINDS`. checkpoint: a file of torch.save, a state dict or one under "model";
    anything beside it (optimizer, epoch, …) is ignored. tags, tags_zh, thresholds: lists as
    `Vocabulary.from_lists` reads them. image_size: None is the checkpoint's own; for another one, a multiple of
    32 for the released models, the relative position tables are interpolated (`resize_table`) to the window
    that makes the last stage one window. tokenizer: for tag2text, the vocab.txt of bert-base-uncased.

    For the released Tag2Text list, seven tags get threshold 1 (they never fire), and without `thresholds`
    "person", "man" and "woman" get 0.7, as in the reference.

    The architecture is read from the tensors' shapes. Nothing in the file is executed. The checkpoint is mapped
    and written tensor by tensor. Raises `CheckpointError` when it cannot be read or a key is missing,
    unexpected or misshapen, `VocabularyError` for lists that do not fit together and `BundleError` for a folder
    in use or a tokenizer that does not fit.
    """
    check_target(Path(out))
    _check_arguments(kind, tokenizer)
    vocabulary = Vocabulary.from_lists(tags, tags_zh, thresholds)
    if kind == "tag2text":
        vocabulary = _with_tag2text_rules(vocabulary, thresholds is not None)
    state = translate_keys(read_checkpoint(checkpoint), kind)
    config = _fitting_config(kind, checkpoint, state, len(vocabulary))
    if image_size is not None:
        config, state = resize_model(config, state, image_size)
    card = _model_card(config, Path(checkpoint).name)
    save_bundle(out, model_class(kind).from_state(config, state), config, vocabulary, card, tokenizer=tokenizer)
    return config


def _fitting_config(kind: str, checkpoint: str | Path, state: Mapping[str, Tensor], num_tags: int) -> ModelConfig:
    """The config that these tensors are exactly the state dict of."""
    shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    config = infer_config(kind, shapes, num_tags)
    problems = describe_mismatch(expected_shapes(config), shapes)
    if problems:
        raise CheckpointError(f"{checkpoint} is no {kind} checkpoint: {problems}")
    wrong = [f"{key} ({tensor.dtype})" for key, tensor in state.items() if not tensor.is_floating_point()]
    if wrong:
        raise CheckpointError(f"{checkpoint}: {', '.join(wrong[:20])} hold no floats: save the weights unquantised")
    return config


def resize_model(
    config: ModelConfig, state: Mapping[str, Tensor], image_size: int
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Config and state dict (in our names) of the same model for images of another size.

    The window grows with the image, so that the last stage stays one window. Raises `CheckpointError` for a size
    that the stages do not divide.
    """
    swin = config.swin
    step = swin.patch_size * 2 ** (len(swin.depths) - 1)
    try:
        resized = dataclasses.replace(swin, image_size=image_size, window_size=max(1, image_size // step))
    except BundleError as error:
        raise CheckpointError(f"image size {image_size} asked for: {error}") from error
    tables = {
        key: resize_table(tensor, resized.window_size)
        for key, tensor in state.items()
        if key.endswith("relative_position_bias_table")
    }
    return dataclasses.replace(config, swin=resized), {**state, **tables}


def _check_arguments(kind: str, tokenizer: str | Path | None) -> None:
    try:
        model_class(kind)
    except BundleError as error:
        raise CheckpointError(f"cannot convert this checkpoint: {error}") from error
    if (tokenizer is not None) != (kind == "tag2text"):
        raise CheckpointError(
            f"tokenizer is {tokenizer}: kind tag2text needs one, the vocab.txt of bert-base-uncased; others need none"
        )


def _with_tag2text_rules(vocabulary: Vocabulary, thresholds_given: bool) -> Vocabulary:
    thresholds = vocabulary.thresholds.copy()
    changes = {} if thresholds_given else dict(_TAG2TEXT_THRESHOLDS)
    changes |= {tag: (name, _NEVER) for tag, name in _TAG2TEXT_DELETED.items()}
    for tag, (name, threshold) in changes.items():
        if tag < len(vocabulary) and vocabulary.tags[tag] == name:
            thresholds[tag] = np.float32(threshold)
    return Vocabulary(vocabulary.tags, vocabulary.tags_zh, thresholds)


def _model_card(config: ModelConfig, source: str) -> str:
    tokenizer = "| `vocab.txt` | tokenizer of captions |\n" if config.caption else ""
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
{tokenizer}
```python
import ramcore

print(ramcore.load("this folder").tag("picture.jpg").tags)
```
"""
