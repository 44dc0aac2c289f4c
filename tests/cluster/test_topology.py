"""A job on the cluster of the committed manifests, submitted from outside, while machines come and go."""

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pandas as pd
import pytest
from namespaces import need_namespaces
from pods import RayJob
from pretend import Orders
from runs import assert_adds_up, ended, fetched, rows
from topology import HEAD, HOST, PICTURES, TIMEOUT_S, Topology, ramfleet, topology

from pipeline.cards.labels import ACCELERATOR_LABEL, GROUP_LABEL, INSTANCE_LABEL, MARKET_LABEL, REGION_LABEL
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.cluster

ROWS, CHUNK_ROWS = 1600, 8
CARD_OF_HOST = "GeForce-RTX-3090"
SLOW = {"T4": 3.0, "A10G": 3.0, CARD_OF_HOST: 3.0}
"""Images/s while machines come and go, so that the job lasts as long as that may take; afterwards they are fast."""
PRICES = {"a10g": "1.21", "a10g-spot": "0.48", "t4-spot": "0.23", HOST: "0.19"}
"""$/h by group, or host."""


@dataclass(frozen=True)
class Story:
    """What happened. nodes: living ones in the beginning; left, followed: what `ramfleet submit` said when it was
    interrupted, and when it followed the job again, and how it ended; seen: the run's status in between; drained: the
    preStop hook of the spot machine; out: a copy of the run."""

    cluster: Topology
    nodes: list[dict[str, Any]]
    left: tuple[int, str]
    seen: dict[str, Any]
    drained: CompletedProcess[str]
    followed: tuple[int, str]
    out: Path

    @property
    def document(self) -> dict[str, Any]:
        """The run's run.json."""
        found: dict[str, Any] = json.loads((self.out / "run.json").read_text())
        return found


