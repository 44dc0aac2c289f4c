"""A run that is watched: by Prometheus through Ray's own endpoint, and by an OpenTelemetry collector."""

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from otlp_receiver import Receiver, receiving
from prometheus_client.parser import text_string_to_metric_families
from ray.cluster_utils import Cluster
from runs import Run, ended, finish, kill, wait_until

from pipeline.events.log import events_in_order
from pipeline.metrics.kinds import METRICS, RAY_PREFIX, RUN
from pipeline.metrics.tally import Tally
from pipeline.stores.local_store import LocalStore
from ramcore.bundle import demo_bundle

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore")]

PICTURES = demo_bundle().parent / "pictures"
ROWS = 300
_EXPORT_S = 60.0
"""Ray's processes tell their node's agent every ten seconds; a busy machine takes longer."""

_WITH_TIME = {"ramfleet_node_seconds_total", "ramfleet_cost_total"}
"""Counters that time alone moves."""

Series = dict[frozenset[tuple[str, str]], float]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """One node, which outlives the drivers."""
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 2, "object_store_memory": 150 << 20, "include_dashboard": False},
    )
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """The demo pictures again and again, each row an image of its own."""
    pictures = sorted(PICTURES.iterdir())
    lines = [f"i{row:04d},{pictures[row % len(pictures)]}" for row in range(ROWS)]
    (tmp_path / "rows.csv").write_text("\n".join(["image_id,uri", *lines]) + "\n")
    return tmp_path / "rows.csv"


def run_on(cluster: Cluster, input: Path, out: Path, *options: str) -> Run:
    """On nodes that cost 3.6 an hour: a thousandth each second."""
    prices = input.with_name("prices.yaml")
    prices.write_text("prices: [{card: cpu, per_hour: 3.6}]\n")
    always = ["plan.chunk_rows=16", f"fetch.allow_roots=['{PICTURES}']", "fleet.sample_every_s=1", f"prices={prices}"]
    return Run(input, out, demo_bundle(), [*always, *options], {"RAY_ADDRESS": cluster.address})


@dataclass
class Endpoint:
    """Ray's /metrics of a node. seen: what has been read of our metrics, one reading after the other."""

    address: str
    seen: list[dict[str, Series]] = field(default_factory=list)

    def read(self) -> dict[str, Series]:
        """Our series by name of the metric and labels, as Prometheus understands them; Ray's own labels left out."""
        with urllib.request.urlopen(self.address, timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, Series] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                name = sample.name.removeprefix(RAY_PREFIX)
                if name in METRICS:
                    ours = {label: sample.labels[label] for label in (*METRICS[name].labels, RUN)}
                    found.setdefault(name, {})[frozenset(ours.items())] = sample.value
        self.seen.append(found)
        return found


