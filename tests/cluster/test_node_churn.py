"""Nodes join a job that runs, and join and are lost again and again."""

import random
import time
from pathlib import Path

import pytest
from clusters import MixedCluster, telemetry
from losses import ROUNDS, SPEEDS, assert_unharmed
from runs import Run, ended, finish, wait_until

pytestmark = pytest.mark.cluster


def test_node_that_joins_is_used(cluster: MixedCluster, run: Run, undisturbed: Path) -> None:
    """A card of a type that the run has not seen before takes part of the work."""
    for card in ("A100", "A10G"):
        cluster.kill(cluster.alive(card)[0])
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 3)
        cluster.add("A100")
        finish(process)
    assert_unharmed(run, cluster, undisturbed)
    assert set(telemetry(run.out)["card"]) == {"T4", "A100"}


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_nodes_killed_and_added_ten_times(cluster: MixedCluster, run: Run, undisturbed: Path, seed: int) -> None:
    """Ten times in one job a node is lost and another, of any type, joins."""
    chance = random.Random(seed)
    run.options = [*run.options, "plan.chunk_rows=4"]  # at a quarter of the speed, each takes as long as elsewhere
    cluster.change(images_per_s={card: speed / 4 for card, speed in SPEEDS.items()})
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 8)
        for _ in range(10):
            cluster.kill(chance.choice(cluster.alive()))
            cluster.add(chance.choice(list(SPEEDS)))
            until = time.monotonic() + chance.uniform(1, 6)
            wait_until(process, lambda until=until: time.monotonic() > until)
        cluster.change(images_per_s=SPEEDS)
        finish(process, 400)
    assert_unharmed(run, cluster, undisturbed)
