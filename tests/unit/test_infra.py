"""The files for clusters: what is committed is what is generated, valid, and speaks the words that runs read."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray._private.label_utils import parse_node_labels_string, validate_node_label_syntax
from typer.testing import CliRunner

from pipeline.cards.labels import ACCELERATOR_LABEL, INSTANCE_LABEL, MARKET_LABEL, READ_LABELS, ZONE_LABEL
from pipeline.cards.node_place import node_place
from pipeline.cards.profiles import load_profiles
from pipeline.cards.slot_policy import card_of
from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.fleet import drain
from pipeline.quoting.fleet_file import FleetFile, load_fleet, parse_fleet
from pipeline.quoting.groups import Plan, node_labels, plan_of_fleet, products_of, ray_card
from pipeline.quoting.kuberay import PodChoices, raycluster_yaml, rayjob_yaml
from pipeline.quoting.ray_up import ray_up_local_yaml, ray_up_yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
KUBERNETES = "1.31"
FILES: dict[str, tuple[str, Callable[[Plan], str]]] = {
    "kuberay/raycluster.yaml": ("kubernetes", lambda plan: raycluster_yaml(plan, PodChoices())),
    "kuberay/rayjob.yaml": ("kubernetes", lambda plan: rayjob_yaml(plan, PodChoices())),
    "ray-up/aws.yaml": ("aws", ray_up_yaml),
    "ray-up/gcp.yaml": ("gcp", ray_up_yaml),
    "ray-up/local.yaml": ("local", ray_up_local_yaml),
}
FLEETS = sorted((INFRA / "fleets").glob("*.yaml"))


def fleet(*nodes: str) -> Plan:
    return plan_of_fleet(parse_fleet(f"nodes: [{', '.join('{' + node + '}' for node in nodes)}]", "fleet"))


def clusters() -> Iterator[dict[str, Any]]:
    """The specification of each cluster of Kubernetes."""
    for name in ("raycluster", "rayjob"):
        tree = yaml.safe_load((INFRA / f"kuberay/{name}.yaml").read_text())
        yield tree["spec"].get("rayClusterSpec", tree["spec"])


def committed_groups() -> list[dict[str, Any]]:
    return [group for cluster in clusters() for group in cluster["workerGroupSpecs"]]


@pytest.mark.parametrize("name", FILES)
def test_what_is_committed_is_what_is_generated(name: str) -> None:
    """`make infra` writes them again."""
    source, emit = FILES[name]
    assert (INFRA / name).read_text() == emit(plan_of_fleet(load_fleet(INFRA / f"fleets/{source}.yaml")))


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("ray-up")])
def test_cluster_files_are_those_that_ray_up_takes(name: str) -> None:
    """By the schema of the installed Ray."""
    schema = json.loads(Path(os.path.dirname(ray.__file__), "autoscaler", "ray-schema.json").read_text())
    faults = jsonschema.validators.validator_for(schema)(schema).iter_errors(yaml.safe_load((INFRA / name).read_text()))
    assert [fault.message for fault in faults] == []


def kuberay_faults(manifest: Any) -> list[str]:
    schema = yaml.safe_load((ROOT / "tests/kuberay.schema.yaml").read_text())
    return [fault.message for fault in jsonschema.Draft202012Validator(schema).iter_errors(manifest)]


@pytest.mark.parametrize("path", sorted((INFRA / "kuberay").glob("*.yaml")), ids=lambda path: path.stem)
def test_clusters_and_jobs_have_the_fields_of_kuberay(path: Path) -> None:
    """And no other, of its types."""
    assert kuberay_faults(yaml.safe_load(path.read_text())) == []


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("spec", "headGroupSpec", "label"), {}, "'label' was unexpected"),
        (("spec", "workerGroupSpecs", 0, "maxReplicas"), "20", "'20' is not of type 'integer'"),
        (("spec", "workerGroupSpecs", 0, "labels", "ramfleet/vram-gib"), 16, "16 is not of type 'string'"),
        (("spec", "autoscalerOptions", "version"), 2, "2 is not one of ['v1', 'v2']"),
        (("kind",), "RayJob", "'entrypoint' is a required property"),
    ],
)
def test_other_fields_and_types_are_noticed(keys: tuple[Any, ...], value: Any, said: str) -> None:
    """Unknown fields, numbers for texts, another kind."""
    manifest = yaml.safe_load((INFRA / "kuberay/raycluster.yaml").read_text())
    place = manifest
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    assert said in " ".join(kuberay_faults(manifest))


@pytest.mark.parametrize("claim", [None, "models"])
def test_pods_are_those_that_kubernetes_takes(claim: str | None) -> None:
    """Each template as a pod, by the strict schema of Kubernetes."""
    plan = plan_of_fleet(load_fleet(INFRA / "fleets/kubernetes.yaml"))
    cluster = yaml.safe_load(rayjob_yaml(plan, PodChoices(weights_claim=claim)))["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        assert ("initContainers" in pod["spec"]) == (claim is None)


@pytest.mark.parametrize("path", FLEETS, ids=lambda path: path.stem)
def test_labels_are_those_that_runs_read(path: Path) -> None:
    """In words that Ray takes; read back, a node is what the fleet file says."""
    found: FleetFile = load_fleet(path)
    for offer in found.nodes:
        labels = node_labels(offer)
        assert labels.keys() <= READ_LABELS
        validate_node_label_syntax(labels)
        place = node_place({"Labels": labels})
        assert place.instance_type == offer.instance_type
        assert place.market == offer.market.replace("_", "-")
        assert offer.region in (place.zone, place.region)
        assert card_of({"Labels": labels, "Resources": {}}) == (ray_card(offer) or "cpu")


def test_labels_in_the_files_are_those_that_runs_read() -> None:
    """In groups of Kubernetes, node types of `ray up`, and the start of machines of one's own."""
    written = [group["labels"] for group in committed_groups()]
    for name in ("aws", "gcp"):
        types = yaml.safe_load((INFRA / f"ray-up/{name}.yaml").read_text())["available_node_types"]
        written += [kind["labels"] for title, kind in types.items() if title != "head"]
    start = yaml.safe_load((INFRA / "ray-up/local.yaml").read_text())["worker_start_ray_commands"][-1]
    written += [parse_node_labels_string(text) for text in re.findall(r"labels=([^;]+);;", start) if text]
    assert len(written) > 15
    for labels in written:
        assert labels
        assert labels.keys() <= READ_LABELS


