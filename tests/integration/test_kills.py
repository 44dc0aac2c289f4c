"""Whatever is killed, no row is lost, doubled or changed."""

import os
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from runs import (
    Run,
    assert_adds_up,
    assert_same_results,
    descendants,
    draw_pictures,
    ended,
    finish,
    kill,
    rows,
    wait_until,
    workers,
)

pytestmark = pytest.mark.integration

PICTURES = 400
CHUNKS = 25
LARGE = (1800, 1200)
"""Pictures take long enough to decode that decoders can be killed at work."""
ROUNDS = int(os.environ.get("RAMFLEET_CHAOS_ROUNDS", "1"))
FAULTS = {"PYTHONPATH": str(Path(__file__).parent / "faults")}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder, PICTURES, LARGE)
    return folder


@pytest.fixture(scope="module")
def undisturbed(pictures: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody disturbs: what all others must equal."""
    run = Run(pictures, tmp_path_factory.mktemp("undisturbed") / "run", tiny_bundle)
    run.finish()
    assert_adds_up(run.out, PICTURES)
    return run.out


@pytest.fixture
def run(pictures: Path, tiny_bundle: Path, tmp_path: Path) -> Run:
    return Run(pictures, tmp_path / "run", tiny_bundle, ["plan.chunk_rows=16"])


@pytest.fixture(params=range(ROUNDS))
def seed(request: pytest.FixtureRequest) -> Iterator[int]:
    return request.param


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_driver_killed_and_run_again(run: Run, undisturbed: Path, share: float, seed: int) -> None:
    """SIGKILL of the driver while it starts, early, or late; the same command then finishes the run."""
    chunks = max(1, round(share * CHUNKS) + random.Random(seed).randint(-1, 1))
    with ended(run.start()) as process:
        planned = (run.out / "plan/plan.json").exists
        wait_until(process, (lambda: run.committed() >= chunks) if share else planned)
        kill(psutil.Process(process.pid))
        process.wait()
    run.finish()
    assert_adds_up(run.out, PICTURES)
    assert_same_results(run.out, undisturbed)


@pytest.mark.parametrize("victim", ["ReplicaActor", "ChunkWorker", "Fleet"])
def test_worker_killed(run: Run, undisturbed: Path, victim: str, seed: int) -> None:
    """SIGKILL of a replica, a decoder or the Fleet in mid-run: the run goes on and ends the same."""
    chunks = 1 if victim == "ChunkWorker" else random.Random(seed).randint(3, CHUNKS - 8)
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= chunks)
        victims = workers(process.pid, victim)
        assert victims, f"no process named {victim}"
        kill(victims[0])
        finish(process)
    assert_adds_up(run.out, PICTURES)
    assert_same_results(run.out, undisturbed)


def test_two_drivers_at_once(run: Run, undisturbed: Path) -> None:
    """Two commands on one run folder: no corruption, no duplicate, and both succeed."""
    with ended(run.start()) as first, ended(run.start()) as second:
        finish(first)
        finish(second)
    assert_adds_up(run.out, PICTURES)
    assert_same_results(run.out, undisturbed)


def plant_poison(folder: Path) -> None:
    """Pictures for faults/sitecustomize.py, among good ones."""
    draw_pictures(folder, 60)
    Image.new("RGB", (64, 64), (255, 0, 255)).save(folder / "p00020-kills-replica.png")
    Image.new("RGB", (64, 64), (0, 255, 255)).save(folder / "p00030-raises.png")
    marked = Image.fromarray(np.full((64, 64, 3), 90, np.uint8))
    marked.save(folder / "p00040-kills-decoder.jpg", comment=b"KILL-DECODER")


def test_poison_is_rejected_and_its_chunk_mates_are_tagged(tiny_bundle: Path, tmp_path: Path) -> None:
    """A picture that kills every replica, one that kills every decoder, one that makes the model raise."""
    plant_poison(tmp_path / "pictures")
    run = Run(tmp_path / "pictures", tmp_path / "run", tiny_bundle, ["plan.chunk_rows=16"], FAULTS)
    run.finish(timeout_s=400)
    assert assert_adds_up(run.out, 63)["tagged"] == 60
    rejects = rows(run.out).dropna(subset="error_kind")["error_kind"].to_dict()
    assert rejects == {
        "p00020-kills-replica.png": "poison",
        "p00030-raises.png": "model_error",
        "p00040-kills-decoder.jpg": "poison",
    }


def test_directory_that_vanishes(run: Run, undisturbed: Path, tmp_path: Path) -> None:
    """The input is away in mid-run: exit 3, no reject of it is committed, and a resume tags all."""
    original = tmp_path / "pictures"
    draw_pictures(original, PICTURES, LARGE)
    run.input = original
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 5)
        original.rename(tmp_path / "away")
        output = finish(process, code=3)
    assert "Run the same command again when it is back" in output
    assert run.committed() < CHUNKS
    (tmp_path / "away").rename(original)
    run.finish()
    assert assert_adds_up(run.out, PICTURES)["tagged"] == PICTURES
    assert_same_results(run.out, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(run: Run, undisturbed: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C: exit 3 with one line, soon, with nothing left running; the same command goes on."""
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 2)
        others = descendants(process.pid)
        os.kill(process.pid, number)
        output = finish(process, 30, code=3)
        _, alive = psutil.wait_procs(others, timeout=60)
    assert "interrupted; run the same command again to go on" in output
    assert "Traceback" not in output
    assert alive == []
    run.finish()
    assert_same_results(run.out, undisturbed)


def test_chunks_without_their_plan_are_not_taken_for_another_run(undisturbed: Path, run: Run) -> None:
    """A run folder that lost its plan is refused: its chunks may be of other images."""
    shutil.copytree(undisturbed / "chunks", run.out / "chunks")
    output = finish(run.start(), 60, code=2)
    assert "holds the chunks of a run but no plan for them" in output


def test_a_full_disk_stops_the_run_resumably(run: Run, undisturbed: Path, tmp_path: Path) -> None:
    """No space left: exit 3 and the reason; with more space the run is finished."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], check=True)
    try:
        run.out = disk / "run"
        output = finish(run.start(), code=3)
        assert "No space left on device" in output
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        run.finish()
        assert_adds_up(run.out, PICTURES)
        assert_same_results(run.out, undisturbed)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
