"""Released checkpoint files (`.pth`): the tensors in them, under our names, each once."""

import lzma
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ramcore.errors import CheckpointError
from ramcore.swin import timm_key

# Buffers that follow from the architecture and are computed anew.
_BUFFERS = ("relative_position_index", "attn_mask", "position_ids")

# Parts that a kind's checkpoint holds and tagging never uses: 1.08 GB of the released RAM.
_UNUSED = {"ram": ("tag_encoder.", "text_decoder.")}

# Tied tensors are saved under all their names. The tag encoder's lowest layers are the tagging head's but for
# the self-attention; the words' output weights and biases are those of the embedding and of the predictions.
_TIED = (
    (re.compile(r"tag_encoder\.(encoder\.layer\.(\d+)\.(?!attention\.).*)"), r"tagging_head.\1"),
    (
        re.compile(r"text_decoder\.cls\.predictions\.decoder\.weight"),
        "text_decoder.bert.embeddings.word_embeddings.weight",
    ),
    (re.compile(r"text_decoder\.cls\.predictions\.decoder\.bias"), "text_decoder.cls.predictions.bias"),
)
# What zipfile raises where bytes of an archive have changed: beside its own error those of its decompressors (zlib and
# lzma by name, bz2 by OSError and EOFError), RuntimeError for flags of encryption and methods that it does not know,
# and ValueError for offsets and names that cannot be.
_BAD_ARCHIVE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, OSError, EOFError, RuntimeError, ValueError)

_HEAD_LAYER = re.compile(r"tagging_head\.encoder\.layer\.(\d+)\.")


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


def translate_keys(state: Mapping[str, Tensor], kind: str = "ram_plus") -> dict[str, Tensor]:
    """Our names for the tensors of a released state dict of this kind.

    Computed buffers are dropped, and so are parts that tagging never uses (RAM's tag_encoder and text_decoder).
    "vision_multi" anywhere in a key is an old name of "tagging_head". Tied tensors are kept once: the copies
    under their other names must be equal (the reference would silently take the last one) or may be missing.
    Raises `CheckpointError` for copies that differ and for two keys that become the same name.
    """
    translated: dict[str, Tensor] = {}
    renamed = {key: key.replace("vision_multi", "tagging_head") for key in state}
    layers = {int(match[1]) for match in map(_HEAD_LAYER.match, renamed.values()) if match}
    copies: list[tuple[str, str]] = []
    for key, name in renamed.items():
        if key.rsplit(".", 1)[-1] in _BUFFERS:
            continue
        tied = _tied_name(name, layers)
        if tied is not None:
            copies.append((key, tied))
            continue
        if name.startswith(_UNUSED.get(kind, ())):
            continue
        if name.startswith("visual_encoder."):
            name = timm_key(name)
        if name in translated:
            raise CheckpointError(f"two keys of the checkpoint are names of {name}, one of them is {key}")
        translated[name] = state[key]
    _add_copies(translated, state, copies, _UNUSED.get(kind, ()))
    return translated


def _tied_name(name: str, head_layers: set[int]) -> str | None:
    """The name under which a tied tensor is kept, for one of its other names."""
    for pattern, kept in _TIED:
        match = pattern.fullmatch(name)
        if match and (match.re.groups < 2 or int(match[2]) in head_layers):
            return match.expand(kept)
    return None


def _add_copies(
    kept: dict[str, Tensor], state: Mapping[str, Tensor], copies: list[tuple[str, str]], unused: tuple[str, ...]
) -> None:
    different = []
    for key, name in copies:
        if name.startswith(unused):
            continue
        tensor = state[key]
        if name not in kept:
            kept[name] = tensor
        elif not tensor.is_meta and not torch.equal(kept[name], tensor):
            different.append(f"{key} and {name}")
    if different:
        raise CheckpointError(
            f"tied tensors differ: {', '.join(different[:20])}; the weights were changed after training: "
            "make the copies equal, or remove the wrong one"
        )


def _load_weights_only(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: give a checkpoint written by torch.save")
    _check_sums(path)
    try:
        with warnings.catch_warnings():
            # PyTorch warns of foreign pickle protocols; such a file loads or raises below.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        refused = re.search(r"unsupported (?:global|class)[^\n]*", str(error), re.IGNORECASE)
        if refused is None:
            raise CheckpointError(f"{path} is not a complete file of torch.save: fetch it again") from error
        raise CheckpointError(
            f"{path} was refused: it holds more than tensors and could run code when loaded "
            f"({refused[0][:120]}). Where you trust its source, load it there and save the weights alone: "
            "torch.save({'model': checkpoint['model']}, 'weights.pth')"
        ) from error
    except (RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise _not_a_checkpoint(path, error) from error


def _check_sums(path: Path) -> None:
    """Raise `CheckpointError` where bytes have changed since torch.save; it notes a CRC of every tensor."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except _BAD_ARCHIVE as error:
        raise _not_a_checkpoint(path, error) from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged (checksum of {damaged}): fetch it again")


def _not_a_checkpoint(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return CheckpointError(f"{path} is not a complete file of torch.save ({reason}): fetch it again")
