"""`ramfleet fleet` and the reading of nodes, on several raylets of this machine with pretended GPUs."""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.cards.node_facts import Proof, proof_of, read_nodes, start_reading
from pipeline.config import Config
from pipeline.fleet.cluster import release_cards, request_cards
from pipeline.stores.local_store import LocalStore
from ramcore.bundle import demo_bundle

pytestmark = [pytest.mark.cluster, pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

_STORE_BYTES = 100 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without a GPU, two A100 on one node, a T4, and a T4 that says that it has 1 GiB."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": _STORE_BYTES})
    for card, gpus, labels in (("A100", 2, {}), ("T4", 1, {}), ("T4", 1, {"ramfleet/vram-gib": "1"})):
        cluster.add_node(
            num_cpus=1,
            num_gpus=gpus,
            resources={f"accelerator_type:{card}": 1},
            labels={"ray.io/accelerator-type": card, **labels},
            object_store_memory=_STORE_BYTES,
        )
    cluster.wait_for_nodes()
    try:
        yield cluster
    finally:
        cluster.shutdown()


def ramfleet(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.main", *arguments],
        env={**os.environ, "RAY_ADDRESS": cluster.address, "COLUMNS": "140"},
        capture_output=True,
        text=True,
        check=False,
        timeout=180,
    )


def test_the_fleet_is_shown_as_a_run_would_use_it(cluster: Cluster) -> None:
    """Every node with its card, replicas that fill its GPUs, expected speed and share."""
    ended = ramfleet(cluster, "fleet", "--json", "--set", "fleet.replicas_per_gpu={A100: 2}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    document = json.loads(ended.stdout)
    nodes = {(row["card"], row["vram_gib"]): row for row in document["nodes"]}
    assert set(nodes) == {("A100", 40.0), ("T4", 16.0), ("T4", 1.0), ("cpu", None)}
    big, small = nodes[("A100", 40.0)], nodes[("T4", 16.0)]
    assert (big["gpus"], big["replicas"], big["num_gpus"], big["dtype"]) == (2, 4, 0.5, "fp16")
    assert big["images_per_s"] > small["images_per_s"] > 0
    assert sum(row["share"] or 0 for row in document["nodes"]) == pytest.approx(1)
    assert nodes[("cpu", None)]["replicas"] == 0
    assert document["decode_cpus"] == 5


def test_a_model_too_large_for_a_card_leaves_it_out(cluster: Cluster, large_bundle: Path) -> None:
    """The released model's sizes on a card of 1 GiB: named in the table with what is needed."""
    ended = ramfleet(cluster, "fleet", "--model", str(large_bundle))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith("not used: T4 on ")]
    assert "need 1.9 GiB, the card has 0.8 of 1.0 GiB to give" in line
    assert "2 × A100" in ended.stdout


@pytest.fixture
def large_bundle(tmp_path: Path) -> Path:
    """The released model's config and the head of its weights, which themselves are a hole in the file."""
    from ramcore.config import ram_plus_preset
    from ramcore.weights import expected_shapes

    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "config.json").write_text(ram_plus_preset().to_json())
    (folder / "vocabulary.csv").write_bytes(b"not read")
    head: dict[str, Any] = {}
    end = 0
    for key, shape in expected_shapes(ram_plus_preset()).items():
        begin, end = end, end + 2 * math.prod(shape)
        head[key] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(head).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return folder


