"""Nodes are lost while a job runs: no row is lost, doubled or changed, and the others go on working."""

import random
from pathlib import Path

import pytest
from clusters import MixedCluster
from losses import ROUNDS, assert_unharmed, wait_for_moment
from runs import Run, ended, finish, wait_until

pytestmark = pytest.mark.cluster

MOMENTS = 10 if ROUNDS > 1 else 1


@pytest.mark.parametrize("seed", range(MOMENTS))
def test_any_node_killed_at_any_moment(cluster: MixedCluster, run: Run, undisturbed: Path, seed: int) -> None:
    """One of the three nodes loses power at a random moment; it is the only one of its type."""
    chance = random.Random(seed)
    with ended(run.start()) as process:
        wait_for_moment(run, process, chance.random() * 0.95)
        cluster.kill(chance.choice(cluster.alive()))
        finish(process)
    assert_unharmed(run, cluster, undisturbed)


def test_node_killed_while_replicas_start(cluster: MixedCluster, run: Run, undisturbed: Path) -> None:
    """A node is lost before its replica is ready."""
    with ended(run.start()) as process:
        wait_until(process, lambda: any(cluster.processes(node, "ReplicaActor") for node in cluster.alive()))
        starting = [node for node in cluster.alive() if cluster.processes(node, "ReplicaActor")]
        cluster.kill(starting[0])
        finish(process)
    assert_unharmed(run, cluster, undisturbed)


def test_node_that_decodes_is_killed(cluster: MixedCluster, run: Run, undisturbed: Path) -> None:
    """The node of an actor of Ray Data, when every CPU of the cluster is taken by another."""
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 20)
        carriers = [node for node in cluster.alive() if cluster.processes(node, "ChunkWorker")]
        assert carriers, "no node decodes"
        cluster.kill(carriers[0])
        finish(process)
    assert_unharmed(run, cluster, undisturbed)


def test_two_of_three_nodes_are_killed(cluster: MixedCluster, run: Run, undisturbed: Path) -> None:
    """At once: the last one finishes alone."""
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 20)
        for card in ("A100", "T4"):
            cluster.kill(cluster.alive(card)[0])
        finish(process)
    assert_unharmed(run, cluster, undisturbed)
