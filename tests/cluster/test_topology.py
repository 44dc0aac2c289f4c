"""The cluster of the committed manifests, each pod a machine with an address of its own, an S3 server beside it, and
the RayJob's command run on it by `ramfleet submit` from outside."""

import json
import os
import secrets
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
import pytest
import requests
import yaml
from clusters import CARDS, program, surroundings
from namespaces import Machine, Network, need_namespaces, network
from pods import Pod, RayJob, read_rayjob
from pretend import ORDERS, Orders
from runs import assert_adds_up, draw_pictures, ended, fetched, rows
from s3server import S3Server, serve

from pipeline.cards.labels import ACCELERATOR_LABEL, GROUP_LABEL, INSTANCE_LABEL, MARKET_LABEL, REGION_LABEL
from pipeline.events import events_in_order
from pipeline.quoting.kuberay import BUNDLE
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.cluster

INFRA = Path(__file__).parents[2] / "infra"
STORE_BYTES = 150 << 20
ROWS, CHUNK_ROWS, PICTURES = 960, 16, 20
SLOW = {"T4": 4.0, "A10G": 8.0, "GeForce-RTX-3090": 8.0}
"""Images/s while machines come and go."""
FAST = dict.fromkeys(SLOW, 200.0)
PRICES = {"a10g": "1.21", "a10g-spot": "0.48", "t4-spot": "0.23", "rtx3090-1": "0.19"}
"""$/h by group, or host."""
HOST = "rtx3090-1"
"""One of the machines in infra/ray-up/local.yaml, which joins the pods."""
TIMEOUT_S = 120.0


@dataclass
class Topology:
    """The cluster. bucket: with input and runs; prices: a file; submitted: jobs, for their names."""

    network: Network
    job: RayJob
    server: S3Server
    folder: Path
    bundle: Path
    bucket: str
    token: str
    machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Of the dashboard."""
        return f"http://{self.machines['head'].address}:8265"

    @property
    def orders(self) -> Path:
        """What the pretended cards read."""
        return self.folder / "orders.json"

    def run(self, name: str) -> str:
        """The folder of a run."""
        return f"s3://{self.bucket}/runs/{name}"

    def start_pod(self, pod: Pod) -> Machine:
        """As KubeRay would: the environment has what its Secrets have."""
        host = f"ramfleet-{pod.group}"
        self.machines[pod.group] = self._start(host, pod.start, pod.environment)
        return self.machines[pod.group]

    def start_host(self, name: str) -> Machine:
        """As `ray up` would; the node is told how many cards and CPUs it has, as there are none to be found."""
        commands = yaml.safe_load((INFRA / "ray-up/local.yaml").read_text())["worker_start_ray_commands"]
        pretended = f" --num-cpus=1 --num-gpus=1 --object-store-memory={STORE_BYTES}"
        line = "; ".join([*commands[:-1], commands[-1] + pretended, "sleep infinity"])
        self.machines[name] = self._start(name, line, {"RAY_HEAD_IP": self.machines["head"].address})
        return self.machines[name]

    def _start(self, host: str, line: str, environment: dict[str, str]) -> Machine:
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if self.job.needs_token else {}
        image = {"PATH": path, "HOME": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0"} | surroundings(self.orders)
        del image[ORDERS]  # comes with the job
        return self.network.add(host, line, image | self.server.environment | token | environment)

    def command(self, run: str) -> list[str]:
        """The words of the RayJob's entry point, without `ramfleet`, and what a test adds to them."""
        values = {"RAMFLEET_INPUT": f"s3://{self.bucket}/photos.csv", "RAMFLEET_RUN": self.run(run)}
        assert values.keys() == self.job.values.keys()
        program, *words = shlex.split(Template(self.job.entrypoint).substitute(values))
        assert program == "ramfleet"
        one_each = ", ".join(f"{card}: 1" for card in {*CARDS, *SLOW})
        settings = ["model.dtype=fp32", f"plan.chunk_rows={CHUNK_ROWS}", f"prices={self.folder / 'prices.yaml'}"]
        settings.append(f"fleet.replicas_per_gpu={{{one_each}}}")
        more = [word for setting in settings for word in ("--set", setting)]
        return [str(self.bundle) if word == BUNDLE else word for word in words] + more

    def submit(self, *arguments: str) -> subprocess.Popen[str]:
        """`ramfleet submit` from this machine."""
        (self.folder / "token").write_text(self.token)
        command = ["submit", "--address", self.address, "--token-file", str(self.folder / "token"), *arguments]
        return ramfleet(*command)

    def tag(self, run: str) -> subprocess.Popen[str]:
        """Submit the RayJob's command as a job that is called like its run."""
        return self.submit("--name", run, "--env", f"{ORDERS}={self.orders}", "--", *self.command(run))

    def events(self, run: str, *kinds: str) -> list[dict[str, Any]]:
        """What the run has written down so far."""
        return [event for event in events_in_order(open_store(self.run(run))) if event["event"] in kinds]

    def working(self, run: str) -> set[str]:
        """Groups, or hosts, that have tagged something."""
        joined = {event["node"]: event for event in self.events(run, "node_joined")}
        replicas = {event["replica"]: event["node"] for event in self.events(run, "replica_ready")}
        done = {replicas[event["replica"]] for event in self.events(run, "lease_done")}
        return {name_of(joined[node]) for node in done}

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Living nodes by address, as the dashboard tells them."""
        answer = requests.get(
            f"{self.address}/api/v0/nodes?detail=1", headers={"Authorization": f"Bearer {self.token}"}, timeout=30
        )
        answer.raise_for_status()
        found = answer.json()["data"]["result"]["result"]
        return {node["node_ip"]: node for node in found if node["state"] == "ALIVE"}


def ramfleet(*arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def name_of(joined: dict[str, Any]) -> str:
    """Group of a pod, name of a host."""
    host: str = joined["host"]
    return host if host == HOST else str(joined["node_type"])


def wait_for(cluster: Topology, condition: Any, what: str) -> None:
    """Poll until the condition holds."""
    give_up = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {TIMEOUT_S:g} s in vain for {what}\n{cluster.network.log()}")
        time.sleep(0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all machines see: the `ramfleet` of the image, which pretends its cards, prices, and the cards' orders."""
    need_namespaces()
    found = tmp_path_factory.mktemp("topology")
    (found / "bin").mkdir()
    (found / "bin/ramfleet").write_text(f'#!/bin/sh\nexec {shlex.join(program("Pretended"))} "$@"\n')
    (found / "bin/ramfleet").chmod(0o755)
    return found


