"""Released weights from where they are published to a bundle: the one place that downloads models.

What was fetched stays in the Hugging Face cache (HF_HOME), and HF_ENDPOINT may name a mirror of the hub. A
connection that breaks off is taken up where it broke (huggingface_hub does so within one call; a process that is
killed starts the file again). The tag lists come from the reference's repository and are accepted only with the
checksums below.
"""

import hashlib
import json
import os
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ramcore.bundle import check_target
from ramcore.errors import RamcoreError

SOURCE_FILE = "source.json"
LISTS_URL = "https://raw.githubusercontent.com/xinyu1205/recognize-anything/main/ram/data"
_TIMEOUT_S = 60

_RAM_LISTS = {
    "tags": ("ram_tag_list.txt", "5d96d2f7225527480ad773aaac76b6e5c08a18adf6eae9ca7d2ab923d5e7bd8b"),
    "tags_zh": ("ram_tag_list_chinese.txt", "c912657a0f30be7b2f5df6ccffa17e1d84561d0bea508528e38b6d0d711bcfbe"),
    "thresholds": ("ram_tag_list_threshold.txt", "b6f81d0de1bc7f9c251af512c413eae976c77dbfbadf700d4e3d90510f4c6447"),
}
_TAG2TEXT_LISTS = {
    "tags": ("tag2text_ori_tag_list.txt", "7d05c7cb88ed46a2aee1434776964f6bdbda0c0f4233c8633e109084382d3a45"),
}


class HubError(RamcoreError):
    """Something could not be fetched, or is not what it should be."""


@dataclass(frozen=True)
class Release:
    """Where a released model is.

    repo, file, revision: of its checkpoint on the Hugging Face hub. lists: part of the vocabulary (as
    `convert_checkpoint` names it) to file name and sha256. tokenizer: repo and file of a tokenizer.
    """

    kind: str
    repo: str
    file: str
    lists: Mapping[str, tuple[str, str]]
    revision: str = "main"
    tokenizer: tuple[str, str] | None = None


RELEASES: Mapping[str, Release] = {
    "ram_plus": Release(
        "ram_plus", "xinyu1205/recognize-anything-plus-model", "ram_plus_swin_large_14m.pth", _RAM_LISTS
    ),
    "ram": Release("ram", "xinyu1205/recognize_anything_model", "ram_swin_large_14m.pth", _RAM_LISTS),
    "tag2text": Release(
        "tag2text",
        "xinyu1205/recognize_anything_model",
        "tag2text_swin_14m.pth",
        _TAG2TEXT_LISTS,
        tokenizer=("google-bert/bert-base-uncased", "vocab.txt"),
    ),
}

CLIP_REPO = "openai/clip-vit-base-patch16"
_CLIP_FILES = ["config.json", "model.safetensors", "pytorch_model.bin", "*token*.json", "vocab.json", "merges.txt"]


@dataclass(frozen=True)
class Pulled:
    """What became of a release: bundle is its folder, sha256 by file name of everything fetched."""

    bundle: Path
    revision: str
    sha256: Mapping[str, str] = field(default_factory=dict)


