"""What a run on four kinds of cards cost: the ledger finds the speeds that they were set to, and what was injected."""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from clusters import MixedCluster, Node, events_of, mixed_cluster, telemetry
from pretend import work_of
from runs import assert_adds_up, ended, finish, kill, wait_until

from pipeline.costs.ledger import SPLITS, Ledger, LedgerRow
from pipeline.costs.run_costs import cost_summary, read_ledger
from pipeline.stores.opening import open_store

pytestmark = pytest.mark.cluster

SPEEDS = {"T4": 4.0, "L4": 8.0, "A10G": 16.0, "A100": 32.0}
"""Images/s. A chunk takes 4 s on the slowest, and half a second on the fastest."""
CHUNK_ROWS, CHUNKS = 16, 90
PRICES = {"T4": "0.35", "L4": "0.71", "A10G": "1.01", "A100": "1.29"}
PAUSE_S = 5.0
"""So long nothing is decoded and handed over. Processes that are silent for ten seconds are taken to be dead."""
IN_HAND_S = {"T4": 2.0, "L4": 1.0}
"""How long the T4's replica, and the L4's node, have worked on a chunk when they are killed."""
SLACK_S = 0.6
"""How late a death may be noticed, on a machine that has fewer CPUs than processes."""


@dataclass(frozen=True)
class Account:
    """A finished run. worked: what each card wrote down itself; killed_at: by card; all in seconds since 1970."""

    out: Path
    ledger: Ledger
    worked: dict[str, list[dict[str, Any]]]
    killed_at: dict[str, float]

    def of(self, card: str) -> LedgerRow:
        """The row of the only node with this card."""
        (row,) = [row for row in self.ledger.rows_by_node if row.card == card]
        return row

    def in_hand_s(self, card: str) -> float:
        """How long the card had worked on its last lease when it was killed."""
        begun = max(line["at"] for line in self.worked[card] if line["at"] < self.killed_at[card])
        return self.killed_at[card] - begun


@pytest.fixture(scope="module")
def account(
    manifest: Callable[[int], Path], tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Account]:
    """One run: a process is killed in mid-work, a node too, and for a while no card gets anything to do."""
    folder = tmp_path_factory.mktemp("costs")
    prices = folder / "prices.yaml"
    prices.write_text("".join(f"{card}: {price} $/h\n" for card, price in PRICES.items()))
    options = [f"plan.chunk_rows={CHUNK_ROWS}", f"model.microbatch={CHUNK_ROWS}", f"prices={prices}"]
    options.append("fleet.sample_every_s=1")
    with mixed_cluster(folder, list(SPEEDS), head_cpus=1) as cluster:
        cluster.order(images_per_s=SPEEDS, together=len(SPEEDS))
        run = cluster.run("Pretended", manifest(CHUNKS * CHUNK_ROWS), folder / "run", tiny_bundle, options)
        killed_at: dict[str, float] = {}
        with ended(run.start()) as process:
            wait_until(process, lambda: worked(cluster)["T4"])
            pause(cluster)
            for card, strike in (("T4", kill_replica), ("L4", MixedCluster.kill)):
                wait_for_work(process, cluster, card)
                killed_at[card] = time.time()
                strike(cluster, cluster.alive(card)[0])
            finish(process)
        assert_adds_up(run.out, CHUNKS * CHUNK_ROWS)
        yield Account(run.out, read_ledger(open_store(run.out)), worked(cluster), killed_at)


def worked(cluster: MixedCluster) -> dict[str, list[dict[str, Any]]]:
    """What the cards wrote down of their work, by card."""
    lines = [line for line in work_of(cluster.orders_file) if line["what"] == "run"]
    return {card: [line for line in lines if line["card"] == card] for card in SPEEDS}


def wait_for_work(process: subprocess.Popen[str], cluster: MixedCluster, card: str) -> None:
    """Until the card has worked on a chunk for as long as IN_HAND_S says."""
    done = len(worked(cluster)[card])
    wait_until(process, lambda: len(worked(cluster)[card]) > done)
    time.sleep(IN_HAND_S[card])


def kill_replica(cluster: MixedCluster, node: Node) -> None:
    """The process alone; its node lives."""
    for process in cluster.processes(node, "ReplicaActor"):
        kill(process)