@pytest.mark.lengthy
def test_no_other_code_spells_the_labels() -> None:
    """They have one home; strings elsewhere are documentation."""
    ours = READ_LABELS - {ACCELERATOR_LABEL}
    for path in (ROOT / "pipeline").rglob("*.py"):
        if path.name == "labels.py":
            continue
        spelled = {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        assert not spelled & {*ours, ACCELERATOR_LABEL} or path.name == "kuberay.py", path
        if path.name == "kuberay.py":
            assert spelled & ours <= {"node.kubernetes.io/instance-type"}


def test_cards_are_called_as_ray_finds_them() -> None:
    """A label that differs from what Ray finds would hide the card from those who ask for it."""
    known = {profile.card for profile in load_profiles().cards}
    for group in committed_groups():
        card = group["labels"].get(ACCELERATOR_LABEL)
        cards = group["template"]["spec"]["containers"][0]["resources"]["limits"].get("nvidia.com/gpu")
        assert (card is None) == (cards is None)
        assert card is None or card in known


@pytest.mark.parametrize("market", ["spot", "on-demand"])
def test_groups_run_on_nodes_of_their_market_only(market: str) -> None:
    """Otherwise a node costs something else than its label says. Only spot groups tolerate the taints of spot nodes."""
    groups = [group for group in committed_groups() if group["labels"][MARKET_LABEL] == market]
    assert groups
    for group in groups:
        spec = group["template"]["spec"]
        required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        rules = [rule for term in required["nodeSelectorTerms"] for rule in term["matchExpressions"]]
        operators = {rule["operator"] for rule in rules if rule["key"] != "nvidia.com/gpu.product"}
        assert operators == ({"In"} if market == "spot" else {"NotIn"})
        keys = {toleration["key"] for toleration in spec.get("tolerations", ())}
        assert ("cloud.google.com/gke-spot" in keys) == (market == "spot")


def test_the_head_is_on_no_spot_node() -> None:
    """With it goes the whole run."""
    for cluster in clusters():
        affinity = cluster["headGroupSpec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert {rule["operator"] for rule in term["matchExpressions"]} == {"NotIn"}


def test_a_card_is_told_by_the_names_that_its_driver_has() -> None:
    """Without an instance type, a pod asks for the product label, which is not Ray's name of the card."""
    (group,) = fleet("card: A100, vram_gib: 40, most_nodes: 1").groups
    assert {"NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"} <= set(products_of(group.offer))
    assert "NVIDIA-A100-SXM4-80GB" not in products_of(group.offer)
    assert "Tesla-T4" in products_of(fleet("card: T4, most_nodes: 1").groups[0].offer)


def test_pods_drain_before_they_end() -> None:
    """Within the time that they have; the command is one that there is."""
    for group in committed_groups():
        spec = group["template"]["spec"]
        command = spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
        assert command[:3] == ["python", "-m", drain.__name__]
        assert 0 < float(command[command.index("--seconds") + 1]) < spec["terminationGracePeriodSeconds"]


def test_pods_hold_no_secret_and_are_nobody() -> None:
    """Secrets are named only; the user is the one that the image has."""
    user = re.search(r"^USER (\d+)", (INFRA / "docker/Dockerfile").read_text(), re.MULTILINE)
    for group in committed_groups():
        spec = group["template"]["spec"]
        assert user is not None
        assert spec["securityContext"]["runAsUser"] == int(user[1])
        assert spec["securityContext"]["runAsNonRoot"]
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert "env" not in container
            assert container["envFrom"][0]["secretRef"]["optional"]


def entrypoint() -> str:
    text: str = yaml.safe_load((INFRA / "kuberay/rayjob.yaml").read_text())["spec"]["entrypoint"]
    return text


def test_the_job_asks_for_the_cards_of_its_groups() -> None:
    """With a value that the configuration takes."""
    words = shlex.split(entrypoint())
    asked = load_config(None, [words[words.index("--set") + 1]]).fleet.request
    assert asked == {"T4": 20, "A10G": 24, "L4": 32, "GeForce-RTX-3090": 6}


def test_the_command_of_the_job_comes_through_both_shells() -> None:
    """That of the submitting pod, which has `ray job submit` in it and no variables, and that of the job."""
    submit = "import subprocess, sys; print(subprocess.list2cmdline(sys.argv[1:]))"  # as `ray job submit` does
    first = [sys.executable, "-c", submit]
    line = subprocess.run(
        ["bash", "-ceu", f"{shlex.join(first)} {entrypoint()}"], env={}, capture_output=True, text=True, check=True
    ).stdout
    second = f"""ramfleet() {{ printf '%s\\0' ramfleet "$@"; }}; {line}"""
    said = subprocess.run(["bash", "-ceu", second], env={}, capture_output=True, text=True, check=True).stdout
    assert said.rstrip("\0").split("\0") == shlex.split(entrypoint())


def test_clusters_keep_the_rules_of_the_operator() -> None:
    """Which KubeRay has beside its schema: labels of Kubernetes and none among the parameters of `ray start`; pods
    that autoscaler 2 may end; a version of Ray that knows tokens."""
    for cluster in clusters():
        assert cluster["authOptions"] == {"mode": "token"}
        assert tuple(map(int, cluster["rayVersion"].split("."))) >= (2, 52)
        groups = cluster["workerGroupSpecs"]
        assert len({group["groupName"] for group in groups}) == len(groups)
        for group in (cluster["headGroupSpec"], *groups):
            assert "labels" not in group["rayStartParams"]
            assert group["template"]["spec"]["restartPolicy"] == "Never"
        for group in groups:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            for key, value in group["labels"].items():
                assert re.fullmatch(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", key)
                assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", value)


def test_a_fixed_fleet_has_no_autoscaler() -> None:
    """There is nothing for it to decide."""
    fixed = yaml.safe_load(raycluster_yaml(fleet("card: T4, most_nodes: 2, least_nodes: 2"), PodChoices()))
    assert "enableInTreeAutoscaling" not in fixed["spec"]
    elastic = yaml.safe_load(raycluster_yaml(fleet("card: T4, most_nodes: 2"), PodChoices()))
    assert elastic["spec"]["enableInTreeAutoscaling"]
    assert elastic["spec"]["autoscalerOptions"]["version"] == "v2"


def test_zones_are_told_from_regions() -> None:
    """Of both clouds."""
    nodes = "card: L4, most_nodes: 1, region: "
    for zone in ("us-east-1a", "us-central1-a"):
        assert node_labels(fleet(nodes + zone).groups[0].offer)[ZONE_LABEL] == zone
    for region in ("us-east-1", "us-central1"):
        assert ZONE_LABEL not in node_labels(fleet(nodes + region).groups[0].offer)


@pytest.mark.parametrize(
    ("nodes", "said"),
    [
        (["card: T4, most_nodes: 1"], "no instance_type"),
        (["instance_type: Standard_NC4as_T4_v3, card: T4, most_nodes: 1"], "neither Amazon's"),
        (
            [
                "instance_type: g5.xlarge, card: A10G, most_nodes: 1",
                "instance_type: g2-standard-8, card: L4, most_nodes: 1",
            ],
            "one cloud, the nodes are of aws, gcp",
        ),
        (
            [
                "name: a, instance_type: g5.xlarge, card: A10G, most_nodes: 1, region: us-east-1",
                "name: b, instance_type: g5.xlarge, card: A10G, most_nodes: 1, region: us-west-2",
            ],
            "one cluster has one region",
        ),
        (
            [
                "name: a, instance_type: g2-standard-8, card: L4, most_nodes: 1, region: us-central1-a",
                "name: b, instance_type: g2-standard-8, card: L4, most_nodes: 1, region: us-central1-b",
            ],
            "one zone for all nodes",
        ),
        (
            ["instance_type: g5.xlarge, card: A10G, most_nodes: 1, region: 'home; lab'"],
            "'home; lab' cannot be the label",
        ),
    ],
)
def test_ray_up_refuses_what_it_cannot_rent(nodes: list[str], said: str) -> None:
    """In one line that names it."""
    with pytest.raises(ConfigError, match=said):
        ray_up_yaml(fleet(*nodes))


def test_machines_of_ones_own_get_their_labels_by_name() -> None:
    """The line that starts Ray is run by a shell, with a `ray` and a `hostname` that say what they were given."""
    own = "most_nodes: 2, card"
    plan = fleet(f"name: a100, {own}: A100", f"name: a100-40, {own}: T4", f"name: rtx2080, {own}: GeForce-RTX-2080")
    start = yaml.safe_load(ray_up_local_yaml(plan))["worker_start_ray_commands"][-1]
    for host, card in (("a100-2", "A100"), ("a100-40-1", "T4"), ("rtx2080-1", "GeForce-RTX-2080"), ("other", None)):
        script = f'ray() {{ echo "$@"; }}; hostname() {{ echo {host}; }}; {start}'
        said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
        given = parse_node_labels_string(said.strip().rpartition("--labels=")[2])
        assert given.get(ACCELERATOR_LABEL) == card


def test_a_fleet_file_alone_gives_a_cluster_file(tmp_path: Path) -> None:
    """Nothing is quoted: the command needs no images."""
    from jobs.main import app

    target = tmp_path / "cluster.yaml"
    arguments = ["quote", "--fleet", str(INFRA / "fleets/aws.yaml"), "--emit", "kuberay", "--image", "mine:1"]
    result = CliRunner().invoke(app, [*arguments, "--weights-claim", "models", "--to", str(target)])
    assert result.exit_code == 0, result.output
    group = yaml.safe_load(target.read_text())["spec"]["workerGroupSpecs"][0]
    assert group["template"]["spec"]["containers"][0]["image"] == "mine:1"
    assert group["labels"][INSTANCE_LABEL] == "g4dn.2xlarge"
    refused = CliRunner().invoke(app, [*arguments[:3], "--emit", "ray-up", "--image", "mine:1"])
    assert refused.exit_code == 2
    assert "add --emit kuberay" in re.sub(r"[\s│]+", " ", refused.output)
