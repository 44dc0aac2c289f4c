"""The cluster of the committed manifests, in namespaces: each pod of the RayJob is a machine with an address of its
own, and a host joins as `ray up` has it. An S3 server is beside them; commands are submitted from outside."""

import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from clusters import program, surroundings
from namespaces import Machine, Network, network
from pods import Pod, RayJob, read_rayjob
from pretend import ORDERS
from runs import draw_pictures
from s3server import S3Server, serve

from pipeline.events.log import events_in_order
from pipeline.quoting.kuberay import BUNDLE, INPUT, RUN
from pipeline.stores.opening import open_store

INFRA = Path(__file__).parents[2] / "infra"
HEAD = "headgroup"
HOST = "rtx3090-1"
"""One of the machines in infra/ray-up/local.yaml."""
PICTURES = 20
TIMEOUT_S = 120.0
_STORE_BYTES = 150 << 20


@dataclass
class Topology:
    """folder: what all machines see; bundle: the model, which pods have in theirs; bucket: with input and runs;
    machines: by the group of the pod, or the host's name."""

    network: Network
    job: RayJob
    server: S3Server
    folder: Path
    bundle: Path
    bucket: str
    token: str = field(default_factory=lambda: secrets.token_hex(32))
    machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def address(self) -> str:
        """Of the dashboard."""
        return f"http://{self.machines[HEAD].address}:8265"

    @property
    def orders(self) -> Path:
        """What the pretended cards read."""
        return self.folder / "orders.json"

    @property
    def run(self) -> str:
        """The folder of the run."""
        return f"s3://{self.bucket}/runs/one"

    def start_pod(self, pod: Pod) -> None:
        """As KubeRay does. The environment has what its Secrets hold."""
        self._start(pod.group, f"ramfleet-{pod.group}", pod.start, pod.environment)

    def start_host(self) -> None:
        """As `ray up` does. The node is told how many cards and CPUs it has, as there are none to be found."""
        commands = yaml.safe_load((INFRA / "ray-up/local.yaml").read_text())["worker_start_ray_commands"]
        pretended = f" --num-cpus=1 --num-gpus=1 --object-store-memory={_STORE_BYTES}"
        line = "; ".join([*commands[:-1], commands[-1] + pretended, "sleep infinity"])
        self._start(HOST, HOST, line, {"RAY_HEAD_IP": self.machines[HEAD].address})

    def _start(self, name: str, host: str, line: str, environment: dict[str, str]) -> None:
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if self.job.needs_token else {}
        image = {"PATH": path, "HOME": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0"} | surroundings(self.orders)
        del image[ORDERS]  # comes with the job
        self.machines[name] = self.network.add(host, line, image | self.server.environment | token | environment)

    def submit(self, *arguments: str) -> subprocess.Popen[str]:
        """`ramfleet submit` from this machine."""
        (self.folder / "token").write_text(self.token)
        return ramfleet("submit", "--address", self.address, "--token-file", str(self.folder / "token"), *arguments)

    def submit_entrypoint(self, name: str, settings: list[str]) -> subprocess.Popen[str]:
        """The RayJob's own command with these settings, as a job of this name."""
        ours = {INPUT: f"s3://{self.bucket}/photos.csv", RUN: self.run, BUNDLE: str(self.bundle)}
        if not ours.keys() <= set(self.job.command):
            raise AssertionError(f"not all of {sorted(ours)} are in {shlex.join(self.job.command)}")
        words = [ours.get(word, word) for word in self.job.command]
        more = [word for setting in settings for word in ("--set", setting)]
        return self.submit("--name", name, "--env", f"{ORDERS}={self.orders}", "--", *words[1:], *more)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What the run has written down so far, of these kinds."""
        return [event for event in events_in_order(open_store(self.run)) if event["event"] in kinds]

    def joined(self) -> dict[str, dict[str, Any]]:
        """What the run knows of its nodes, by group or host."""
        told = self.events("node_joined")
        return {HOST if event["host"] == HOST else event["node_type"]: event for event in told}

    def at_work(self) -> set[str]:
        """Groups and hosts that have tagged something."""
        names = {event["node"]: name for name, event in self.joined().items()}
        nodes = {event["replica"]: event["node"] for event in self.events("replica_ready")}
        return {names[nodes[event["replica"]]] for event in self.events("lease_done")}

    def nodes(self) -> list[dict[str, Any]]:
        """Living nodes, as the dashboard tells them."""
        bearer = {"Authorization": f"Bearer {self.token}"}
        answer = requests.get(f"{self.address}/api/v0/nodes?detail=1", headers=bearer, timeout=30)
        answer.raise_for_status()
        return [node for node in answer.json()["data"]["result"]["result"] if node["state"] == "ALIVE"]

    def is_whole(self) -> bool:
        """Whether all machines are nodes."""
        try:
            return len(self.nodes()) == len(self.machines)
        except requests.RequestException:
            return False

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Poll until the condition holds."""
        give_up = time.monotonic() + TIMEOUT_S
        while not condition():
            if time.monotonic() > give_up:
                raise AssertionError(f"waited {TIMEOUT_S:g} s in vain for {what}\n{self.network.log()}")
            time.sleep(0.5)


def ramfleet(*arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "jobs.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@contextmanager
def topology(folder: Path, bundle: Path, rows: int, extra: str) -> Iterator[Topology]:
    """Head, and the workers that the manifest begins with, and one of the group `extra`. rows: of the input."""
    _write_image(folder / "bin")
    job = read_rayjob(INFRA / "kuberay/rayjob.yaml", 1, {"object-store-memory": str(_STORE_BYTES)})
    with (
        network(folder / "machines") as net,
        contextmanager(serve)(folder / "ceph", net.gateway) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.environment.items():
            patch.setenv(name, value)
        found = Topology(net, job, server, folder, bundle, _fill_bucket(server, folder, rows))
        net.names[job.service] = net.next_address()
        found.start_pod(job.head)
        for group in (*(group for group, least in job.least.items() for _ in range(least)), extra):
            found.start_pod(job.workers[group])
        found.wait_for(found.is_whole, "the cluster")
        yield found


def _write_image(folder: Path) -> None:
    """The `ramfleet` of the image: the real one, with pretended cards."""
    folder.mkdir()
    file = folder / "ramfleet"
    file.write_text(f'#!/bin/sh\nexec {shlex.join(program("Pretended"))} "$@"\n')
    file.chmod(0o755)


def _fill_bucket(server: S3Server, folder: Path, rows: int) -> str:
    """A bucket with pictures and a manifest of them, which names each many times."""
    bucket, files = server.new_bucket(), server.files()
    draw_pictures(folder / "pictures", PICTURES)
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    for name in names:
        files.put_file(folder / "pictures" / name, f"{bucket}/pictures/{name}")
    lines = [f"i{row:06d},s3://{bucket}/pictures/{names[row % PICTURES]}" for row in range(rows)]
    files.pipe_file(f"{bucket}/photos.csv", "\n".join(["image_id,uri", *lines]).encode())
    return bucket