def pause(cluster: MixedCluster) -> None:
    """Nothing is decoded or handed over for a while."""
    workers = [process for node in cluster.nodes for process in cluster.processes(node, "ChunkWorker")]
    for process in workers:
        process.suspend()
    time.sleep(PAUSE_S)
    for process in workers:
        process.resume()


@pytest.mark.parametrize("card", SPEEDS)
def test_images_per_second_are_those_that_the_card_was_set_to(account: Account, card: str) -> None:
    """Within 3 %, for the node and for its kind."""
    assert account.of(card).images_per_s == pytest.approx(SPEEDS[card], rel=0.03)
    (of_type,) = [row for row in account.ledger.rows_by_type if row.card == card]
    assert of_type.images_per_s == pytest.approx(SPEEDS[card], rel=0.03)


def test_the_work_of_a_process_that_died_is_wasted(account: Account) -> None:
    """On the T4 and nowhere else: from the begin of its lease until it was killed."""
    seconds = account.of("T4").seconds
    assert float(seconds["wasted"]) == pytest.approx(account.in_hand_s("T4"), abs=SLACK_S)
    assert seconds["preempted"] == 0
    assert {row.card for row in account.ledger.rows_by_node if row.seconds["wasted"]} == {"T4"}


def test_the_work_of_a_node_that_died_is_preempted(account: Account) -> None:
    """On the L4 and nowhere else; its time ends there, with the cause."""
    seconds = account.of("L4").seconds
    assert float(seconds["preempted"]) == pytest.approx(account.in_hand_s("L4"), abs=SLACK_S)
    assert {row.card for row in account.ledger.rows_by_node if row.seconds["preempted"]} == {"L4"}
    assert [event["cause"] for event in events_of(account.out, "node_gone")] == ["died"]


def test_idle_is_what_the_cards_did_not_work(account: Account) -> None:
    """As they wrote it down themselves, within 3 % of their time; the pause is in it."""
    for card in ("A10G", "A100"):
        row = account.of(card)
        busy = sum(line["at"] - line["begun"] for line in account.worked[card])
        idle = float(row.node_seconds - row.seconds["load"]) - busy
        assert float(row.seconds["idle"]) == pytest.approx(idle, abs=0.03 * float(row.node_seconds))
        # What was under way when the pause began is finished first: a lease that runs, and the next.
        assert float(row.seconds["idle"]) >= PAUSE_S - 2 * CHUNK_ROWS / SPEEDS[card] - SLACK_S


def test_load_lasts_until_a_replica_is_ready(account: Account) -> None:
    """The T4 loads twice, all others once."""
    starts = {row.card: 0.0 for row in account.ledger.rows_by_node}
    for event in events_of(account.out, "replica_ready"):
        starts[event["card"]] += event["load_s"]
    for card in SPEEDS:
        assert float(account.of(card).seconds["load"]) == pytest.approx(starts[card], abs=0.1)
    assert len([event for event in events_of(account.out, "replica_ready") if event["card"] == "T4"]) == 2


def test_the_account_balances(account: Account) -> None:
    """Exactly, at the prices that were given; the head has none, which is said; run.json has the same figures."""
    for row in account.ledger.rows_by_node:
        assert sum(row.seconds.values()) == row.node_seconds
        if row.card in PRICES:
            assert row.total_cost == row.node_seconds * Fraction(PRICES[row.card]) / 3600
    run = account.ledger.run
    assert run.images == CHUNKS * CHUNK_ROWS
    assert run.dollars is not None
    assert sum(run.dollars[split] for split in SPLITS) == run.total_dollars
    assert len(account.ledger.unpriced) == 1
    assert account.ledger.unpriced[0].startswith("1 × cpu: no price")
    assert json.loads((account.out / "run.json").read_text())["cost"] == cost_summary(account.ledger)


def test_events_and_telemetry_tell_the_rest(account: Account) -> None:
    """When each replica tagged first, on which card of its node, and how hard the machines worked."""
    ready = {event["replica"]: event for event in events_of(account.out, "replica_ready")}
    first = {event["replica"]: event["after_s"] for event in events_of(account.out, "first_tag")}
    assert first
    assert all(first[replica] >= ready[replica]["load_s"] for replica in first)
    assert all(event["gpus"] == ["0"] for event in ready.values())
    assert {event["node"] for event in events_of(account.out, "sample")} >= {event["node"] for event in ready.values()}
    assert telemetry(account.out)["zone"].isna().all()
