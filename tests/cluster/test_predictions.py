"""Quote, run, report: what a quote says of the nodes of a cluster is what the run on it takes and costs."""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from clusters import MixedCluster, events_of, mixed_cluster
from losses import ROUNDS
from runs import assert_adds_up, ended, finish, wait_until

from pipeline.costs.run_costs import read_ledger
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.cluster

PRICES = {"T4": "0.35", "A10G": "1.01", "A100": "1.29"}
CHUNK_ROWS = 8
IMAGES_PER_S = 56.0
"""Of all cards together: this machine's own two cores stay mostly idle."""
WORK_S = 50.0
SCENARIOS = range(5) if ROUNDS > 1 else (0, 3)
PREEMPTED = (1, 3, 4)
"""Scenarios in which the nodes of one card come and go."""
SPOT = "T4"
"""That card: a cheap one with a smaller part of the speed, so that it matters little how often chance strikes."""
LIFETIME_S = 30.0
"""Mean, of such a node."""


@dataclass(frozen=True)
class Learned:
    """From first runs on the cluster. startup_s: until another node is there for one that went; load_s: of one replica
    that starts alone; run_s: of a run beside these two and tagging: Ray's processes, the plan, the tables, and what
    processes take longer that start all at once."""

    startup_s: float
    load_s: float
    run_s: float


@dataclass(frozen=True)
class Scenario:
    """speeds: images/s by card; spot: the card whose nodes are preempted, if any; kills: seconds after its start at
    which the present node goes, each of its successors too."""

    seed: int
    speeds: dict[str, float]
    spot: str | None
    kills: tuple[float, ...]

    @classmethod
    def of(cls, seed: int) -> "Scenario":
        draw = random.Random(seed)
        parts = {card: draw.uniform(1, 2) if card == SPOT else draw.uniform(2, 6) for card in PRICES}
        speeds = {card: IMAGES_PER_S * part / sum(parts.values()) for card, part in parts.items()}
        spot = SPOT if seed in PREEMPTED else None
        kills = tuple(draw.expovariate(1 / LIFETIME_S) for _ in range(20))
        return cls(seed, speeds, spot, kills)

    @property
    def images(self) -> int:
        return round(IMAGES_PER_S * WORK_S)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MixedCluster]:
    with mixed_cluster(tmp_path_factory.mktemp("cluster"), list(PRICES), head_cpus=1) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("prices") / "prices.yaml"
    file.write_text("".join(f"{card}: {price} $/h\n" for card, price in PRICES.items()) + "cpu: 0 $/h\n")
    return file