@pytest.fixture(scope="module")
def story(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A spot machine loses power, another and a host join; who follows the log leaves; that other spot machine is
    drained and ends; the log is followed again until the end."""
    need_namespaces()
    folder = tmp_path_factory.mktemp("topology")
    Orders(SLOW).write(folder / "orders.json")
    with topology(folder, tiny_bundle, ROWS, "t4-spot") as cluster:
        write_prices(folder / "prices.yaml", cluster.job)
        nodes = cluster.nodes()
        with ended(cluster.submit_entrypoint("one", settings(folder))) as process:
            cluster.wait_for(lambda: cluster.at_work() == {"a10g", "t4-spot"}, "both cards at work")
            cluster.machines["t4-spot"].cut_power()
            cluster.start_pod(cluster.job.workers["a10g-spot"])
            cluster.start_host()
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=TIMEOUT_S)
        left = (process.returncode, said)
        seen = json.loads(said_by("status", cluster.run, "--json"))
        cluster.wait_for(lambda: cluster.at_work() == PRICES.keys(), "those that joined at work")
        drained = cluster.machines["a10g-spot"].run(cluster.job.workers["a10g-spot"].drain or [])
        cluster.machines["a10g-spot"].cut_power()
        Orders().write(cluster.orders)
        with ended(cluster.submit("--follow", "one")) as process:
            said, _ = process.communicate(timeout=TIMEOUT_S)
        out = fetched(open_store(cluster.run), folder / "run")
        yield Story(cluster, nodes, left, seen, drained, (process.returncode, said), out)


def settings(folder: Path) -> list[str]:
    """What the test adds to the command: one replica for each card, small chunks, prices."""
    one_each = ", ".join(f"{card}: 1" for card in SLOW)
    return [
        "model.dtype=fp32",
        f"plan.chunk_rows={CHUNK_ROWS}",
        f"prices={folder / 'prices.yaml'}",
        f"fleet.replicas_per_gpu={{{one_each}}}",
    ]


def write_prices(file: Path, job: RayJob) -> None:
    """Prices of the pods' machines, by instance type and market; of the host by its card."""
    lines = [f"card: {CARD_OF_HOST}, market: on_demand, per_hour: {PRICES[HOST]}"]
    for group in sorted(PRICES.keys() - {HOST}):
        labels = job.workers[group].labels
        market = labels[MARKET_LABEL].replace("-", "_")
        lines.append(f"instance_type: {labels[INSTANCE_LABEL]}, market: {market}, per_hour: {PRICES[group]}")
    file.write_text("currency: USD\nprices:\n" + "".join(f"  - {{{line}, source: test}}\n" for line in lines))


def said_by(*arguments: str) -> str:
    """What the command says, from this machine."""
    with ended(ramfleet(*arguments)) as process:
        return process.communicate(timeout=TIMEOUT_S)[0]


def test_pods_are_the_nodes_that_the_manifest_has(story: Story) -> None:
    """Each with an address of its own, its group, its labels and its cards."""
    machines, workers = story.cluster.machines, story.cluster.job.workers
    found = {node["labels"][GROUP_LABEL]: node for node in story.nodes}
    assert found.keys() == {HEAD, "a10g", "t4-spot"}
    for group, node in found.items():
        assert node["node_ip"] == machines[group].address
        assert node["resources_total"].get("GPU", 0) == (0 if group == HEAD else 1)
        if group != HEAD:
            assert workers[group].labels.items() <= node["labels"].items()


def test_every_row_is_there_once(story: Story) -> None:
    """With the scores that its picture has wherever it was tagged."""
    assert_adds_up(story.out, ROWS)
    found = rows(story.out)
    assert found.index.tolist() == [f"i{row:06d}" for row in range(ROWS)]
    scores = pd.Series([tuple(row) for row in found["scores"]], index=found.index)
    assert scores.groupby(found["uri"]).nunique().tolist() == [1] * PICTURES


def test_who_leaves_the_log_leaves_the_job_running(story: Story) -> None:
    """And is told how to follow it again; the status tells how far the run is, from its folder alone."""
    code, said = story.left
    assert code == 130
    assert f"ramfleet submit --address {story.cluster.address} --follow one" in said
    assert story.seen["state"] == "tagging"
    assert 0 < story.seen["images_done"] < story.seen["images"] == ROWS


def test_a_job_that_is_followed_again_tells_all_of_its_log(story: Story) -> None:
    """From its beginning, which was told before, until it ends, with its exit code."""
    code, said = story.followed
    assert code == 0, said
    before = story.left[1].partition("\n")[2].rpartition("\nThe job goes on.")[0]
    assert before
    assert said.startswith(before)


def test_nodes_cost_what_their_labels_say(story: Story) -> None:
    """Card, machine, market and region of the manifest find the price; the host's are those of its command."""
    joined, workers = story.cluster.joined(), story.cluster.job.workers
    assert joined.keys() == {HEAD, *PRICES}
    of_host = {ACCELERATOR_LABEL: CARD_OF_HOST, MARKET_LABEL: "on-demand"}
    for name, event in joined.items():
        labels = workers[name].labels if name in workers else of_host if name == HOST else {}
        assert event["card"] == labels.get(ACCELERATOR_LABEL, "cpu")
        assert event["instance_type"] == labels.get(INSTANCE_LABEL)
        assert event["market"] == labels.get(MARKET_LABEL)
        assert event["region"] == labels.get(REGION_LABEL)
        assert (event["price"] or {}).get("per_hour") == PRICES.get(name)


def test_the_account_has_the_groups_of_the_manifest(story: Story) -> None:
    """As kinds of nodes in run.json, at their prices."""
    kinds = story.document["cost"]["by_node_type"]
    groups = kinds.keys() & story.cluster.job.workers.keys()
    assert groups == PRICES.keys() - {HOST}
    assert {group: str(kinds[group]["price_per_hour"]) for group in groups} == {g: PRICES[g] for g in groups}


def test_a_pod_is_drained_before_it_ends(story: Story) -> None:
    """By its preStop hook: it gets no more work, and what it had is finished. A machine without power just died."""
    assert (story.drained.returncode, story.drained.stderr) == (0, "")
    joined, events = story.cluster.joined(), story.cluster.events
    node, died = joined["a10g-spot"]["node"], joined["t4-spot"]["node"]
    assert {event["node"]: event["cause"] for event in events("node_gone")} == {node: "drained", died: "died"}
    (replica,) = {event["replica"] for event in events("replica_started") if event["node"] == node}
    (draining,) = [event for event in events("replica_draining") if event["replica"] == replica]
    after = [event["replica"] for event in events("lease") if event["at"] > draining["at"]]
    assert after
    assert replica not in after
    assert replica not in {event["replica"] for event in events("lease_lost")}