def pull(release: Release, out: str | Path, lists: str | Path | None = None, lists_url: str = LISTS_URL) -> Pulled:
    """Fetch a release and convert it to a bundle in the new or empty folder `out`.

    lists: a folder with the tag lists, where they are at hand; their checksums are compared all the same.
    `source.json` in the bundle records repository, revision and the sha256 of every file. Raises `HubError`
    where something cannot be fetched (with what to do by hand) or a list is not the released one, and
    `ramcore`'s errors where the checkpoint does not convert.
    """
    from ramcore.convert import convert_checkpoint

    check_target(Path(out))
    with tempfile.TemporaryDirectory() as folder:
        files = {part: _list(release, part, lists, lists_url, Path(folder)) for part in release.lists}
        tokenizer = None if release.tokenizer is None else _from_hub(release, *release.tokenizer)
        checkpoint = _from_hub(release, release.repo, release.file, release.revision)
        convert_checkpoint(
            release.kind,
            checkpoint,
            files["tags"],
            out,
            files.get("tags_zh"),
            files.get("thresholds"),
            tokenizer=tokenizer,
        )
        fetched = [checkpoint, *files.values(), *([tokenizer] if tokenizer else [])]
        pulled = Pulled(Path(out), _commit(checkpoint), {path.name: _sha256(path) for path in fetched})
    record = {"repository": release.repo, "revision": pulled.revision, "sha256": dict(pulled.sha256)}
    (Path(out) / SOURCE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return pulled


def pull_text_model(out: str | Path, repo: str = CLIP_REPO) -> Path:
    """Fetch the CLIP text model for open tags into the folder `out`. Raises `HubError`."""
    from huggingface_hub import snapshot_download

    try:
        snapshot_download(repo, local_dir=out, allow_patterns=_CLIP_FILES, endpoint=os.environ.get("HF_ENDPOINT"))
    except _download_errors() as error:
        raise HubError(
            f"{repo} cannot be fetched ({_reason(error)}): on a machine with a network, download "
            f"https://huggingface.co/{repo} and give that folder as --text-model"
        ) from error
    return Path(out)


def _from_hub(release: Release, repo: str, file: str, revision: str = "main") -> Path:
    """A file's path in the Hugging Face cache, fetched where it is not there yet."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, file, revision=revision, endpoint=os.environ.get("HF_ENDPOINT")))
    except _download_errors() as error:
        raise HubError(f"{repo}/{file} cannot be fetched ({_reason(error)}): {_by_hand(release)}") from error


def _download_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub raises when a download fails: its own errors and those of its transports."""
    from huggingface_hub import errors

    return (OSError, ValueError, errors.HTTPError, getattr(errors, "XetDownloadError", OSError))  # type: ignore[attr-defined]


def _list(release: Release, part: str, lists: str | Path | None, url: str, folder: Path) -> Path:
    """One of the tag lists as a file with the right checksum."""
    name, expected = release.lists[part]
    path = folder / name if lists is None else Path(lists) / name
    if lists is None:
        try:
            with urllib.request.urlopen(f"{url}/{name}", timeout=_TIMEOUT_S) as response:
                path.write_bytes(response.read())
        except (OSError, ValueError) as error:
            raise HubError(f"{url}/{name} cannot be fetched ({_reason(error)}): {_by_hand(release)}") from error
    if not path.is_file():
        raise HubError(f"{path} does not exist: --lists is the folder ram/data of the reference's repository")
    found = _sha256(path)
    if found != expected:
        raise HubError(
            f"{path} is not the released list: its sha256 is {found}, not {expected}; a list in another order gives "
            f"wrong tags. To use your own list, run `ramfleet model convert --tags {name}`"
        )
    return path


def _by_hand(release: Release) -> str:
    """What to do without a network."""
    options = {"tags": "--tags", "tags_zh": "--tags-zh", "thresholds": "--thresholds"}
    lists = " ".join(f"{options[part]} {name}" for part, (name, _) in release.lists.items())
    sources = [f"https://huggingface.co/{release.repo}/resolve/{release.revision}/{release.file}"]
    if release.tokenizer is not None:
        repo, file = release.tokenizer
        sources.append(f"https://huggingface.co/{repo}/resolve/main/{file}")
        lists += f" --tokenizer {file}"
    sources += [f"{LISTS_URL}/{name}" for name, _ in release.lists.values()]
    return (
        f"on a machine with a network, download {' and '.join(sources)}, bring the files here and run "
        f"`ramfleet model convert --kind {release.kind} --checkpoint {release.file} {lists} --out {release.kind}`"
    )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _commit(path: Path) -> str:
    """The commit that a file in the cache is of: the cache keeps files in snapshots/<commit>/."""
    parts = path.parts
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else "unknown"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
