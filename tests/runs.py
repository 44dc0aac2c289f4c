"""Runs of the real command in processes of their own, to be watched, killed and compared."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
from PIL import Image

from pipeline.stores.run_store import RunStore

SCORE_NOISE = 1e-5
"""Scores of the same image in batches of other sizes differ by less."""


def draw_pictures(folder: Path, number: int, size: tuple[int, int] = (96, 72)) -> None:
    """JPEGs of coloured blobs; no two of the first twenty are alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(min(number, 20)):
        blobs = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"p{index:05d}.jpg", quality=85)
    for index in range(20, number):
        shutil.copyfile(folder / f"p{index % 20:05d}.jpg", folder / f"p{index:05d}.jpg")


@dataclass
class Run:
    """One `ramfleet tag` command. program: what is run instead of `ramfleet`, such as a test's own entry point; more:
    further arguments."""

    input: Path | str
    out: Path
    bundle: Path
    options: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    output: str = ""
    program: list[str] = field(default_factory=lambda: [sys.executable, "-m", "jobs.main"])
    more: list[str] = field(default_factory=list)

    def start(self) -> subprocess.Popen[str]:
        arguments = [str(self.input), "--out", str(self.out), "--model", str(self.bundle)]
        settings = [part for option in self.options for part in ("--set", option)]
        return subprocess.Popen(
            [*self.program, "tag", *arguments, *settings, *self.more],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **self.environment},
            start_new_session=True,
        )

    def finish(self, timeout_s: float = 240) -> str:
        """Run to the end, which must be a success; what it printed."""
        return finish(self.start(), timeout_s)

    def committed(self) -> int:
        """Chunks committed so far."""
        return len(list((self.out / "chunks").glob("*.g*.parquet")))


def finish(process: subprocess.Popen[str], timeout_s: float = 240, code: int = 0) -> str:
    """Wait for the command's end; what it printed."""
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        kill_tree(process.pid)
        output, _ = process.communicate()
        raise AssertionError(f"stalled for {timeout_s} s:\n{output}") from None
    if process.returncode != code:
        raise AssertionError(f"exit {process.returncode} instead of {code}:\n{output}")
    return output


def wait_until(process: subprocess.Popen[str], condition: Callable[[], object], timeout_s: float = 120) -> None:
    """Poll until the condition holds while the command runs."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        if process.poll() is not None:
            raise AssertionError(f"ended too early:\n{process.communicate()[0]}")
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {timeout_s} s in vain")
        time.sleep(0.05)


def workers(driver: int, title: str) -> list[psutil.Process]:
    """Ray's worker processes below a driver whose title contains the text, as Ray names them."""
    found = []
    for process in descendants(driver):
        try:
            if title in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def descendants(pid: int) -> list[psutil.Process]:
    """All processes below one; none if it is gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_tree(pid: int) -> None:
    """End a driver with all that it started."""
    for process in [*descendants(pid), psutil.Process(pid)]:
        kill(process)


def kill(process: psutil.Process) -> None:
    """SIGKILL, unless it is gone already."""
    with suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGKILL)


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """However the test goes, nothing of the command is left running."""
    try:
        yield process
    finally:
        if process.poll() is None:
            kill_tree(process.pid)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def fetched(store: RunStore, folder: Path) -> Path:
    """A copy of the run on disk, to be compared."""
    for prefix in ("", "tags/", "rejects/", "telemetry/"):
        for name in store.list(prefix):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(store.read(name))
    return folder


def rows(out: Path) -> pd.DataFrame:
    """Every row of a finished run, tagged or rejected, by image_id."""
    document = json.loads((out / "run.json").read_text())
    parts = [pd.read_parquet(out / name) for folder in ("tags", "rejects") for name in document["parts"][folder]]
    table = pd.concat(parts)
    doubled = table["image_id"][table.duplicated(["image_id", "uri"])]
    if len(doubled):
        raise AssertionError(f"duplicate rows: {doubled.tolist()}")
    return table.set_index("image_id").sort_index()


def assert_same_results(run: Path, reference: Path) -> None:
    """Same rows and error kinds; scores within the noise; tags equal outside that margin."""
    left, right = rows(run), rows(reference)
    assert left.index.tolist() == right.index.tolist()
    assert left["error_kind"].fillna("").tolist() == right["error_kind"].fillna("").tolist()
    thresholds = pd.read_parquet(reference / "vocabulary.parquet")
    for image_id in left.index[left["error_kind"].isna()]:
        assert_same_scores(left.loc[image_id], right.loc[image_id], thresholds)


def assert_same_scores(left: pd.Series, right: pd.Series, vocabulary: pd.DataFrame) -> None:
    """Compare one image's stored scores; at floor and threshold a score may fall on either side."""
    scores = [dict(zip(row["tag_ids"], row["scores"], strict=True)) for row in (left, right)]
    for tag_id in scores[0].keys() & scores[1].keys():
        assert abs(scores[0][tag_id] - scores[1][tag_id]) <= SCORE_NOISE
    names = dict(zip(vocabulary["tag"], vocabulary["tag_id"], strict=True))
    for tag in set(left["tags"]) ^ set(right["tags"]):
        threshold = vocabulary["threshold"][names[tag]]
        assert min(abs(found[names[tag]] - threshold) for found in scores if names[tag] in found) <= SCORE_NOISE


def assert_adds_up(out: Path, expected_input: int) -> dict[str, int]:
    """The row accounting of a complete run; its counts."""
    document = json.loads((out / "run.json").read_text())
    counts: dict[str, int] = document["counts"]
    assert document["status"] == "complete"
    assert counts["input"] == expected_input
    assert counts["missing"] == 0
    assert counts["input"] == counts["tagged"] + counts["rejected"] + counts["duplicates"]
    return counts
