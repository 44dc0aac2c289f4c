"""Fixtures of the tiny golden model: as a model, as a released checkpoint, as a bundle."""

from types import SimpleNamespace

import goldens
import pytest
import torch

from ramcore.convert import convert_checkpoint
from ramcore.ram_plus import RamPlus


@pytest.fixture(scope="session")
def tiny_golden():
    return goldens.load_golden("tiny_ram_plus")


@pytest.fixture(scope="session")
def tiny_model(tiny_golden):
    config = goldens.tiny_config()
    return RamPlus.from_state(config, goldens.synth_state(config, tiny_golden["fc_bias_override"]))


@pytest.fixture(scope="session")
def tiny_release(tiny_golden, tmp_path_factory):
    """What a user downloads: checkpoint and lists, as `.checkpoint .tags .tags_zh .thresholds`."""
    folder = tmp_path_factory.mktemp("release")
    files = SimpleNamespace(checkpoint=folder / "ram_plus_tiny.pth")
    state = goldens.released_state(goldens.tiny_config(), tiny_golden["fc_bias_override"])
    torch.save({"model": state, "optimizer": {"step": 3}, "config": {"lr": 5e-6}, "epoch": 1}, files.checkpoint)
    for name, lines in goldens.load_json("tiny_vocabulary.json").items():
        path = folder / f"{name}.txt"
        path.write_text("\n".join(map(str, lines)), encoding="utf-8")
        setattr(files, name, path)
    return files


@pytest.fixture(scope="session")
def tiny_bundle(tiny_release, tmp_path_factory):
    """Folder of the bundle converted from `tiny_release`."""
    out = tmp_path_factory.mktemp("bundles") / "tiny"
    files = tiny_release
    convert_checkpoint("ram_plus", files.checkpoint, files.tags, out, files.tags_zh, files.thresholds)
    return out
