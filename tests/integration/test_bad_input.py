"""What a user may get wrong: exit 2, one line that names the fault and the remedy, and nothing is made."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import draw_pictures

pytestmark = pytest.mark.integration


def refused(*arguments: str | Path) -> str:
    """What the command says on standard error as it refuses."""
    command = [sys.executable, "-m", "jobs.main", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw_pictures(tmp_path / "pictures", 2)
    return tmp_path / "pictures"


def test_missing_input(tmp_path: Path) -> None:
    """The path that was looked for is named."""
    message = refused("tag", tmp_path / "none", "--out", tmp_path / "run")
    assert "there is no such file or folder" in message
    assert len(message.splitlines()) == 1
    assert not (tmp_path / "run/plan").exists()


def test_empty_folder(tmp_path: Path) -> None:
    """A folder without images is not a run of nothing."""
    (tmp_path / "empty").mkdir()
    assert "no images in this folder" in refused("tag", tmp_path / "empty", "--out", tmp_path / "run")


def test_manifest_without_a_uri_column(tmp_path: Path) -> None:
    """The columns that were found are listed, and those that would do."""
    (tmp_path / "m.csv").write_text("link,width\na.jpg,3\n")
    message = refused("tag", tmp_path / "m.csv", "--out", tmp_path / "run")
    assert "'link', 'width'" in message
    assert "image_path" in message


def test_unknown_key_and_wrong_type(tmp_path: Path, pictures: Path) -> None:
    """Both faults are told at once."""
    message = refused(
        "tag", pictures, "--out", tmp_path / "run", "--set", "decode.mod=exact", "--set", "fetch.concurrency=many"
    )
    assert "did you mean decode.mode?" in message
    assert "fetch.concurrency='many'" in message


def test_a_folder_that_is_no_bundle(tmp_path: Path, pictures: Path) -> None:
    """The missing file is named."""
    assert "config.json" in refused("tag", pictures, "--out", tmp_path / "run", "--model", pictures)


def test_a_run_folder_that_cannot_be_made(tmp_path: Path, pictures: Path) -> None:
    """--out below a file."""
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused("tag", pictures, "--out", tmp_path / "file/run")


def test_a_ray_address_where_nobody_answers(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is named."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "RAY_ADDRESS=127.0.0.1:1" in refused("tag", pictures, "--out", tmp_path / "run")


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('executed', 'w')",))


def test_a_checkpoint_that_is_a_pickle_of_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused by weights-only loading, and nothing of it runs."""
    monkeypatch.chdir(tmp_path)
    torch.save({"model": _Payload()}, tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Payload()))
    (tmp_path / "tags.txt").write_text("dog\ncat\n")
    for name in ("evil.pth", "raw.pth"):
        message = refused("model", "convert", "--checkpoint", name, "--tags", "tags.txt", "--out", "bundle")
        assert name in message
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "bundle").exists()


def test_lists_of_different_lengths(tmp_path: Path) -> None:
    """Both files are named with their counts."""
    torch.save({"model": {}}, tmp_path / "x.pth")
    (tmp_path / "tags.txt").write_text("dog\ncat\n")
    (tmp_path / "thresholds.txt").write_text("0.5\n")
    message = refused(
        "model",
        "convert",
        *("--checkpoint", tmp_path / "x.pth", "--tags", tmp_path / "tags.txt"),
        *("--thresholds", tmp_path / "thresholds.txt", "--out", tmp_path / "bundle"),
    )
    assert "tags.txt" in message
    assert "thresholds.txt" in message
