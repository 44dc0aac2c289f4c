"""A replica in this process: what it does when memory runs out or the device computes nonsense."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ramcore
from pipeline.cards.placement import Placement
from pipeline.fleet.replica import CardFaultError, Replica, ReplicaSpec
from ramcore.errors import BundleError

PLACE = Placement("cpu", 1, 1, 0, "fp32", 8)


@dataclass
class Limited:
    """A tagger whose device has memory for so many images at once."""

    tagger: Any
    room: int = 1000
    runs: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tagger, name)

    def begin(self, pixels: np.ndarray) -> Any:
        self.runs.append(len(pixels))
        if len(pixels) > self.room:
            raise torch.OutOfMemoryError("planted")
        return self.tagger.begin(pixels)


class Nonsense(Limited):
    def begin(self, pixels: np.ndarray) -> Any:
        begun = super().begin(pixels)
        return SimpleNamespace(scores=lambda: begun.scores() * float("nan"))


def replica(bundle: Path, wrap: Any, place: Placement = PLACE) -> Replica:
    class Wrapped(Replica):
        def _load(self) -> Any:
            return wrap(super()._load())

    spec = ReplicaSpec(str(bundle), ramcore.load(bundle).bundle_hash, 0.0, 0)
    return Wrapped(spec, place, lambda images: None)


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (20, 128, 128, 3), dtype=np.uint8)


@pytest.mark.lengthy
@pytest.mark.parametrize("room", [1, 5, 8])
def test_memory_that_runs_out_makes_the_micro_batch_smaller(tiny_bundle: Path, pixels: np.ndarray, room: int) -> None:
    """It settles at the largest that fits, and the scores are the same."""
    limited, plain = (replica(tiny_bundle, lambda t, room=room: Limited(t, room)) for room in (room, 1000))
    found, expected = (worker.tag(pixels, 0, len(pixels)) for worker in (limited, plain))
    assert found.microbatch == room
    np.testing.assert_array_equal(found.selection.counts, expected.selection.counts)
    np.testing.assert_allclose(found.selection.scores, expected.selection.scores, atol=1e-6)
    limited._tagger.runs.clear()
    limited.tag(pixels, 0, len(pixels))
    assert max(limited._tagger.runs) == room


@pytest.mark.lengthy
def test_no_memory_for_a_single_image_is_an_error(tiny_bundle: Path) -> None:
    """There is nothing smaller to try."""
    with pytest.raises(torch.OutOfMemoryError):
        replica(tiny_bundle, lambda tagger: Limited(tagger, 0))


@pytest.mark.lengthy
def test_a_device_without_finite_scores_is_refused_at_the_start(tiny_bundle: Path) -> None:
    """Before it gets any work; dtype and device are named."""
    with pytest.raises(CardFaultError, match="not finite in fp32 on this cpu"):
        replica(tiny_bundle, Nonsense)


def test_another_bundle_than_planned_is_refused(tiny_bundle: Path) -> None:
    """A run has one model."""
    with pytest.raises(BundleError, match="put that one back"):
        Replica(ReplicaSpec(str(tiny_bundle), "0" * 64, 0.0, 0), PLACE, lambda images: None)


@pytest.mark.lengthy
def test_only_the_asked_range_is_tagged(tiny_bundle: Path, pixels: np.ndarray) -> None:
    """Positions of the whole chunk, of which a lease is a part."""
    worker = replica(tiny_bundle, Limited)
    part, whole = worker.tag(pixels, 7, 12), worker.tag(pixels, 0, len(pixels))
    tags = part.tags
    np.testing.assert_allclose(
        part.selection.scores.reshape(-1, tags), whole.selection.scores.reshape(-1, tags)[7:12], atol=1e-6
    )


@pytest.mark.lengthy
def test_a_compiled_model_gets_full_micro_batches(
    tiny_bundle: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another number of images would be compiled anew; images that fill it up leave no scores."""
    compiled: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function.__name__) or function)
    plain = replica(tiny_bundle, Limited).tag(pixels, 0, len(pixels))
    worker = replica(tiny_bundle, Limited, replace(PLACE, compiled=True))
    found = worker.tag(pixels, 0, len(pixels))
    assert compiled == ["image_embeds", "tag_logits"]
    assert set(worker._tagger.runs) == {PLACE.microbatch}
    np.testing.assert_array_equal(found.selection.counts, plain.selection.counts)
    np.testing.assert_allclose(found.selection.scores, plain.selection.scores, atol=1e-5)


@pytest.mark.lengthy
def test_memory_that_runs_out_of_a_filled_micro_batch_halves_it(
    tiny_bundle: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The size that was run counts, not the images that were left; six, between what fits and what not, is next."""
    monkeypatch.setattr(torch, "compile", lambda function: function)
    worker = replica(tiny_bundle, Limited, replace(PLACE, compiled=True))
    worker._tagger.room = 4
    assert worker.tag(pixels, 0, 1).microbatch == 6
    assert worker._tagger.runs[-2:] == [8, 4]


@pytest.mark.lengthy
@pytest.mark.parametrize(("device", "expected"), [("cpu", [8, "used", 8, "used", 4, "used"]),
                                                   ("cuda", [8, 8, "used", 4, "used", "used"])])  # fmt: skip
def test_only_a_card_works_ahead(
    tiny_bundle: Path, pixels: np.ndarray, device: str, expected: list[int | str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU's scores are used, and its progress is told, as soon as they are there."""
    worker = replica(tiny_bundle, Limited)
    worker.placement = replace(PLACE, device=device)
    monkeypatch.setattr(worker, "_peak_vram", lambda: None)
    worker._tagger.runs.clear()
    for _ in worker._by_microbatch(pixels):
        worker._tagger.runs.append("used")
    assert worker._tagger.runs == expected
