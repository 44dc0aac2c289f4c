"""What is read on a node, on this machine and from its driver's answers, and what it has to prove."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from pipeline.cards.node_facts import NodeFacts, Proof, check_proven, proof_of, read_node
from pipeline.config import Config
from pipeline.errors import ClusterError
from pipeline.stores.local_store import LocalStore
from ramcore.bundle import demo_bundle


@pytest.fixture
def places(tmp_path: Path) -> SimpleNamespace:
    """A run folder, an input folder of two pictures and a bundle."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("a.jpg", "b.jpg"):
        (pictures / name).write_bytes(b"picture")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for name in ("config.json", "model.safetensors", "vocabulary.csv"):
        (bundle / name).write_bytes((demo_bundle() / name).read_bytes())
    return SimpleNamespace(store=LocalStore(tmp_path / "run"), input=pictures, bundle=bundle)


def test_this_machine_without_a_driver_has_no_cards() -> None:
    """That is no error; host and CPU are read."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        facts = read_node(Proof())
        assert facts.gpus == ()
        assert facts.driver is None
        assert facts.host
        assert facts.cpu
        assert facts.unseen == ()
    else:
        pytest.skip("this machine has an NVIDIA driver")


def test_what_the_driver_sees_is_proven_and_leaves_nothing_behind(places: SimpleNamespace) -> None:
    """The token lies in the run folder while it is needed, hidden from listings, and no longer."""
    with proof_of(places.store, str(places.input), places.bundle, Config()) as proof:
        assert read_node(proof).unseen == ()
        assert {Path(witness.path).name for witness in proof.witnesses} >= {"a.jpg", "b.jpg", "model.safetensors"}
        assert [path.name for path in Path(places.store.root).iterdir()] == [proof.token]
        assert list(places.store.list("")) == []
    assert list(Path(places.store.root).iterdir()) == []


def test_another_folder_under_the_same_path_is_found_out(places: SimpleNamespace) -> None:
    """With a token of another driver, or with none."""
    with proof_of(places.store, None, places.bundle, Config()) as proof:
        places.store.replace(proof.token, b"another")
        (other,) = read_node(proof).unseen
        assert (
            other == f"does not see RUN {places.store.root} as the driver does: another folder is there under this path"
        )
        places.store.delete(proof.token)
        (missing,) = read_node(proof).unseen
        assert "what the driver wrote there is missing" in missing


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_found_out(places: SimpleNamespace) -> None:
    """Reading is not enough to commit."""
    with proof_of(places.store, None, places.bundle, Config()) as proof:
        Path(places.store.root).chmod(0o555)
        try:
            (line,) = read_node(proof).unseen
        finally:
            Path(places.store.root).chmod(0o755)
        assert "cannot be written" in line


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("pictures/a.jpg", lambda path: path.unlink(), "INPUT as the driver does: {path}: not there"),
        ("pictures/b.jpg", lambda path: path.write_bytes(b"other size"), "{path}: another file is there"),
        ("bundle/config.json", lambda path: path.write_text(path.read_text()[::-1]), "{path}: another file is there"),
        ("bundle/model.safetensors", lambda path: path.unlink(), "the bundle as the driver does: {path}: not there"),
    ],
)
def test_every_file_that_differs_is_named(
    places: SimpleNamespace, tmp_path: Path, path: str, change: Any, said: str
) -> None:
    """With what it is and its path, by size and for small files by content."""
    with proof_of(places.store, str(places.input), places.bundle, Config()) as proof:
        change(tmp_path / path)
        (line,) = read_node(proof).unseen
    assert said.format(path=tmp_path / path) in line


def test_local_images_of_a_manifest_have_to_be_seen(places: SimpleNamespace, tmp_path: Path) -> None:
    """The manifest itself is the driver's; images elsewhere than on local disk, or missing ones, prove nothing."""
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"uri\n{places.input}/a.jpg\nhttps://example.org/x.jpg\n{places.input}/none.jpg\n")
    with proof_of(places.store, str(manifest), places.bundle, Config()) as proof:
        assert [witness.path for witness in proof.witnesses if witness.what == "INPUT"] == [f"{places.input}/a.jpg"]


