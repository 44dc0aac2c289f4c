"""Released weights from where they are published to a bundle: the one place that downloads models.

A file that was fetched, and the part of one whose fetching was killed, stays in `ramfleet` below HF_HOME, by
repository and commit; what is in the Hugging Face cache already is taken from there. HF_ENDPOINT may name a mirror
of the hub. The released checkpoints and lists are pinned by their sha256.
"""

import fnmatch
import json
import os
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.download import DownloadError, Progress, Source, download, sha256
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
class HubFile:
    """A file on the Hugging Face hub; sha256: None where it is not known beforehand."""

    repo: str
    name: str
    revision: str = "main"
    sha256: str | None = None

    @property
    def path(self) -> str:
        """Its address below that of a hub."""
        return f"{self.repo}/resolve/{self.revision}/{self.name}"


@dataclass(frozen=True)
class Release:
    """Where a released model is.

    lists: part of the vocabulary (as `convert_checkpoint` names it) to file name and sha256.
    """

    kind: str
    checkpoint: HubFile
    lists: Mapping[str, tuple[str, str]]
    tokenizer: HubFile | None = None


_RAM_REPO = "xinyu1205/recognize_anything_model"

RELEASES: Mapping[str, Release] = {
    "ram_plus": Release(
        "ram_plus",
        HubFile(
            "xinyu1205/recognize-anything-plus-model",
            "ram_plus_swin_large_14m.pth",
            sha256="497c178836ba66698ca226c7895317e6e800034be986452dbd2593298d50e87d",
        ),
        _RAM_LISTS,
    ),
    "ram": Release(
        "ram",
        HubFile(
            _RAM_REPO,
            "ram_swin_large_14m.pth",
            sha256="15c729c793af28b9d107c69f85836a1356d76ea830d4714699fb62e55fcc08ed",
        ),
        _RAM_LISTS,
    ),
    "tag2text": Release(
        "tag2text",
        HubFile(_RAM_REPO, "tag2text_swin_14m.pth"),
        _TAG2TEXT_LISTS,
        tokenizer=HubFile(
            "google-bert/bert-base-uncased",
            "vocab.txt",
            "86b5e0934494bd15c9632b12f734a8a67f723594",
            "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        ),
    ),
}

CLIP_REPO, CLIP_REVISION = "openai/clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3"
_CLIP_FILES = ["config.json", "model.safetensors", "pytorch_model.bin", "*token*.json", "vocab.json", "merges.txt"]


@dataclass(frozen=True)
class Pulled:
    """What became of a release: bundle is its folder, sha256 by file name of everything fetched."""

    bundle: Path
    revision: str
    sha256: Mapping[str, str] = field(default_factory=dict)


def pull(
    release: Release,
    out: str | Path,
    lists: str | Path | None = None,
    lists_url: str = LISTS_URL,
    progress: Progress | None = None,
) -> Pulled:
    """Fetch a release and convert it to a bundle in the new or empty folder `out`.

    lists: a folder with the tag lists, where they are at hand; their checksums are compared all the same.
    `source.json` in the bundle records repository, revision and the sha256 of every file. Run again, a pull that was
    interrupted or killed goes on where it was. Raises `HubError` where something cannot be fetched (with what to do
    by hand) or is not what was released, and `ramcore`'s errors where the checkpoint does not convert.
    """
    check_target(Path(out))
    with tempfile.TemporaryDirectory() as folder:
        files = {part: _list(release, part, lists, lists_url, Path(folder)) for part in release.lists}
        checksums = {path.name: sha256(path) for path in files.values()}
        try:
            tokenizer = None if release.tokenizer is None else _fetch(release.tokenizer, None)
            checkpoint = _fetch(release.checkpoint, progress)
        except HubError as error:
            raise HubError(f"{error}: {_by_hand(release)}") from error
        for file in filter(None, (tokenizer, checkpoint)):
            checksums[file.path.name] = file.sha256
        from ramcore.convert import convert_checkpoint  # PyTorch, which no download needs

        convert_checkpoint(
            release.kind,
            checkpoint.path,
            files["tags"],
            out,
            files.get("tags_zh"),
            files.get("thresholds"),
            tokenizer=None if tokenizer is None else tokenizer.path,
        )
    pulled = Pulled(Path(out), checkpoint.commit, checksums)
    record = {"repository": release.checkpoint.repo, "revision": pulled.revision, "sha256": checksums}
    (Path(out) / SOURCE_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return pulled


def pull_text_model(out: str | Path, repo: str = CLIP_REPO, revision: str = CLIP_REVISION) -> Path:
    """Fetch the CLIP text model for open tags into the folder `out`; goes on like `pull`. Raises `HubError`."""
    from huggingface_hub import HfApi

    folder = Path(out)
    try:
        names = HfApi(endpoint=_endpoint()).list_repo_files(repo, revision=revision)
        for name in names:
            if any(fnmatch.fnmatch(name, pattern) for pattern in _CLIP_FILES):
                file = HubFile(repo, name, revision)
                download(lambda file=file: _locate(file)[0], folder / name)  # type: ignore[misc]
    except _download_errors() as error:
        raise HubError(
            f"{repo} cannot be fetched ({_reason(error)}): on a machine with a network, download "
            f"https://huggingface.co/{repo}/tree/{revision} and give that folder as --text-model"
        ) from error
    return folder


@dataclass(frozen=True)
class _Fetched:
    path: Path
    commit: str
    sha256: str


def _fetch(file: HubFile, progress: Progress | None) -> _Fetched:
    """The file on this disk, with its checksum compared; fetched where it is not there yet. Raises `HubError`."""
    at_hand = _at_hand(file)
    if at_hand is not None and at_hand.sha256 == (file.sha256 or at_hand.sha256):
        return at_hand
    try:
        path, commit = _downloaded(file, progress)
    except _download_errors() as error:
        raise HubError(f"{file.repo}/{file.name} cannot be fetched ({_reason(error)})") from error
    found = sha256(path)
    if file.sha256 not in (None, found):
        raise HubError(
            f"{path} is not the released {file.name}: its sha256 is {found}, not {file.sha256}. Delete it and pull "
            "again; the same again means that the published file has changed. To use such a file all the same"
        )
    return _Fetched(path, commit, found)


def _at_hand(file: HubFile) -> _Fetched | None:
    """The file if it is on this disk and nobody has to be, or can be, asked whether it has changed."""
    from huggingface_hub import constants

    if file.sha256 is None and not constants.HF_HUB_OFFLINE:
        return None
    ours = sorted(_folder(file).glob(f"*/{file.name}"), key=lambda path: path.stat().st_mtime)
    found = _in_hub_cache(file, file.revision) or ((ours[-1], ours[-1].parent.name) if ours else None)
    return None if found is None else _Fetched(*found, sha256(found[0]))


def _downloaded(file: HubFile, progress: Progress | None) -> tuple[Path, str]:
    commit = _locate(file)[1]
    cached = _in_hub_cache(file, commit)
    if cached is not None:
        return cached
    path = _folder(file) / commit / file.name
    if not path.exists():
        download(lambda: _locate(file)[0], path, progress)
    return path, commit


def _in_hub_cache(file: HubFile, revision: str) -> tuple[Path, str] | None:
    """Path and commit of a file in huggingface_hub's own cache, which keeps it in snapshots/<commit>/."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(file.repo, file.name, revision=revision)
    if not isinstance(path, str):
        return None
    parts = Path(path).parts
    return Path(path), parts[parts.index("snapshots") + 1]


def _locate(file: HubFile) -> tuple[Source, str]:
    """Where the hub serves the file from at this moment, and the commit that it is of."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        raise DownloadError("HF_HUB_OFFLINE is set")
    url = hf_hub_url(file.repo, file.name, revision=file.revision, endpoint=_endpoint())
    found = get_hf_file_metadata(url)
    if found.commit_hash is None or found.size is None:
        raise DownloadError(f"{url} does not answer as a hub does")
    # Content networks elsewhere take signed addresses and shall not see the token.
    at_home = urllib.parse.urlsplit(found.location).netloc == urllib.parse.urlsplit(url).netloc
    headers = build_hf_headers() if at_home else {}
    return Source(found.location, found.size, headers | {"Accept-Encoding": "identity"}), found.commit_hash


def _folder(file: HubFile) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "ramfleet" / file.repo.replace("/", "--")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT")


def _download_errors() -> tuple[type[Exception], ...]:
    """What can be raised when a download fails: our error, huggingface_hub's own and those of its transport."""
    from huggingface_hub import errors

    return (DownloadError, OSError, ValueError, getattr(errors, "HTTPError", OSError))


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
    found = sha256(path)
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
    sources = [f"https://huggingface.co/{release.checkpoint.path}"]
    if release.tokenizer is not None:
        sources.append(f"https://huggingface.co/{release.tokenizer.path}")
        lists += f" --tokenizer {release.tokenizer.name}"
    sources += [f"{LISTS_URL}/{name}" for name, _ in release.lists.values()]
    return (
        f"on a machine with a network, download {' and '.join(sources)}, bring the files here and run "
        f"`ramfleet model convert --kind {release.kind} --checkpoint {release.checkpoint.name} {lists} "
        f"--out {release.kind}`"
    )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