@pytest.fixture
def driver(cluster: Cluster) -> Iterator[list[dict[str, Any]]]:
    """This process as the driver; the nodes that are alive."""
    ray.init(address=cluster.address, log_to_driver=False, namespace="ramfleet")
    try:
        yield [node for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def test_all_nodes_are_read_and_prove_the_run(driver: list[dict[str, Any]], tmp_path: Path) -> None:
    """Facts of every node; nothing of the proof is left in the run folder."""
    store = LocalStore(tmp_path / "run")
    with proof_of(store, str(tmp_path), demo_bundle(), Config()) as proof:
        facts = read_nodes(driver, proof)
        assert set(facts) == {node["NodeID"] for node in driver}
        assert all(fact.unseen == () and fact.silent is None and fact.cpu for fact in facts.values())
    assert list(Path(store.root).iterdir()) == []


def test_a_node_can_be_read_while_others_work(driver: list[dict[str, Any]]) -> None:
    """The reference becomes ready although all CPUs of the node are taken."""
    node = next(node for node in driver if node["Resources"].get("GPU") == 2)

    @ray.remote(num_cpus=1, label_selector={"ray.io/node-id": node["NodeID"]})
    class Busy:
        def ready(self) -> bool:
            return True

    busy = Busy.remote()
    assert ray.get(busy.ready.remote())
    assert ray.get(start_reading(node["NodeID"], Proof()), timeout=60).unseen == ()
    ray.kill(busy)


def test_a_node_that_does_not_answer_is_silent(driver: list[dict[str, Any]]) -> None:
    """It is given up after the time, and is said to offer nothing, with the reason."""
    gone = {"NodeID": "ab" * 28, "Alive": True, "Resources": {}, "NodeManagerHostname": "gone"}
    facts = read_nodes([*driver, gone], Proof(), timeout_s=20)
    assert facts["ab" * 28].host == "gone"
    assert "did not answer within 20 s" in str(facts["ab" * 28].silent) or "could not be read" in str(
        facts["ab" * 28].silent
    )
    assert all(facts[node["NodeID"]].silent is None for node in driver)


def test_cards_are_requested_and_released(driver: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second autoscaler's view of what is wanted has a bundle for each GPU, of its card; empty afterwards."""
    monkeypatch.setattr("ray.autoscaler.v2.utils.cached_is_autoscaler_v2", True)
    request_cards({"T4": 2, "A100": 1})
    assert sorted(wanted_cards()) == ["A100", "T4", "T4"]
    release_cards()
    assert wanted_cards() == []


def test_the_first_autoscaler_is_asked_by_resource(driver: list[dict[str, Any]]) -> None:
    """It reads no labels."""
    from ray.experimental.internal_kv import _internal_kv_get

    request_cards({"T4": 1})
    key = b"autoscaler_resource_request"
    assert json.loads(_internal_kv_get(key)) == [{"GPU": 1, "accelerator_type:T4": 0.001}]
    release_cards()
    assert json.loads(_internal_kv_get(key)) == []


def wanted_cards() -> list[str]:
    """What the cluster's state says about requests, as the second autoscaler reads it."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    client = GcsClient(address=ray.get_runtime_context().gcs_address)
    state = autoscaler_pb2.GetClusterResourceStateReply()
    state.ParseFromString(client.get_cluster_resource_state())
    return [
        value
        for constraint in state.cluster_resource_state.cluster_resource_constraints
        for request in constraint.resource_requests
        for _ in range(request.count)
        for selector in request.request.label_selectors
        for rule in selector.label_constraints
        for value in rule.label_values
    ]


def test_cards_that_never_come_end_the_wait(cluster: Cluster, tmp_path: Path) -> None:
    """Exit 3, with what was asked for and what is there, after the stall timeout."""
    pictures = tmp_path / "pictures"
    shutil.copytree(demo_bundle().parent / "pictures", pictures)
    wanted = [
        "--set",
        "fleet.request={H100: 1}",
        "--set",
        "fleet.stall_timeout_s=5",
        "--set",
        "model.microbatch=100000",
    ]
    ended = ramfleet(cluster, "tag", str(pictures), "--out", str(tmp_path / "run"), *wanted)
    assert ended.returncode == 3, ended.stdout + ended.stderr
    assert "no card came within fleet.stall_timeout_s=5: asked for 1 × H100" in ended.stderr
    assert "(A100, T4)" in ended.stderr


@contextmanager
def blind_node(cluster: Cluster, hidden: Path) -> Iterator[None]:
    """A node that sees an empty folder in the place of `hidden`: a raylet in a mount namespace of its own."""
    start = f"mount -t tmpfs none {hidden} && exec {Path(sys.executable).parent}/ray start --address={cluster.address} "
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", f"{start} --num-cpus=1 --object-store-memory={_STORE_BYTES} --block"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.skipif(
    subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs a mount namespace",
)
def test_a_node_that_does_not_see_the_run_is_refused_by_name(cluster: Cluster, tmp_path: Path) -> None:
    """Exit 2 before anything is planned, with node and path."""
    shared = tmp_path / "shared"
    shared.mkdir()
    pictures = tmp_path / "pictures"
    shutil.copytree(demo_bundle().parent / "pictures", pictures)
    before = alive_nodes(cluster)
    with blind_node(cluster, shared):
        give_up = time.monotonic() + 60
        while alive_nodes(cluster) <= before and time.monotonic() < give_up:
            time.sleep(0.5)
        ended = ramfleet(cluster, "tag", str(pictures), "--out", str(shared / "run"))
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert f"does not see RUN {shared}/run as the driver does: what the driver wrote there is missing" in ended.stderr
    assert "put RUN, INPUT and the bundle where every node" in ended.stderr
    assert not (shared / "run" / "plan").exists()


def alive_nodes(cluster: Cluster) -> int:
    """As the head counts them, without joining as a driver."""
    from ray._raylet import GcsClient

    return sum(info.state == 0 for info in GcsClient(address=cluster.address).get_all_node_info().values())
