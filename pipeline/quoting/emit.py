"""The chosen nodes as files: a fleet file, a cluster file for `ray up` on AWS, a RayCluster for KubeRay."""

import importlib.metadata
import re
from collections.abc import Sequence
from itertools import chain, count
from typing import Any

import yaml

from pipeline.errors import ConfigError
from pipeline.quoting.answer import Line, Quote, hours, money
from pipeline.quoting.fleet_file import FleetFile, NodeOffer, chosen_fleet, dump_fleet

INSTANCE_LABEL = "ramfleet/instance-type"
_IMAGE = "ramfleet:latest"
_HEAD_INSTANCE = "m6i.2xlarge"
_HEAD_CPUS, _HEAD_MEMORY = "4", "16Gi"
_CPUS, _MEMORY_PER_CARD_GIB = 4, 12
_REGION = "us-east-1"
_LONGEST_NAME = 55
_SPOT_TOLERATIONS = (
    {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
    {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
)
"""Of the taints that Google's and Microsoft's clusters give such nodes; Amazon's give none."""
_RAY_UP_NOTES = (
    "The head node is not part of the quote, nor is storage or traffic.",
    "setup_commands has to install RamFleet from where you have it.",
)
_GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def fleet_yaml(quote: Quote) -> str:
    """A fleet file of exactly the chosen nodes, under the same assumptions: quoting it predicts this very mix."""
    offers = tuple(line.rental.offer for line in quote.lines)
    whole = FleetFile(nodes=offers, assumptions=quote.market.assumptions)
    return _commented(quote, dump_fleet(chosen_fleet(whole, [(line.rental.name, line.nodes) for line in quote.lines])))


def ray_up_yaml(quote: Quote) -> str:
    """A cluster file for `ray up`, AWS: one node type for each kind, all of its nodes at once.

    Raises ConfigError for a kind without an instance type, and for several regions.
    """
    lines = _chosen(quote)
    without = [line.rental.name for line in lines if line.rental.offer.instance_type is None]
    if without:
        raise ConfigError(
            f"emit=ray-up: {', '.join(without)}: no instance_type, which `ray up` needs: add it to the fleet file, or "
            f"use --emit kuberay"
        )
    places = sorted({line.rental.offer.region for line in lines if line.rental.offer.region})
    if len({_region(place) for place in places}) > 1:
        raise ConfigError(f"emit=ray-up: one cluster has one region, the chosen nodes are in {', '.join(places)}")
    provider: dict[str, Any] = {"type": "aws", "region": _region(places[0]) if places else _REGION}
    zones = [place for place in places if place != _region(place)]
    if zones:
        provider["availability_zone"] = ",".join(zones)
    types = {"head": {"resources": {}, "node_config": {"InstanceType": _HEAD_INSTANCE}, "max_workers": 0}}
    types |= {name: _node_type(line) for name, line in zip(_names(lines), lines, strict=True)}
    tree = {
        "cluster_name": "ramfleet",
        "max_workers": quote.mix.nodes,
        "idle_timeout_minutes": 5,
        "provider": provider,
        "auth": {"ssh_user": "ubuntu"},
        "head_node_type": "head",
        "available_node_types": types,
        "setup_commands": [f'pip install "ramfleet=={importlib.metadata.version("ramfleet")}"'],
    }
    return _commented(quote, _dumped(tree), *_RAY_UP_NOTES)


def kuberay_yaml(quote: Quote) -> str:
    """A RayCluster with one worker group for each kind; KubeRay 1.5 or newer, which knows labels of groups."""
    lines = _chosen(quote)
    tree = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "ramfleet"},
        "spec": {
            "rayVersion": importlib.metadata.version("ray"),
            "headGroupSpec": {
                "rayStartParams": {"num-gpus": "0"},
                "template": {"spec": {"containers": [_container("ray-head", _HEAD_CPUS, _HEAD_MEMORY, 0)]}},
            },
            "workerGroupSpecs": [_group(name, line) for name, line in zip(_names(lines), lines, strict=True)],
        },
    }
    note = f"Put an image with RamFleet in the place of {_IMAGE}. The head is not part of the quote."
    return _commented(quote, _dumped(tree), note)


