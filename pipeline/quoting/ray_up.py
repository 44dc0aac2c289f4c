"""A plan as a cluster file for `ray up`: machines of AWS or Google Cloud, or machines that are there already."""

import importlib.metadata
import re
import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.quoting.groups import NodeGroup, Plan, commented, node_labels, region_of
from pipeline.yaml_text import dump_yaml

_PYTHON = "3.12"
_DISK_GB = 200
_GOOGLE_IMAGE = "projects/deeplearning-platform-release/global/images/family/common-cu128-ubuntu-2204-nvidia-570"
_AMAZON_IMAGE = "ami-of-your-region"
_AMAZON_REGION, _GOOGLE_REGION = "us-east-1", "us-central1"
_AMAZON_HEAD, _GOOGLE_HEAD = "m6i.2xlarge", "n2-standard-8"
_START = "ray start --address=$RAY_HEAD_IP:6379 --object-manager-port=8076"
_NOTES = (
    "The head node is not part of the prediction, nor is storage or traffic.",
    "setup_commands has to install RamFleet from where you have it.",
)
_AMAZON_NOTE = (
    "ImageId has to be yours: a Deep Learning Base AMI with Ubuntu 22.04 of your region. Ray's own default is too old "
    "for PyTorch."
)
_LOCAL_NOTES = (
    "Machines are told by their host names: write yours in provider, and in the case of worker_start_ray_commands.",
    "RamFleet has to be installed on all of them, with the same Python; setup_commands does it from where you have it.",
)


def ray_up_yaml(plan: Plan) -> str:
    """A cluster file with a node type for each kind, for the cloud that the instance types are of.

    Raises ConfigError for a kind without an instance type, for types of several clouds or of none that is known, and
    for several regions or zones.
    """
    without = [group.offer.label for group in plan.groups if group.offer.instance_type is None]
    if without:
        raise ConfigError(
            f"emit=ray-up: {', '.join(without)}: no instance_type, which `ray up` needs: add it to the fleet file, or "
            f"use --emit kuberay, or --emit ray-up-local for machines that you have"
        )
    clouds = {_cloud(group) for group in plan.groups}
    if len(clouds) > 1:
        raise ConfigError(f"emit=ray-up: one cluster has one cloud, the nodes are of {', '.join(sorted(clouds))}")
    cloud = clouds.pop()
    if cloud == "gcp":
        return commented(plan, dump_yaml(_on_google(plan)), *_NOTES)
    return commented(plan, dump_yaml(_on_amazon(plan)), *_NOTES, _AMAZON_NOTE)


def ray_up_local_yaml(plan: Plan) -> str:
    """A cluster file for machines that are there: hosts called as their kind is, with a number, as many as may be had.

    Ray has but one type for all of them, so each gets its labels by its host name when it starts.
    """
    hosts = [f"{group.name}-{number}" for group in plan.groups for number in range(1, group.most + 1)]
    tree = {
        **_common(len(hosts)),
        "provider": {"type": "local", "head_ip": "head", "worker_ips": hosts},
        "worker_start_ray_commands": ["ray stop", _labelled_start(plan)],
    }
    return commented(plan, dump_yaml(tree), *_LOCAL_NOTES)


def _labelled_start(plan: Plan) -> str:
    # The longest name first, as a100-40-1 is like a100-[0-9]* too.
    groups = sorted(plan.groups, key=lambda group: -len(group.name))
    cases = " ".join(f"{group.name}-[0-9]*) labels={_label_list(group)};;" for group in groups)
    return f'case "$(hostname -s)" in {cases} *) labels=;; esac; {_START} --labels="$labels"'


def _label_list(group: NodeGroup) -> str:
    return shlex.quote(",".join(f"{key}={value}" for key, value in node_labels(group.offer).items()))


def _on_amazon(plan: Plan) -> dict[str, Any]:
    place = _one_region(plan, _AMAZON_REGION)
    region = region_of(place)
    provider = {"type": "aws", "region": region} | ({"availability_zone": place} if place != region else {})
    ebs = {"VolumeSize": _DISK_GB, "VolumeType": "gp3"}
    common = {"ImageId": _AMAZON_IMAGE, "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Ebs": ebs}]}
    types = {"head": _head({"InstanceType": _AMAZON_HEAD, **common})}
    for group in plan.groups:
        spot = {"InstanceMarketOptions": {"MarketType": "spot"}} if group.is_spot else {}
        types[group.name] = _node_type(group, {"InstanceType": group.offer.instance_type, **common, **spot})
    return _in_a_cloud(plan, provider, types, "boto3")


