"""Cards that go wrong in a mixed cluster: the others do the work, and it is said which card it was."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import MixedCluster, events_of, mixed_cluster, telemetry
from losses import OPTIONS, ROWS
from pretend import Fault, work_of
from runs import Run, assert_adds_up, assert_same_results, ended, finish, wait_until

pytestmark = pytest.mark.cluster

SPEEDS = {"T4": 20.0, "A10G": 60.0}


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixedCluster]:
    """Two cards, of which the T4 goes wrong."""
    with mixed_cluster(tmp_path_factory.mktemp("cluster"), list(SPEEDS)) as cluster:
        yield cluster


@pytest.fixture
def run(standing: MixedCluster, manifest: Callable[[int], Path], tiny_bundle: Path, tmp_path: Path) -> Run:
    options = [*OPTIONS, "fleet.lease_timeout_s=5"]
    return standing.run("Pretended", manifest(ROWS), tmp_path / "run", tiny_bundle, options)


def finish_with(fault: Fault, cluster: MixedCluster, run: Run, undisturbed: Path) -> str:
    """The fault on the T4 alone; no row may be lost, doubled or changed by it. What the command printed, unwrapped."""
    cluster.order(
        images_per_s=SPEEDS, faults={"T4": fault}, together=1 if fault.kind in ("raise", "oom") else len(SPEEDS)
    )
    output = run.finish()
    assert_adds_up(run.out, ROWS)
    assert_same_results(run.out, undisturbed)
    return " ".join(output.split())


def done_by(cluster: MixedCluster, card: str, what: str) -> list[dict[str, object]]:
    return [line for line in work_of(cluster.orders_file) if line["card"] == card and line["what"] == what]


def test_out_of_memory_settles_at_the_largest_that_fits(standing: MixedCluster, run: Run, undisturbed: Path) -> None:
    """More than 5 images at once do not fit: 5 it is in the end, in the telemetry, after a handful of failures."""
    run.options = [*run.options, "model.microbatch=16"]
    output = finish_with(Fault("oom", above=5), standing, run, undisturbed)
    table = telemetry(run.out).sort_values("started_at")
    assert table["microbatch"][table["card"] == "T4"].iloc[-1] == 5
    assert set(table["microbatch"][table["card"] == "A10G"]) == {16}
    assert [line["images"] for line in done_by(standing, "T4", "oom")] == [16, 8, 6]
    assert "T4: memory ran out" in output


def test_out_of_memory_for_one_image_is_the_end_of_the_card(
    standing: MixedCluster, run: Run, undisturbed: Path
) -> None:
    """A card on which not even one image fits is given up, with the reason; the other card does the work."""
    finish_with(Fault("oom", above=0), standing, run, undisturbed)
    assert set(telemetry(run.out)["card"]) == {"A10G"}
    assert len(done_by(standing, "T4", "oom")) < 40


def test_card_whose_scores_are_not_finite_is_retired_and_named(
    standing: MixedCluster, run: Run, undisturbed: Path
) -> None:
    """NaN from one card after a while: none of it is committed, the card is named, the other does the work."""
    output = finish_with(Fault("nan", after=32), standing, run, undisturbed)
    gone = [event for event in events_of(run.out, "replica_gone") if "finite" in event["cause"]]
    assert gone
    assert all(event["replica"].startswith("T4") for event in gone)
    assert {event["card"] for event in events_of(run.out, "card_fault")} == {"T4"}
    assert re.search("T4 on node [0-9a-f]{8} is not used any more", output)


def test_replica_that_hangs_is_replaced(standing: MixedCluster, run: Run, undisturbed: Path) -> None:
    """A card stops answering: after the lease's deadline its work goes elsewhere, and nothing becomes poison."""
    finish_with(Fault("hang", after=32), standing, run, undisturbed)
    gone = [event for event in events_of(run.out, "replica_gone") if "hung" in event["cause"]]
    assert gone
    assert all(event["replica"].startswith("T4") for event in gone)


@pytest.mark.parametrize("after", [64, 0])
def test_card_that_kills_its_replicas(standing: MixedCluster, run: Run, undisturbed: Path, after: int) -> None:
    """Every replica on one card dies, after a while or in its first lease: no image becomes poison by that."""
    finish_with(Fault("die", after=after), standing, run, undisturbed)
    assert "A10G" in set(telemetry(run.out)["card"])


def test_card_on_which_the_model_cannot_be_loaded(standing: MixedCluster, run: Run, undisturbed: Path) -> None:
    """The constructor fails on one card type: the others do the work, and the reason is said once."""
    output = finish_with(Fault("raise"), standing, run, undisturbed)
    assert set(telemetry(run.out)["card"]) == {"A10G"}
    assert output.count("no kernel image is available for T4") == 1


def test_draining_node_gets_no_new_leases(standing: MixedCluster, run: Run, undisturbed: Path) -> None:
    """Ray says that a node will be taken away: no lease goes there any more, and its work is done elsewhere."""
    node = standing.add("T4")
    standing.order(images_per_s=SPEEDS, together=3)
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 6)
        standing.drain(node, deadline_s=60)
        drained_at = time.time()
        finish(process)
    standing.kill(node)
    assert_adds_up(run.out, ROWS)
    assert_same_results(run.out, undisturbed)
    on_node = {event["replica"] for event in events_of(run.out, "replica_ready") if event["node"] == node.node_id}
    leases = [event["at"] for event in events_of(run.out, "lease") if event["replica"] in on_node]
    assert len(on_node) == 1
    assert leases
    assert max(leases) <= drained_at + 2