@pytest.fixture(scope="module")
def learned(
    standing: MixedCluster, prices: Path, manifest: Callable[[int], Path], tiny_bundle: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Learned:  # fmt: skip
    """From two runs: in one a node is replaced; the other begins on a machine that has read all it needs before."""
    folder = tmp_path_factory.mktemp("first")
    speeds = dict.fromkeys(PRICES, IMAGES_PER_S / len(PRICES))
    for name, scenario in (
        ("cold", Scenario(0, speeds, SPOT, (2.0, 1000.0))),
        ("warm", Scenario(0, speeds, None, ())),
    ):
        run_scenario(standing, scenario, manifest(448), folder / name, tiny_bundle, prices, [])
    load_s = events_of(folder / "cold", "replica_ready")[-1]["load_s"]
    (gone,) = events_of(folder / "cold", "node_gone")
    startup_s = events_of(folder / "cold", "node_joined")[-1]["at"] - gone["at"]
    leases, commits = events_of(folder / "warm", "lease"), events_of(folder / "warm", "commit")
    elapsed = float(read_ledger(open_store(folder / "warm")).run.elapsed_s)
    beside = elapsed - (commits[-1]["at"] - leases[0]["at"])
    # A quote's nodes all start up; those that the run finds here did so before. What they did not take is not added.
    startup_s = min(startup_s, beside - load_s)
    return Learned(startup_s, load_s, beside - load_s - startup_s)


def run_scenario(
    cluster: MixedCluster, scenario: Scenario, rows: Path, out: Path, bundle: Path, prices: Path, more: list[str]
) -> None:
    """Tag; the nodes of the spot card go when their time has come, and another one is started for each."""
    cluster.order(images_per_s=scenario.speeds, together=len(PRICES))
    options = [f"plan.chunk_rows={CHUNK_ROWS}", f"model.microbatch={CHUNK_ROWS}", f"prices={prices}"]
    run = cluster.run("Pretended", rows, out, bundle, options)
    run.more = more
    with ended(run.start()) as process:
        wait_until(process, lambda: run.committed() >= 1)
        for after in scenario.kills if scenario.spot else ():
            give_up = time.monotonic() + after
            while process.poll() is None and time.monotonic() < give_up:
                time.sleep(0.05)
            if process.poll() is not None:
                break
            cluster.kill(cluster.alive(scenario.spot)[0])
            cluster.add(scenario.spot or "")
        finish(process)


def quote(scenario: Scenario, learned: Learned, prices: Path, bundle: Path, folder: Path) -> Path:
    """The JSON of `ramfleet quote` for the very nodes of the cluster."""
    spot = {"preemptions_per_hour": 3600 / LIFETIME_S}
    nodes = [
        {"name": f"{card.lower()}-nodes", "card": card, "vram_gib": 16, "least_nodes": 1, "most_nodes": 1, "cpus": 1,
         "startup_minutes": learned.startup_s / 60, "images_per_s": speed, **(spot if card == scenario.spot else {})}
        for card, speed in scenario.speeds.items()
    ]  # fmt: skip
    assumptions = {"load_seconds": learned.load_s, "run_seconds": learned.run_s, "image_kb": 5}
    assumptions |= {"node_spread": 0, "startup_spread": 0, "straggler_share": 0}
    fleet = folder / "fleet.yaml"
    fleet.write_text(json.dumps({"nodes": nodes, "assumptions": assumptions}))
    command = [sys.executable, "-m", "jobs.main", "quote", "--images", str(scenario.images), "--fleet", str(fleet)]
    command += ["--prices", str(prices), "--model", str(bundle), "--seed", str(scenario.seed), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    file = folder / "quote.json"
    file.write_text(done.stdout)
    return file


@pytest.mark.parametrize("seed", SCENARIOS)
def test_time_and_cost_are_as_quoted(
    standing: MixedCluster, learned: Learned, prices: Path, manifest: Callable[[int], Path], tiny_bundle: Path,
    tmp_path: Path, seed: int,
) -> None:  # fmt: skip
    """Within 10 %, also where nodes are preempted at times that nobody knows before; each card's rate within 3 %."""
    scenario = Scenario.of(seed)
    quoted = quote(scenario, learned, prices, tiny_bundle, tmp_path)
    out = tmp_path / "run"
    run_scenario(standing, scenario, manifest(scenario.images), out, tiny_bundle, prices, ["--quote", str(quoted)])
    assert_adds_up(out, scenario.images)
    found = predicted(out)
    figures = {name: round(figure["off"], 3) for name, figure in found["figures"].items()}
    assert figures["time"] == pytest.approx(0, abs=0.1), found
    assert figures["cost"] == pytest.approx(0, abs=0.1), found
    for kind in found["kinds"]:
        assert kind["rate"] == pytest.approx(kind["quoted_rate"], rel=0.03)
    assert (found["preemptions"]["actual"] > 0) == any(
        event["cause"] == "died" for event in events_of(out, "node_gone")
    )


def predicted(out: Path) -> dict[str, Any]:
    """The section of the report as JSON has it; it is on the page too."""
    assert "Quote and run by kind of node" in (out / "report.html").read_text()
    command = [sys.executable, "-m", "jobs.main", "report", str(out), "--json"]
    report = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    found: dict[str, Any] = report["predicted"]
    return found
