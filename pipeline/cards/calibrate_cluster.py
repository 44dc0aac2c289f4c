"""Measure one node for each kind of card of the cluster; what is measured comes back as profiles."""

import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from pipeline.cards.labels import VRAM_LABEL
from pipeline.cards.slot_policy import card_of
from pipeline.errors import ClusterError, last_line
from ramcore.calibrate import read_profiles

_SAID_LINES = 5


def kinds_of_nodes(nodes: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """One node for each kind of card that is there, by a name for it; nodes without a card are one kind."""
    kinds: dict[str, Mapping[str, Any]] = {}
    for node in sorted(nodes, key=lambda node: str(node["NodeID"])):
        if node["Alive"]:
            memory = node.get("Labels", {}).get(VRAM_LABEL)
            kinds.setdefault(f"{card_of(node)} {memory} GiB" if memory else card_of(node), node)
    return kinds


def calibrate_cluster(
    nodes: Mapping[str, Mapping[str, Any]], arguments: Sequence[str]
) -> Generator[tuple[str, list[dict[str, Any]] | str]]:
    """Measure on these nodes at the same time; yields name and profiles, or why there are none, as they come.

    arguments: of `python -m ramcore.calibrate`, without --out. Closing the iterator ends what is still running.
    """
    task = ray.remote(_calibrate_here)
    running = {
        task.options(max_retries=0, label_selector={"ray.io/node-id": node["NodeID"]}, **_whole(node)).remote(
            list(arguments)
        ): name
        for name, node in nodes.items()
    }
    try:
        while running:
            (ended,), _ = ray.wait(list(running), num_returns=1)
            name = running.pop(ended)
            try:
                yield name, ray.get(ended)
            except RayError as error:
                yield name, last_line(error)
    finally:
        for reference in running:
            ray.cancel(reference)


def _whole(node: Mapping[str, Any]) -> dict[str, Any]:
    """A whole card, or all CPUs: nothing else may run beside what is measured."""
    if node["Resources"].get("GPU", 0) >= 1:
        return {"num_gpus": 1, "num_cpus": 1}
    return {"num_cpus": int(node["Resources"].get("CPU", 1))}


def _calibrate_here(arguments: list[str]) -> list[dict[str, Any]]:
    """Runs as a Ray task: the very command that measures a machine without Ray."""
    with tempfile.TemporaryDirectory(prefix="ramfleet-") as folder:
        out = Path(folder, "profiles.yaml")
        command = [sys.executable, "-m", "ramcore.calibrate", *arguments, "--out", str(out)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            said = " ".join((ended.stdout + ended.stderr).strip().splitlines()[-_SAID_LINES:])
            raise ClusterError(f"ramcore.calibrate ended with code {ended.returncode}: {said}")
        measured: list[dict[str, Any]] = read_profiles(out)["measured"]
        return measured
