"""No card is left: the job waits for as long as it was told to, then stops so that it can go on later."""

import time
from pathlib import Path

import pytest
from clusters import MixedCluster, events_of
from losses import CHUNKS, ROWS, assert_unharmed, kill_all
from runs import Run, assert_adds_up, assert_same_results, ended, finish, wait_until

pytestmark = pytest.mark.cluster


def test_waits_for_a_node_when_all_are_gone(cluster: MixedCluster, run: Run, undisturbed: Path) -> None:
    """No GPU for 20 s, then one comes back: the job says that it waits, and goes on."""
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 20)
        kill_all(cluster)
        gone_at = time.time()
        time.sleep(20)
        cluster.add("A100")
        output = finish(process)
    assert_unharmed(run, cluster, undisturbed)
    assert "waiting for" in output
    assert any(event["at"] > gone_at for event in events_of(run.out, "replica_ready"))


def test_stops_resumably_when_no_node_comes_back(cluster: MixedCluster, run: Run, undisturbed: Path) -> None:
    """None within the stall timeout: exit 3 with what was wanted and what is there; later the run goes on."""
    run.options = [*run.options, "fleet.stall_timeout_s=25"]
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 20)
        kill_all(cluster)
        output = " ".join(finish(process, 120, code=3).split())
    assert "no replica of the model for 25 s" in output
    assert "Run the same command again" in output
    assert "Traceback" not in output
    assert 20 <= run.committed() < CHUNKS
    cluster.add("A100")
    run.finish()
    assert_adds_up(run.out, ROWS)
    assert_same_results(run.out, undisturbed)
