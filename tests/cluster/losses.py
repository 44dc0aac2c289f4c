"""Runs that lose nodes: how long they last, when something happens to them, and what must hold in the end."""

import os
import subprocess
import time
from pathlib import Path

from clusters import MixedCluster, longest_silence
from runs import Run, assert_adds_up, assert_same_results, wait_until

ROUNDS = int(os.environ.get("RAMFLEET_CHAOS_ROUNDS", "1"))
SPEEDS = {"T4": 10.0, "A10G": 20.0, "A100": 40.0}
"""Images/s. The slowest card takes 1.6 s for a chunk; all of them take 17 s for all."""
CHUNK_ROWS = 16
CHUNKS = 75
ROWS = CHUNKS * CHUNK_ROWS
OPTIONS = [f"plan.chunk_rows={CHUNK_ROWS}"]
LONGEST_SILENCE_S = 10.0
_STARTING = 0.2
_START_S = 10.0


def wait_for_moment(run: Run, process: subprocess.Popen[str], moment: float) -> None:
    """0 … 1 is the course of a run: its first fifth is the start of replicas, the rest is its commits."""
    wait_until(process, (run.out / "plan/plan.json").exists)
    if moment < _STARTING:
        time.sleep(moment / _STARTING * _START_S)
    else:
        commits = round((moment - _STARTING) / (1 - _STARTING) * CHUNKS)
        wait_until(process, lambda: run.committed() >= commits)


def kill_all(cluster: MixedCluster) -> None:
    """Every node with a GPU."""
    for node in cluster.alive():
        cluster.kill(node)


def assert_unharmed(run: Run, cluster: MixedCluster, undisturbed: Path) -> None:
    """Same rows, none twice, and never a long time without a commit while a replica was alive."""
    assert_adds_up(run.out, ROWS)
    assert_same_results(run.out, undisturbed)
    silence = longest_silence(run.out, cluster.nodes)
    assert silence <= LONGEST_SILENCE_S, f"{silence:.1f} s without a commit although a replica was alive"
