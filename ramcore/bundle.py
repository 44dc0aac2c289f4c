"""The bundle: a folder that holds a whole model.

    config.json         `ModelConfig`
    model.safetensors   the weights, named as in the model's state dict
    vocabulary.csv      tag_id, tag, tag_zh, threshold
    README.md           the model card
    vocab.txt           for tag2text, the tokenizer of captions

PyTorch is imported only where weights are read or written: reading a config or a vocabulary is cheap.
"""

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors

from ramcore.config import ModelConfig
from ramcore.errors import BundleError
from ramcore.vocabulary import Vocabulary

if TYPE_CHECKING:
    from torch import nn

    from ramcore.tokenizer import Tokenizer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
VOCABULARY_FILE = "vocabulary.csv"
CARD_FILE = "README.md"
TOKENIZER_FILE = "vocab.txt"
HASHED_FILES = (CONFIG_FILE, WEIGHTS_FILE, VOCABULARY_FILE)


def demo_bundle() -> Path:
    """Folder of the bundle that ships with the package; it knows drawn scenes only."""
    return Path(str(resources.files("ramcore"))) / "demo" / "bundle"


def read_config_and_vocabulary(dir: str | Path) -> tuple[ModelConfig, Vocabulary]:
    """Both, checked against each other; raises as `read_config` and `read_vocabulary`."""
    config, vocabulary = read_config(dir), read_vocabulary(dir)
    if len(vocabulary) != config.num_tags:
        raise BundleError(
            f"{dir}: {CONFIG_FILE} says num_tags {config.num_tags}, {VOCABULARY_FILE} has "
            f"{len(vocabulary)} tags: convert the checkpoint again"
        )
    return config, vocabulary


def read_tokenizer(dir: str | Path, config: ModelConfig) -> "Tokenizer | None":
    """The tokenizer of a tag2text bundle, None for other kinds. Raises `BundleError` where it does not fit."""
    return _fitting_tokenizer(_file(Path(dir), TOKENIZER_FILE) if config.caption else None, config)


def stored_parameters(dir: str | Path) -> int:
    """Values in the weights of a bundle, from the head of the file alone. Raises `BundleError`."""
    path = weights_file(dir)
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 - no mapping
    except (safetensors.SafetensorError, OSError) as error:
        raise BundleError(f"{path} cannot be read: {error}; fetch or convert it again") from error


def weights_file(dir: str | Path) -> Path:
    """Path of the bundle's weights. Raises `BundleError` where there are none."""
    return _file(Path(dir), WEIGHTS_FILE)


def save_bundle(
    dir: str | Path,
    model: "nn.Module",
    config: ModelConfig,
    vocabulary: Vocabulary,
    readme: str,
    *,
    tokenizer: str | Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write a bundle; the folder appears whole or not at all. Weights are stored in the model's dtype.

    tokenizer: for kind tag2text, the vocab.txt to copy into it.

    The folder may exist if it is empty or, with `overwrite`, if it is a bundle already. Otherwise, or when
    vocabulary, tokenizer and config disagree, raises `BundleError`.
    """
    from ramcore.weights import save_weights

    if len(vocabulary) != config.num_tags:
        raise BundleError(f"{len(vocabulary)} tags in the vocabulary, num_tags {config.num_tags} in the config")
    _fitting_tokenizer(tokenizer, config)
    with _replacing(Path(dir), overwrite) as folder:
        (folder / CONFIG_FILE).write_text(config.to_json(), encoding="utf-8")
        vocabulary.to_csv(folder / VOCABULARY_FILE)
        (folder / CARD_FILE).write_text(readme, encoding="utf-8")
        if tokenizer is not None:
            shutil.copyfile(tokenizer, folder / TOKENIZER_FILE)
        save_weights(model, folder / WEIGHTS_FILE)


def read_config(dir: str | Path) -> ModelConfig:
    """The bundle's config. Raises `BundleError` where there is none or it is not valid."""
    path = _file(Path(dir), CONFIG_FILE)
    try:
        return ModelConfig.from_json(path.read_text(encoding="utf-8"))
    except (BundleError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: {error}") from error


def read_vocabulary(dir: str | Path) -> Vocabulary:
    """The bundle's vocabulary. Raises `BundleError` where there is none, `VocabularyError` for a bad one."""
    return Vocabulary.from_csv(_file(Path(dir), VOCABULARY_FILE))


def bundle_hash(dir: str | Path) -> str:
    """Identity of what the bundle computes, 64 hex digits; the model card does not count.

    It is the sha256 of what `sha256sum config.json model.safetensors vocabulary.csv` prints in the folder, for
    tag2text with `vocab.txt` as a fourth file.
    """
    lines = []
    tokenizer = (TOKENIZER_FILE,) if read_config(dir).kind == "tag2text" else ()
    for name in HASHED_FILES + tokenizer:
        with _file(Path(dir), name).open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def check_target(dir: Path, overwrite: bool = False) -> None:
    """Raise `BundleError` unless a bundle may be written here (see `save_bundle`)."""
    if not dir.exists() or (dir.is_dir() and not any(dir.iterdir())):
        return
    if not dir.is_dir():
        raise BundleError(f"{dir} is a file: name a new folder for the bundle")
    if not overwrite:
        raise BundleError(f"{dir} is not empty: name a new folder for the bundle, or empty this one")
    if not all((dir / name).is_file() for name in HASHED_FILES):
        raise BundleError(f"{dir} holds something else than a bundle: name a new folder")


@contextmanager
def _replacing(target: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its place when the block ends without an error."""
    check_target(target, overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise BundleError(f"{target} cannot be made: {error.strerror}; name a folder that you may write to") from error
    try:
        folder = work / "bundle"
        folder.mkdir()
        yield folder
        if target.exists() and any(target.iterdir()):
            os.replace(target, work / "old")
        os.replace(folder, target)
    finally:
        shutil.rmtree(work)


def _fitting_tokenizer(path: str | Path | None, config: ModelConfig) -> "Tokenizer | None":
    """The tokenizer of this file if it is the one that the config asks for; `BundleError` if not."""
    if (path is not None) != (config.caption is not None):
        raise BundleError(f"kind is {config.kind}, tokenizer is {path}: tag2text needs a vocab.txt, others need none")
    if path is None or config.caption is None:
        return None
    from ramcore.tokenizer import Tokenizer

    tokenizer = Tokenizer(path)
    if len(tokenizer) != config.caption.vocab_size:
        raise BundleError(
            f"{path} makes {len(tokenizer)} tokens with [DEC] and [ENC], the model has {config.caption.vocab_size}: "
            "give the vocab.txt of bert-base-uncased"
        )
    return tokenizer


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        what = "is not a bundle" if folder.exists() else "does not exist"
        raise BundleError(
            f"{folder} {what}: {name} is missing. Make a bundle with "
            "`ramfleet model convert --kind ram_plus --checkpoint X.pth --tags T.txt --out DIR`"
        )
    return path