def _on_google(plan: Plan) -> dict[str, Any]:
    place = _one_region(plan, _GOOGLE_REGION)
    region = region_of(place)
    zone = place if place != region else f"{region}-a"
    provider = {"type": "gcp", "region": region, "availability_zone": zone, "project_id": "your-project"}
    types = {"head": _head({"machineType": _GOOGLE_HEAD, **_google_disk()})}
    for group in plan.groups:
        types[group.name] = _node_type(group, _google_config(group))
    return _in_a_cloud(plan, provider, types, "google-api-python-client")


def _google_config(group: NodeGroup) -> dict[str, Any]:
    """A machine with its cards, which do not outlive maintenance of their host and so cannot be moved."""
    scheduling: dict[str, Any] = {"onHostMaintenance": "TERMINATE"} if group.cards else {}
    if group.is_spot:
        scheduling |= {"provisioningModel": "SPOT", "instanceTerminationAction": "DELETE"}
    config = {"machineType": group.offer.instance_type, **_google_disk()}
    return config | ({"scheduling": [scheduling]} if scheduling else {})


def _google_disk() -> dict[str, Any]:
    parameters = {"diskSizeGb": _DISK_GB, "sourceImage": _GOOGLE_IMAGE}
    return {"disks": [{"boot": True, "autoDelete": True, "type": "PERSISTENT", "initializeParams": parameters}]}


def _in_a_cloud(plan: Plan, provider: Mapping[str, Any], types: Mapping[str, Any], client: str) -> dict[str, Any]:
    return {
        **_common(sum(group.most for group in plan.groups)),
        "provider": dict(provider),
        "head_node_type": "head",
        "available_node_types": dict(types),
        "head_setup_commands": [f"uv pip install --python ~/ramfleet/bin/python {client}"],
    }


def _common(most: int) -> dict[str, Any]:
    """What all clusters have. uv brings the same Python to all machines, whatever their image has."""
    return {
        "cluster_name": "ramfleet",
        "max_workers": most,
        "idle_timeout_minutes": 5,
        "auth": {"ssh_user": "ubuntu"},
        "setup_commands": [
            "test -x ~/.local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh",
            f"test -x ~/ramfleet/bin/python || ~/.local/bin/uv venv --python {_PYTHON} ~/ramfleet",
            # Of PyTorch, the build that the machine's driver can run.
            "~/.local/bin/uv pip install --torch-backend=auto --python ~/ramfleet/bin/python "
            f'"ramfleet[metrics]=={importlib.metadata.version("ramfleet")}"',
            "grep -q ramfleet/bin ~/.bashrc || echo 'export PATH=~/ramfleet/bin:~/.local/bin:$PATH' >> ~/.bashrc",
            "test -d ~/models/ram_plus || ~/ramfleet/bin/ramfleet model pull ram_plus --out ~/models/ram_plus",
        ],
    }


def _head(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"resources": {}, "node_config": dict(config), "max_workers": 0}


def _node_type(group: NodeGroup, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "resources": _resources(group),
        "labels": node_labels(group.offer),
        "node_config": dict(config),
        "min_workers": group.least,
        "max_workers": group.most,
    }


def _resources(group: NodeGroup) -> dict[str, float]:
    """Of AWS, Ray asks what an instance type has. Of Google's it knows nothing, and would take no node for a GPU."""
    if _cloud(group) == "aws":
        return {}
    return ({"CPU": group.offer.cpus} if group.offer.cpus else {}) | ({"GPU": group.cards} if group.cards else {})


def _cloud(group: NodeGroup) -> str:
    """Amazon's types are g5.xlarge, Google's g2-standard-8."""
    kind = group.offer.instance_type or ""
    if re.fullmatch(r"[a-z][a-z0-9-]*\.[a-z0-9-]+", kind):
        return "aws"
    if re.fullmatch(r"[a-z]\d[a-z]?(-[a-z0-9]+)+", kind):
        return "gcp"
    raise ConfigError(
        f"emit=ray-up: instance_type={kind!r} of {group.offer.label} is neither Amazon's (g5.xlarge) nor Google's "
        f"(g2-standard-8): use --emit kuberay"
    )


def _one_region(plan: Plan, default: str) -> str:
    """The zone or the region of all groups; the default where none says it."""
    places = sorted({group.offer.region for group in plan.groups if group.offer.region})
    if len({region_of(place) for place in places}) > 1:
        raise ConfigError(f"emit=ray-up: one cluster has one region, the chosen nodes are in {', '.join(places)}")
    zones = [place for place in places if place != region_of(place)]
    if len(zones) > 1:
        raise ConfigError(
            f"emit=ray-up: one cluster file has one zone for all nodes, the chosen are in {', '.join(zones)}: name "
            f"the region instead, or make a cluster for each"
        )
    return zones[0] if zones else places[0] if places else default
