"""The text encoder whose embeddings stand for tags: CLIP's (arXiv:2103.00020), through transformers' public API."""

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ramcore.errors import BundleError

if TYPE_CHECKING:
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_BATCH = 256


class TextTower:
    """Texts to unit vectors with a CLIP text model from a local folder; nothing is downloaded.

    RAM and RAM++ were trained with CLIP ViT-B/16 (openai/clip-vit-base-patch16, 512 channels); another model
    gives vectors that mean nothing to them. Results are kept in `cache` under a name made of the model's and the
    texts' content, so that the same texts are encoded once; the model is loaded when first needed.
    """

    def __init__(self, folder: str | Path, cache: str | Path | None = None, device: str = "cpu") -> None:
        """folder: of `save_pretrained` or of the hub's files. cache: None is `default_cache()`.

        Raises `BundleError` where the folder holds no model.
        """
        self.folder = Path(folder)
        self.cache = default_cache() if cache is None else Path(cache)
        self.device = device
        self.fingerprint = _fingerprint(self.folder)
        self._loaded: tuple[CLIPTokenizer, CLIPTextModelWithProjection] | None = None

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """float32 [texts, E], each of unit length. Texts are cut at the model's length (77 tokens)."""
        path = self.cache / f"{_content_hash(self.fingerprint, texts)}.npy"
        kept = _read_array(path, len(texts))
        if kept is None:
            kept = self._compute(texts)
            _write_array(path, kept)
        return kept

    def _compute(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        tokenizer, model = self._loaded = self._loaded or self._load()
        limit = model.config.max_position_embeddings
        parts = []
        for start in range(0, len(texts), _BATCH):
            batch = list(texts[start : start + _BATCH])
            tokens = tokenizer(batch, padding=True, truncation=True, max_length=limit, return_tensors="pt")
            with torch.inference_mode():
                embeds = model(**tokens.to(self.device)).text_embeds.float()
            parts.append(torch.nn.functional.normalize(embeds, dim=-1).cpu().numpy())
        return np.concatenate(parts)

    def _load(self) -> "tuple[CLIPTokenizer, CLIPTextModelWithProjection]":
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        try:
            tokenizer = CLIPTokenizer.from_pretrained(self.folder, local_files_only=True)
            loaded: Any = CLIPTextModelWithProjection.from_pretrained(
                self.folder, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).splitlines()[0][:200]
            raise BundleError(f"{self.folder} is no CLIP text model ({reason}): fetch it again") from error
        model, report = loaded
        # transformers only warns of these, and fills them with random numbers.
        lacking = [str(key) for key in [*report["missing_keys"], *report["mismatched_keys"]]]
        if lacking:
            raise BundleError(f"{self.folder} is no CLIP text model (it lacks {sorted(lacking)[0]} …): fetch it again")
        # The weights may be stored in 16 bit; the model is in eval mode already.
        return tokenizer, model.to(self.device, torch.float32)


def default_cache() -> Path:
    """`ramfleet/text-embeddings` in $XDG_CACHE_HOME, or in ~/.cache where that is not set."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ramfleet" / "text-embeddings"


def _fingerprint(folder: Path) -> str:
    """Hash of what decides the model's output: its config, weights and tokenizer files."""
    if not folder.is_dir():
        raise BundleError(f"text model {folder} is no folder: `ramfleet model pull clip` fetches one")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise BundleError(f"text model {folder} holds neither {' nor '.join(_WEIGHTS)}: fetch it again")
    names = ("config.json", "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json", *_WEIGHTS)
    lines = []
    for path in (folder / name for name in names):
        if path.is_file():
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _content_hash(fingerprint: str, texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps([fingerprint, list(texts)]).encode()).hexdigest()


def _read_array(path: Path, rows: int) -> npt.NDArray[np.float32] | None:
    """What `_write_array` wrote, or None where there is nothing usable."""
    if not path.is_file():
        return None
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # cut short: it is made again
        return None
    usable = isinstance(array, np.ndarray) and array.ndim == 2 and len(array) == rows and array.dtype == np.float32
    return array if usable else None


def _write_array(path: Path, array: npt.NDArray[np.float32]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            np.save(file, array)
        os.replace(file.name, path)
    except OSError as error:
        # A cache that cannot be written costs time, nothing else.
        warnings.warn(f"text embeddings are not kept in {path.parent}: {error}", stacklevel=3)