@pytest.fixture
def endpoint(cluster: Cluster) -> Endpoint:
    give_up = time.monotonic() + _EXPORT_S
    while time.monotonic() < give_up:
        (node,) = cluster.global_state.node_table()
        if node["MetricsExportPort"] > 0:
            return Endpoint(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics")
        time.sleep(0.5)
    raise AssertionError("Ray serves no metrics")


def labelled(out: Path, **labels: str) -> frozenset[tuple[str, str]]:
    return frozenset({**labels, RUN: str(out)}.items())


def assert_agrees(values: dict[str, Series], out: Path) -> None:
    """The last values are those of run.json."""
    document = json.loads((out / "run.json").read_text())
    counts = document["counts"]
    rejects = {dict(labels)["error_kind"]: number for labels, number in values["ramfleet_rejects_total"].items()}
    assert values["ramfleet_images_total"][labelled(out, result="tagged")] == counts["tagged"]
    assert values["ramfleet_images_total"][labelled(out, result="rejected")] == counts["rejected"]
    assert rejects == document["rejects_by_kind"]
    assert values["ramfleet_chunks_total"] == {labelled(out, outcome="committed"): -(-ROWS // 16)}
    assert values["ramfleet_images_planned"][labelled(out)] == ROWS
    assert values["ramfleet_images_left"][labelled(out)] == values["ramfleet_chunks_left"][labelled(out)] == 0
    assert sum(values["ramfleet_model_images_total"].values()) == counts["tagged"]
    (node_seconds,) = values["ramfleet_node_seconds_total"].values()
    assert node_seconds == pytest.approx(document["cost"]["node_seconds"], abs=5)
    (cost,) = values["ramfleet_cost_total"].values()
    assert cost == pytest.approx(document["cost"]["total"], abs=0.005)


def assert_made_of_events(values: dict[str, Series], out: Path) -> None:
    """Every counter is what the run's own log says, but for those that time alone moves."""
    tally = Tally()
    tally.take_all(events_in_order(LocalStore(out)))
    for name, series in tally.values().items():
        if METRICS[name].kind == "counter" and name not in _WITH_TIME:
            expected = {
                labelled(out, **dict(zip(METRICS[name].labels, labels, strict=True))): number
                for labels, number in series.items()
                if number
            }
            found = {labels: number for labels, number in values.get(name, {}).items() if number}
            assert found == pytest.approx(expected), name


def test_prometheus_reads_from_ray_what_the_run_does(
    cluster: Cluster, endpoint: Endpoint, manifest: Path, tmp_path: Path
) -> None:
    """During the run a replica and images that grow in number, after it the counts of run.json."""
    run = run_on(cluster, manifest, tmp_path / "run")
    with ended(run.start()) as process:
        while process.poll() is None:
            endpoint.read()
            time.sleep(0.5)
        assert endpoint.address in finish(process)
    give_up = time.monotonic() + _EXPORT_S
    while sum(endpoint.read().get("ramfleet_images_total", {}).values()) < ROWS and time.monotonic() < give_up:
        time.sleep(1)
    during = [seen for seen in endpoint.seen if "ramfleet_replicas" in seen]
    ready = labelled(run.out, card="cpu", node_type="cpu", state="ready")
    assert any(seen["ramfleet_replicas"].get(ready) == 1 for seen in during)
    images = [sum(seen.get("ramfleet_images_total", {}).values()) for seen in endpoint.seen]
    assert images == sorted(images)
    assert_agrees(endpoint.seen[-1], run.out)


def test_a_collector_gets_metrics_and_spans(cluster: Cluster, manifest: Path, tmp_path: Path) -> None:
    """The last values are those of run.json and of the events; below the command's span are those of its stages."""
    with receiving() as receiver:
        options = [f"telemetry.otlp_endpoint={receiver.endpoint}", "telemetry.export_every_s=0.5"]
        run = run_on(cluster, manifest, tmp_path / "run", *options)
        run.finish()
    assert_agrees(receiver.values, run.out)
    assert_made_of_events(receiver.values, run.out)
    assert receiver.requests > 1
    assert receiver.resources[-1]["service.name"] == "ramfleet"
    assert "ramfleet_cpu_utilization_ratio" in receiver.values
    assert_spans(receiver)


def test_counts_survive_the_death_of_the_fleet(cluster: Cluster, manifest: Path, tmp_path: Path) -> None:
    """Its next process counts what the log has of the one before, and no replica twice."""
    with receiving() as receiver:
        options = [f"telemetry.otlp_endpoint={receiver.endpoint}", "telemetry.export_every_s=0.5"]
        run = run_on(cluster, manifest, tmp_path / "run", *options)
        with ended(run.start()) as process:
            wait_until(process, lambda: run.committed() >= 2)
            (fleet,) = processes_of(cluster, "ray::Fleet")
            kill(fleet)
            finish(process)
    assert_made_of_events(receiver.values, run.out)
    assert len([event for event in events_in_order(LocalStore(run.out)) if event["event"] == "fleet_started"]) == 2
    assert sum(receiver.values["ramfleet_replicas"].values()) == 1
    assert sum(receiver.values["ramfleet_images_total"].values()) == ROWS


def processes_of(cluster: Cluster, title: str) -> list[psutil.Process]:
    """Processes of the cluster's workers whose title contains the text."""
    (raylet,) = cluster.head_node.all_processes["raylet"]
    below = psutil.Process(raylet.process.pid).children(recursive=True)
    return [process for process in below if title in " ".join(process.cmdline())]


def assert_spans(receiver: Receiver) -> None:
    (root,) = (span for span in receiver.spans if not span.parent_span_id)
    below = [span for span in receiver.spans if span is not root]
    assert root.name == "ramfleet tag"
    assert [span.name for span in sorted(below, key=lambda span: span.start_time_unix_nano)] == [
        "plan",
        "round",
        "finalize",
    ]
    assert {span.parent_span_id for span in below} == {root.span_id}


def test_a_collector_that_is_away_changes_nothing(cluster: Cluster, manifest: Path, tmp_path: Path) -> None:
    """The run says so once, without the password, and is complete."""
    options = ["telemetry.otlp_endpoint=http://me:secret@127.0.0.1:9", "telemetry.export_every_s=0.5"]
    run = run_on(cluster, manifest, tmp_path / "run", *options)
    output = run.finish()
    assert output.count("telemetry.otlp_endpoint=http://127.0.0.1:9: ") == 1
    assert "secret" not in output
    assert json.loads((run.out / "run.json").read_text())["status"] == "complete"
