"""A plan as files for KubeRay: a RayCluster, or a RayJob that makes its cluster, runs `ramfleet tag` and removes it."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.quoting.groups import NodeGroup, Plan, commented, node_labels, products_of, region_of
from pipeline.yaml_text import dump_yaml

DEFAULT_IMAGE = "ramfleet:latest"
BUNDLE = "/models/ram_plus"
"""Where pods find the released model."""
INPUT, RUN = "s3://bucket/photos.parquet", "s3://bucket/runs/one"
"""In the place of a job's own, which are not known here."""
STORE_SECRET = "ramfleet-store"
"""Secret with the keys of buckets and of Hugging Face, as environment variables; pods start without it too."""
_HEAD_CPUS, _HEAD_MEMORY_GIB = "4", 16
_CPUS, _MEMORY_PER_CARD_GIB = 4, 12
_MODEL_GIB = 8
_USER = 1000
_SPOT_GRACE_S, _GRACE_S = 25, 120
"""From the notice to the end of a pod: spot nodes have 25 s (Google) to 120 s (Amazon), others what we ask for."""
_DRAIN_MARGIN_S = 5
_GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
_SPOT_TOLERATIONS = (
    {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"},
    {"key": "kubernetes.azure.com/scalesetpriority", "operator": "Equal", "value": "spot", "effect": "NoSchedule"},
)
"""Of the taints that Google's and Microsoft's clusters give such nodes; Amazon's give none."""
_SPOT_NODES = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-provisioning": "spot",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
"""By which label each cloud marks its spot nodes."""
_NOTES = (
    "KubeRay 1.5.1 or newer. The head is not part of the prediction, nor is storage or traffic.",
    f"Keys of buckets: kubectl create secret generic {STORE_SECRET} --from-env-file=store.env",
)


@dataclass(frozen=True)
class PodChoices:
    """What pods are made of. weights_claim: PersistentVolumeClaim with the bundle `ram_plus`, to be read by all pods;
    without one an init container fetches it, once for each pod, of which a node has one."""

    image: str = DEFAULT_IMAGE
    weights_claim: str | None = None


def raycluster_yaml(plan: Plan, choices: PodChoices) -> str:
    """A RayCluster with one worker group for each kind."""
    tree = _object("ray.io/v1", "RayCluster", "ramfleet", _cluster(plan, choices))
    return commented(plan, dump_yaml(tree), *_NOTES)


def rayjob_yaml(plan: Plan, choices: PodChoices) -> str:
    """A RayJob. A job that fails is run again, and goes on."""
    spec = {
        "entrypoint": _entrypoint(plan),
        "backoffLimit": 3,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600,
        "submissionMode": "K8sJobMode",
        "rayClusterSpec": _cluster(plan, choices),
    }
    tree = _object("ray.io/v1", "RayJob", "ramfleet", spec)
    return commented(
        plan, dump_yaml(tree), *_NOTES, f"Write your input and run folder in the place of {INPUT} and {RUN}."
    )


def _object(version: str, kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def _entrypoint(plan: Plan) -> str:
    """Two shells read it, that of KubeRay's submitting pod, which has no variables of ours, and that of Ray's job."""
    words = f"ramfleet tag {INPUT} --out {RUN} --model {BUNDLE}"
    cards = ", ".join(f"{card}: {count}" for card, count in plan.request.items())
    return f"{words} --set 'fleet.request={{{cards}}}'" if plan.is_elastic and cards else words


def _cluster(plan: Plan, choices: PodChoices) -> dict[str, Any]:
    scaling = {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 300}}
    head = _container("ray-head", _HEAD_CPUS, _HEAD_MEMORY_GIB, 0, choices)
    return {
        "rayVersion": importlib.metadata.version("ray"),
        "authOptions": {"mode": "token"},
        **(scaling if plan.is_elastic else {}),
        "headGroupSpec": {
            "rayStartParams": {"num-gpus": "0"},
            # Not on a spot node: with the head goes the run.
            "template": {"spec": _pod(head, _HEAD_MEMORY_GIB, choices) | {"affinity": _affinity(spot=False)}},
        },
        "workerGroupSpecs": [_group(group, choices) for group in plan.groups],
    }


def _group(group: NodeGroup, choices: PodChoices) -> dict[str, Any]:
    cpus = f"{group.offer.cpus:g}" if group.offer.cpus else str(_CPUS * max(1, group.cards))
    memory_gib = _MEMORY_PER_CARD_GIB * max(1, group.cards)
    grace_s = _SPOT_GRACE_S if group.is_spot else _GRACE_S
    container = _container("ray-worker", cpus, memory_gib, group.cards, choices)
    drain = ["python", "-m", "pipeline.fleet.drain", "--seconds", str(grace_s - _DRAIN_MARGIN_S)]
    container["lifecycle"] = {"preStop": {"exec": {"command": drain}}}
    spec = _pod(container, memory_gib, choices)
    # The instance type, where there is one, tells the card too.
    products = [] if group.offer.instance_type else products_of(group.offer)
    spec |= {"terminationGracePeriodSeconds": grace_s, "affinity": _affinity(group.is_spot, products)}
    tolerations = [_GPU_TOLERATION] * bool(group.cards) + [*_SPOT_TOLERATIONS] * group.is_spot
    spec |= {"tolerations": tolerations} if tolerations else {}
    selector = _selector(group)
    spec |= {"nodeSelector": selector} if selector else {}
    return {
        "groupName": group.name,
        "replicas": group.least,
        "minReplicas": group.least,
        "maxReplicas": group.most,
        "labels": node_labels(group.offer),
        "rayStartParams": {},
        "template": {"spec": spec},
    }


def _pod(container: Mapping[str, Any], memory_gib: int, choices: PodChoices) -> dict[str, Any]:
    """A pod of one container. Ray keeps its objects in /dev/shm, of which a container has but 64 MB by itself."""
    claim = choices.weights_claim
    kept = {"persistentVolumeClaim": {"claimName": claim, "readOnly": True}} if claim else {"emptyDir": {}}
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [dict(container)],
        "volumes": [
            {"name": "models", **kept},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{memory_gib // 3}Gi"}},
        ],
    }
    return spec if claim else {"initContainers": [_fetching(choices.image)]} | spec


def _fetching(image: str) -> dict[str, Any]:
    amount = {"cpu": "1", "memory": f"{_MODEL_GIB}Gi"}
    return {
        "name": "fetch-model",
        "image": image,
        "command": ["ramfleet", "model", "pull", "ram_plus", "--out", BUNDLE],
        "envFrom": [_secret()],
        "resources": {"requests": dict(amount), "limits": dict(amount)},
        "securityContext": _confined(),
        "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    }


def _container(name: str, cpus: str, memory_gib: int, cards: int, choices: PodChoices) -> dict[str, Any]:
    amount = {"cpu": cpus, "memory": f"{memory_gib}Gi"} | ({"nvidia.com/gpu": str(cards)} if cards else {})
    return {
        "name": name,
        "image": choices.image,
        "envFrom": [_secret()],
        "resources": {"requests": dict(amount), "limits": dict(amount)},
        "securityContext": _confined(),
        "volumeMounts": [
            {"name": "models", "mountPath": "/models", **({"readOnly": True} if choices.weights_claim else {})},
            {"name": "shm", "mountPath": "/dev/shm"},
        ],
    }


def _secret() -> dict[str, Any]:
    return {"secretRef": {"name": STORE_SECRET, "optional": True}}


def _confined() -> dict[str, Any]:
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def _selector(group: NodeGroup) -> dict[str, str]:
    """By instance type and place, which every cloud labels."""
    offer = group.offer
    selector: dict[str, str] = {}
    if offer.instance_type is not None:
        selector["node.kubernetes.io/instance-type"] = offer.instance_type
    if offer.region is not None:
        level = "region" if region_of(offer.region) == offer.region else "zone"
        selector[f"topology.kubernetes.io/{level}"] = offer.region
    return selector


def _affinity(spot: bool, products: Sequence[str] = ()) -> dict[str, Any]:
    """Spot nodes for spot groups, whichever cloud it is, and none for the others: what a node costs is known by it.

    products: of these cards only, as NVIDIA's device plugin labels them.
    """
    card = [{"key": "nvidia.com/gpu.product", "operator": "In", "values": [*products]}] if products else []
    marks = [{"key": key, "values": [value]} for key, value in _SPOT_NODES.items()]
    one_of = [{"matchExpressions": [{**mark, "operator": "In"}, *card]} for mark in marks]
    none_of = [{"matchExpressions": [*({**mark, "operator": "NotIn"} for mark in marks), *card]}]
    terms = {"nodeSelectorTerms": one_of if spot else none_of}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