@pytest.fixture(scope="module")
def cluster(folder: Path, tiny_bundle: Path) -> Iterator[Topology]:
    """Head, and those workers that the manifest begins with; and one on a spot node."""
    job = read_rayjob(INFRA / "kuberay/rayjob.yaml", 1, {"object-store-memory": str(STORE_BYTES)})
    write_prices(folder / "prices.yaml", job)
    with (
        network(folder / "machines") as net,
        contextmanager(serve)(folder / "ceph", net.gateway) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.environment.items():
            patch.setenv(name, value)
        bucket = fill_bucket(server, folder)
        found = Topology(net, job, server, folder, tiny_bundle, bucket, secrets.token_hex(32))
        Orders(SLOW).write(found.orders)
        net.names[job.service] = net.next_address()
        found.machines["head"] = found.start_pod(job.head)
        begun = [group for group, least in job.least.items() for _ in range(least)]
        for group in (*begun, "t4-spot"):
            found.start_pod(job.workers[group])
        wait_for(found, lambda: is_ready(found), "the cluster")
        yield found


def is_ready(cluster: Topology) -> bool:
    """Whether all machines are nodes."""
    try:
        return len(cluster.nodes()) == len(cluster.network.machines)
    except requests.RequestException:
        return False


def write_prices(file: Path, job: RayJob) -> None:
    """Prices of the machines, by instance type and market; of the host by its card."""
    lines = [f"  - {{card: GeForce-RTX-3090, per_hour: {PRICES[HOST]}, market: on_demand, source: test}}"]
    for group in sorted(PRICES.keys() & job.workers.keys()):
        labels = job.workers[group].labels
        market = labels[MARKET_LABEL].replace("-", "_")
        where = f"instance_type: {labels[INSTANCE_LABEL]}, market: {market}"
        lines.append(f"  - {{{where}, per_hour: {PRICES[group]}, source: test}}")
    file.write_text("\n".join(["currency: USD", "prices:", *lines]) + "\n")


def fill_bucket(server: S3Server, folder: Path) -> str:
    """A bucket with pictures and a manifest of them, which names each many times."""
    bucket, files = server.new_bucket(), server.files()
    draw_pictures(folder / "pictures", PICTURES)
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    for name in names:
        files.put_file(folder / "pictures" / name, f"{bucket}/pictures/{name}")
    lines = [f"i{row:06d},s3://{bucket}/pictures/{names[row % PICTURES]}" for row in range(ROWS)]
    files.pipe_file(f"{bucket}/photos.csv", "\n".join(["image_id,uri", *lines]).encode())
    return bucket


def assert_every_row_once(cluster: Topology, run: str, folder: Path) -> dict[str, Any]:
    """Each row is there, none twice, with the tags that its picture has wherever it was tagged; run.json."""
    out = fetched(open_store(cluster.run(run)), folder)
    assert_adds_up(out, ROWS)
    found = rows(out)
    assert found.index.tolist() == [f"i{row:06d}" for row in range(ROWS)]
    scores = pd.Series([tuple(row) for row in found["scores"]], index=found.index)
    assert scores.groupby(found["uri"]).nunique().tolist() == [1] * PICTURES
    document: dict[str, Any] = json.loads((out / "run.json").read_text())
    return document


def test_a_job_goes_on_while_machines_come_and_go(cluster: Topology, tmp_path: Path) -> None:
    """A spot machine loses power, another and a host join; who followed the log leaves, and follows again."""
    assert {node["labels"][GROUP_LABEL] for node in cluster.nodes().values()} == {"headgroup", "a10g", "t4-spot"}
    with ended(cluster.tag("one")) as process:
        wait_for(cluster, lambda: cluster.working("one") == {"a10g", "t4-spot"}, "both cards at work")
        cluster.machines["t4-spot"].cut_power()
        cluster.start_pod(cluster.job.workers["a10g-spot"])
        cluster.start_host(HOST)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, said
    assert f"ramfleet submit --address {cluster.address} --follow one" in said
    wait_for(cluster, lambda: cluster.working("one") == PRICES.keys(), "the machines that joined")
    with ended(ramfleet("status", cluster.run("one"), "--json")) as process:
        seen = json.loads(process.communicate(timeout=TIMEOUT_S)[0])
    assert seen["state"] == "tagging"
    assert 0 < seen["images_done"] < seen["images"] == ROWS
    Orders(FAST).write(cluster.orders)
    with ended(cluster.submit("--follow", "one")) as process:
        log, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, log
    document = assert_every_row_once(cluster, "one", tmp_path)
    assert_known(cluster, "one", document)


def assert_known(cluster: Topology, run: str, document: dict[str, Any]) -> None:
    """The run's nodes are what the manifest says of them, and cost what was written down for such machines."""
    joined = {name_of(event): event for event in cluster.events(run, "node_joined")}
    assert joined.keys() == {"headgroup", *PRICES}
    for name, event in joined.items():
        labels = cluster.job.workers[name].labels if name in cluster.job.workers else {}
        assert event["card"] == labels.get(ACCELERATOR_LABEL, "GeForce-RTX-3090" if name == HOST else "cpu")
        assert event["instance_type"] == labels.get(INSTANCE_LABEL)
        assert event["region"] == labels.get(REGION_LABEL)
        assert event["market"] == labels.get(MARKET_LABEL, "on-demand" if name == HOST else None)
        assert (event["price"] or {}).get("per_hour") == PRICES.get(name)
    gone = {event["node"]: event["cause"] for event in cluster.events(run, "node_gone")}
    assert gone == {joined["t4-spot"]["node"]: "died"}
    kinds = document["cost"]["by_node_type"]
    assert {kind for kind in kinds if kind in cluster.job.workers} == PRICES.keys() - {HOST}
    assert {kind: str(kinds[kind]["price_per_hour"]) for kind in kinds if kind in PRICES} == {
        name: price for name, price in PRICES.items() if name != HOST
    }


def test_a_pod_is_drained_before_it_ends(cluster: Topology, tmp_path: Path) -> None:
    """Its preStop hook is run: it gets no more work, finishes what it has, and nothing of it is lost."""
    Orders(SLOW).write(cluster.orders)
    if "a10g-spot" not in cluster.machines:
        cluster.start_pod(cluster.job.workers["a10g-spot"])
    pod = cluster.job.workers["a10g-spot"]
    assert pod.drain is not None
    with ended(cluster.tag("two")) as process:
        wait_for(cluster, lambda: "a10g-spot" in cluster.working("two"), "the spot machine at work")
        drained = cluster.machines["a10g-spot"].run(pod.drain)
        cluster.machines["a10g-spot"].cut_power()
        Orders(FAST).write(cluster.orders)
        log, _ = process.communicate(timeout=TIMEOUT_S)
    assert (drained.returncode, drained.stderr) == (0, "")
    assert process.returncode == 0, log
    assert_every_row_once(cluster, "two", tmp_path)
    (node,) = [event["node"] for event in cluster.events("two", "node_joined") if name_of(event) == "a10g-spot"]
    (gone,) = cluster.events("two", "node_gone")
    assert (gone["node"], gone["cause"]) == (node, "drained")
    ours = {event["replica"] for event in cluster.events("two", "replica_started") if event["node"] == node}
    (draining,) = [event for event in cluster.events("two", "replica_draining") if event["replica"] in ours]
    after = [event for event in cluster.events("two", "lease") if event["at"] > draining["at"]]
    assert after
    assert not ours & {event["replica"] for event in after}
    assert not cluster.events("two", "lease_lost")
