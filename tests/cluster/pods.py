"""What KubeRay makes of a RayJob: the pods of its cluster, with the line that starts Ray in each.

The operator's part is played here, as its documentation has it: `ray start` gets the group's rayStartParams and labels,
and what the first container may use; the environment says where the head is and which group this is.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

GROUP = "RAY_NODE_TYPE_NAME"
"""From which Ray makes the label of a node's group."""
_HEAD_GROUP = "headgroup"
_HEAD_SERVICE = "{name}-head-svc.default.svc.cluster.local"
_GCS_PORT = 6379
_GIB = 1 << 30


@dataclass(frozen=True)
class Pod:
    """start: a line of Bash; environment: beside what its Secrets hold; labels: of the Ray node;
    drain: what runs before it ends, None for the head."""

    group: str
    start: str
    environment: dict[str, str]
    labels: dict[str, str]
    drain: list[str] | None


@dataclass(frozen=True)
class RayJob:
    """head, workers: pods, the latter by group; least: workers of each group from the beginning; needs_token: whether
    the cluster asks for one; service: the head's name; command: the words of the entry point."""

    head: Pod
    workers: dict[str, Pod]
    least: dict[str, int]
    needs_token: bool
    service: str
    command: list[str]


def read_rayjob(file: Path, cpus: int, more: Mapping[str, str]) -> RayJob:
    """The job of a manifest. cpus: that each pod gets, whatever it asks for; more: further options of `ray start`."""
    job = yaml.safe_load(file.read_text())
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    groups = cluster["workerGroupSpecs"]
    service = _HEAD_SERVICE.format(name=job["metadata"]["name"])
    return RayJob(
        _pod(_HEAD_GROUP, cluster["headGroupSpec"], "127.0.0.1", cpus, more),
        {group["groupName"]: _pod(group["groupName"], group, service, cpus, more) for group in groups},
        {group["groupName"]: group["minReplicas"] for group in groups},
        cluster["authOptions"]["mode"] == "token",
        service,
        shlex.split(spec["entrypoint"]),
    )


def _pod(group: str, spec: Mapping[str, Any], head: str, cpus: int, more: Mapping[str, str]) -> Pod:
    container, labels = spec["template"]["spec"]["containers"][0], spec.get("labels", {})
    limits, is_head = container["resources"]["limits"], group == _HEAD_GROUP
    own = {"dashboard-host": "0.0.0.0", "no-monitor": "true"} if is_head else {"address": f"{head}:{_GCS_PORT}"}
    cards = limits.get("nvidia.com/gpu")
    given = {
        **own,
        "metrics-export-port": "8080",
        "block": "true",
        "num-cpus": str(cpus),
        "memory": str(int(limits["memory"].removesuffix("Gi")) * _GIB),
        **({"num-gpus": cards} if cards else {}),
        **({"labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items()))} if labels else {}),
        **spec["rayStartParams"],
        **more,
    }
    options = (f"--{key}" if value == "true" else shlex.quote(f"--{key}={value}") for key, value in given.items())
    environment = {GROUP: group, "RAY_CLOUD_INSTANCE_ID": group, "RAY_ADDRESS": f"{head}:{_GCS_PORT}"}
    before_end = container.get("lifecycle", {}).get("preStop")
    return Pod(
        group,
        " ".join(["ulimit -n 65536; ray start", *(["--head"] if is_head else []), *options]),
        environment | {"RAY_USAGE_STATS_KUBERAY_IN_USE": "1"},
        labels,
        before_end["exec"]["command"] if before_end else None,
    )