def _chosen(quote: Quote) -> list[Line]:
    return [line for line in quote.lines if line.nodes]


def _node_type(line: Line) -> dict[str, Any]:
    offer = line.rental.offer
    config: dict[str, Any] = {"InstanceType": offer.instance_type}
    if offer.market == "spot":
        config["InstanceMarketOptions"] = {"MarketType": "spot"}
    return {
        "resources": {},  # Ray asks AWS what the instance type has
        "labels": _labels(offer),
        "node_config": config,
        "min_workers": line.nodes,
        "max_workers": line.nodes,
    }


def _group(name: str, line: Line) -> dict[str, Any]:
    offer = line.rental.offer
    cards = 0 if offer.card == "cpu" else offer.gpus
    cpus = f"{offer.cpus:g}" if offer.cpus else str(_CPUS * max(1, cards))
    spec: dict[str, Any] = {
        "containers": [_container("ray-worker", cpus, f"{_MEMORY_PER_CARD_GIB * max(1, cards)}Gi", cards)],
        "nodeSelector": _selector(offer),
    }
    tolerations = [_GPU_TOLERATION] * bool(cards) + [*_SPOT_TOLERATIONS] * (offer.market == "spot")
    if tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in tolerations]
    return {
        "groupName": name,
        "replicas": line.nodes,
        "minReplicas": line.nodes,
        "maxReplicas": line.nodes,
        "labels": _labels(offer),
        "rayStartParams": {},
        "template": {"spec": spec},
    }


def _container(name: str, cpus: str, memory: str, cards: int) -> dict[str, Any]:
    amount = {"cpu": cpus, "memory": memory} | ({"nvidia.com/gpu": str(cards)} if cards else {})
    return {"name": name, "image": _IMAGE, "resources": {"requests": dict(amount), "limits": dict(amount)}}


def _selector(offer: NodeOffer) -> dict[str, str]:
    """By instance type, which every cloud labels, or by the name that NVIDIA's device plugin gives the card, if any."""
    if offer.instance_type is not None:
        return {"node.kubernetes.io/instance-type": offer.instance_type}
    if offer.card is None or offer.card == "cpu":
        return {}
    return {"nvidia.com/gpu.product": f"NVIDIA-{offer.card.removeprefix('NVIDIA ').replace(' ', '-')}"}


def _labels(offer: NodeOffer) -> dict[str, str]:
    """Ray's labels of the node, by which runs know what it costs."""
    labels = {"ray.io/market-type": offer.market.replace("_", "-")}
    return labels | ({INSTANCE_LABEL: offer.instance_type} if offer.instance_type else {})


def _region(place: str) -> str:
    """us-east-1 of zone us-east-1a."""
    return re.sub(r"(?<=\d)[a-z]$", "", place)


def _names(lines: Sequence[Line]) -> list[str]:
    """Names that Kubernetes and Ray take (RFC 1123), one for each kind, also where only other signs told them apart."""
    names: list[str] = []
    for line in lines:
        plain = re.sub(r"[^a-z0-9]+", "-", line.rental.name.lower())[:_LONGEST_NAME].strip("-") or "nodes"
        numbers = (f"{plain}-{number}" for number in count(2))
        names.append(next(name for name in chain([plain], numbers) if name not in {"head", *names}))
    return names


def _commented(quote: Quote, text: str, *notes: str) -> str:
    said = (
        f"RamFleet: {quote.mix.nodes} node(s) for {quote.job.images:,} images, about "
        f"{hours(quote.seconds.middle)} and {money(quote.dollars.middle, quote.market.currency)} by simulation"
    )
    return "".join(f"# {line}\n" for line in (said, *notes)) + text


def _dumped(tree: dict[str, Any]) -> str:
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes shared values out instead of referring to them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True
