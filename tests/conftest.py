"""Fixtures of the tiny golden model: as a model, as a released checkpoint, as a bundle."""

from types import SimpleNamespace

import goldens
import pytest
import torch

from ramcore.convert import convert_checkpoint
from ramcore.ram_plus import RamPlus

# Threads that share out tiny tensors cost more than they gain, thirty times more where cores are busy.
_ALL_THREADS = torch.get_num_threads()
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """A real S3 server, see s3server.S3Server. Its address and keys are not in this process's environment."""
    from s3server import serve

    yield from serve(tmp_path_factory.mktemp("ceph") / "server")


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory):
    """Address of a real PostgreSQL of its own, see postgresserver.py."""
    from postgresserver import serve

    yield from serve(tmp_path_factory.mktemp("postgres") / "server")


@pytest.fixture
def s3_run(s3_server, monkeypatch):
    """A URL for a run in a bucket of its own, with address and keys in the environment."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_server.new_bucket()}/runs/one"


@pytest.fixture(autouse=True)
def threads(request):
    """One thread for PyTorch, all of them in slow tests, whose models are of full size."""
    torch.set_num_threads(_ALL_THREADS if request.node.get_closest_marker("slow") else 1)


@pytest.fixture(scope="session")
def tiny_golden():
    return goldens.load_golden("tiny_ram_plus")


@pytest.fixture(scope="session")
def tiny_model(tiny_golden):
    config = goldens.tiny_config()
    return RamPlus.from_state(config, goldens.synth_state(config, tiny_golden["fc_bias_override"]))


def _write_release(folder, kind, fc_bias):
    """What a user downloads: checkpoint and lists, as `.checkpoint .tags .tags_zh .thresholds`."""
    files = SimpleNamespace(checkpoint=folder / f"{kind}_tiny.pth")
    state = goldens.released_state(goldens.tiny_config(kind=kind), fc_bias)
    torch.save({"model": state, "optimizer": {"step": 3}, "config": {"lr": 5e-6}, "epoch": 1}, files.checkpoint)
    for name, lines in goldens.load_json("tiny_vocabulary.json").items():
        path = folder / f"{name}.txt"
        path.write_text("\n".join(map(str, lines)), encoding="utf-8")
        setattr(files, name, path)
    return files


@pytest.fixture(scope="session")
def tiny_release(tiny_golden, tmp_path_factory):
    """A tiny released RAM++."""
    return _write_release(tmp_path_factory.mktemp("release"), "ram_plus", tiny_golden["fc_bias_override"])


@pytest.fixture(scope="session")
def tiny_ram_release(tmp_path_factory):
    """A tiny released RAM."""
    fc_bias = goldens.load_golden("tiny_ram")["fc_bias_override"]
    return _write_release(tmp_path_factory.mktemp("release"), "ram", fc_bias)


@pytest.fixture(scope="session")
def tiny_tag2text_release(tmp_path_factory):
    """A tiny released Tag2Text; its thresholds are 0.68, and 1 where the golden deletes tags."""
    files = _write_release(tmp_path_factory.mktemp("release"), "tag2text", None)
    golden = goldens.load_golden("tiny_tag2text")
    thresholds = golden["class_threshold"].copy()
    thresholds[golden["delete_tag_index"]] = 1
    files.thresholds.write_text("\n".join(map(str, thresholds)))
    return files


@pytest.fixture(scope="session")
def tiny_bundle(tiny_release, tmp_path_factory):
    """Folder of the bundle converted from `tiny_release`."""
    return _convert("ram_plus", tiny_release, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_ram_bundle(tiny_ram_release, tmp_path_factory):
    """Folder of the bundle converted from `tiny_ram_release`."""
    return _convert("ram", tiny_ram_release, tmp_path_factory)


@pytest.fixture(scope="session")
def tiny_tag2text_bundle(tiny_tag2text_release, tmp_path_factory):
    """Folder of the bundle converted from `tiny_tag2text_release`."""
    return _convert("tag2text", tiny_tag2text_release, tmp_path_factory, tokenizer=goldens.GOLDEN / "vocab_tiny.txt")


def _convert(kind, files, tmp_path_factory, **more):
    out = tmp_path_factory.mktemp("bundles") / kind
    convert_checkpoint(kind, files.checkpoint, files.tags, out, files.tags_zh, files.thresholds, **more)
    return out


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """Folder of a tiny CLIP text model of 512 channels with random weights."""
    from clip import save_tiny_clip

    return save_tiny_clip(tmp_path_factory.mktemp("text") / "clip")


def pytest_collection_modifyitems(items):
    """Tests marked gpu are skipped, with the reason, where PyTorch sees no card."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA card, and PyTorch sees none"))