@pytest.mark.parametrize("input", ["s3://bucket/x", "https://example.org/list.csv", "/nowhere/at/all"])
def test_inputs_elsewhere_need_no_proof(places: SimpleNamespace, input: str) -> None:
    """Also those that are not there any more: a run that goes on may need none of it."""
    with proof_of(None, input, places.bundle, Config()) as proof:
        assert {witness.what for witness in proof.witnesses} == {"the bundle"}


def test_all_nodes_that_do_not_see_the_run_are_named_at_once() -> None:
    """Host, node, path and remedy; nodes that see everything or never answered are not."""
    facts = {
        "abcdefghij": NodeFacts("two", unseen=("does not see RUN /run as the driver does: not there",)),
        "bcdefghijk": NodeFacts("one"),
        "cdefghijkl": NodeFacts("three", silent="it did not answer within 60 s"),
    }
    with pytest.raises(ClusterError) as caught:
        check_proven(facts)
    first, remedy = str(caught.value).splitlines()
    assert first == "node two (abcdefgh) does not see RUN /run as the driver does: not there"
    assert remedy.startswith("put RUN, INPUT and the bundle where every node")
    check_proven({"b": facts["bcdefghijk"], "c": facts["cdefghijkl"]})


class FakeDriver:
    """NVML's answers for cards of a name and memory, the second of them cut into two slices."""

    NVML_DEVICE_MIG_ENABLE = 1
    NVMLError = pynvml.NVMLError

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in dir(self):
            if name.startswith("nvml"):
                monkeypatch.setattr(pynvml, name, getattr(self, name))

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.1"

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> tuple[int, int | None]:  # noqa: N802
        return (index, None)

    def nvmlDeviceGetUUID(self, handle: tuple[int, int | None]) -> str:  # noqa: N802
        return f"GPU-{handle[0]}aaa"

    def nvmlDeviceGetName(self, handle: tuple[int, int | None]) -> str:  # noqa: N802
        return ("NVIDIA A10G", "NVIDIA A100-SXM4-40GB")[handle[0]]

    def nvmlDeviceGetCudaComputeCapability(self, handle: tuple[int, int | None]) -> tuple[int, int]:  # noqa: N802
        return ((8, 6), (8, 0))[handle[0]]

    def nvmlDeviceGetMemoryInfo(self, handle: tuple[int, int | None]) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=5_000 if handle[1] is not None else 24_000)

    def nvmlDeviceGetMigMode(self, handle: tuple[int, int | None]) -> tuple[int, int]:  # noqa: N802
        if handle[0] == 0:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: tuple[int, int | None]) -> int:  # noqa: N802
        return 3

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: tuple[int, int | None], index: int) -> tuple[int, int]:  # noqa: N802
        if index == 1:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return (handle[0], index)


@pytest.mark.parametrize(
    ("visible", "found"),
    [
        (None, [("NVIDIA A10G", 24_000, False), *[("NVIDIA A100-SXM4-40GB", 5_000, True)] * 2]),
        ("", [("NVIDIA A10G", 24_000, False), *[("NVIDIA A100-SXM4-40GB", 5_000, True)] * 2]),
        ("0", [("NVIDIA A10G", 24_000, False)]),
        ("GPU-1aaa", [("NVIDIA A100-SXM4-40GB", 5_000, True)] * 2),
    ],
)
def test_cards_and_slices_are_read(monkeypatch: pytest.MonkeyPatch, visible: str | None, found: list[Any]) -> None:
    """Those that processes may use; numbers of slices may have gaps, and many cards have no slices at all."""
    FakeDriver(monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    facts = read_node(Proof())
    assert facts.driver == "570.1"
    assert [(gpu.name, gpu.vram_bytes, gpu.mig) for gpu in facts.gpus] == found
