"""The real model on every node of a mixed cluster."""

from collections.abc import Callable
from pathlib import Path

import pytest
from clusters import mixed_cluster, telemetry
from runs import Run, assert_adds_up, assert_same_results

pytestmark = pytest.mark.cluster

IMAGES = 320
CARDS = ["T4", "A10G", "A100"]


def test_tables_of_a_mixed_cluster_equal_those_of_one_node(
    manifest: Callable[[int], Path], tiny_bundle: Path, tmp_path: Path
) -> None:
    """Real RAM++ replicas on three nodes: every node works, and rows and scores are those of one node."""
    rows = manifest(IMAGES)
    alone = Run(rows, tmp_path / "alone", tiny_bundle, ["plan.chunk_rows=16", "model.dtype=fp32"])
    alone.finish()
    with mixed_cluster(tmp_path, CARDS) as cluster:
        run = cluster.run("OnCpu", rows, tmp_path / "mixed", tiny_bundle, ["plan.chunk_rows=16"])
        run.finish()
    assert assert_adds_up(run.out, IMAGES)["tagged"] == IMAGES
    assert set(telemetry(run.out)["card"]) == set(CARDS)
    assert_same_results(run.out, alone.out)
