"""Metrics as a function of events."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.error_kinds import ERROR_KINDS
from pipeline.metrics.kinds import METRICS
from pipeline.metrics.tally import Tally

T4 = ("T4", "spot-t4")


def tally(*events: tuple[str, dict[str, Any]], at: float = 0.0) -> Tally:
    counted = Tally()
    for name, fields in events:
        counted.take({"event": name, "at": at, "session": "s", **fields})
    return counted


def joined(node: str = "n", since: float = 0.0, price: Any = None, kind: str = "spot-t4") -> tuple[str, dict[str, Any]]:
    return "node_joined", {"node": node, "since": since, "node_type": kind, "market": "spot", "price": price}


def started(replica: str = "r") -> tuple[str, dict[str, Any]]:
    return "replica_started", {"replica": replica, "card": "T4", "node_type": "spot-t4"}


def ready(replica: str = "r", load_s: float = 2.5) -> tuple[str, dict[str, Any]]:
    return "replica_ready", {"replica": replica, "load_s": load_s}


def lease(lease: str = "l", replica: str = "r", images: int = 16) -> tuple[str, dict[str, Any]]:
    return "lease", {"lease": lease, "replica": replica, "work": [7, 0, images, False, False]}


def states(counted: Tally) -> dict[str, float]:
    return {labels[2]: number for labels, number in counted.values()["ramfleet_replicas"].items() if number}


def test_a_commit_counts_its_images_and_rejects() -> None:
    """By result and by reason; one that was beaten counts as such, and for nothing else than its time."""
    commit = {"images": 10, "rejects": {"timeout": 2, "empty": 1}, "commit_s": 0.5, "first": True}
    values = tally(("commit", commit), ("commit", commit | {"first": False})).values()
    assert values["ramfleet_images_total"] == {("tagged",): 7, ("rejected",): 3}
    assert values["ramfleet_rejects_total"] == {("timeout",): 2, ("empty",): 1}
    assert values["ramfleet_chunks_total"] == {("committed",): 1, ("beaten",): 1}
    assert values["ramfleet_commit_seconds_total"] == {(): 1.0}


def test_a_lease_counts_for_its_card_when_it_is_done() -> None:
    """Images and model time; not before."""
    counted = tally(started(), ready(), lease())
    assert "ramfleet_model_images_total" not in counted.values()
    counted.take({"event": "lease_done", "lease": "l", "replica": "r", "model_s": 0.25})
    values = counted.values()
    assert values["ramfleet_model_images_total"] == {T4: 16}
    assert values["ramfleet_model_seconds_total"] == {T4: 0.25}
    assert values["ramfleet_leases_total"] == {(*T4, "done"): 1}
    assert values["ramfleet_replica_load_seconds_total"] == {T4: 2.5}


def test_what_is_lost_is_told_by_cause_also_after_its_replica() -> None:
    """The verdict on a death comes after the replica has gone."""
    lost = {"replica": "r", "work": [7, 0, 16, False, False]}
    values = tally(
        started(),
        lease("a"),
        lease("b"),
        lease("c"),
        ("lease_failed", {"lease": "a", "replica": "r"}),
        ("replica_gone", {"replica": "r"}),
        ("lease_lost", {"lease": "b", "node_gone": False, **lost}),
        ("lease_lost", {"lease": "c", "node_gone": True, **lost}),
        ("strike", {"replica": "r"}),
    ).values()
    assert values["ramfleet_leases_total"] == {
        (*T4, "failed"): 1,
        (*T4, "replica_lost"): 1,
        (*T4, "node_lost"): 1,
    }
    assert values["ramfleet_strikes_total"] == {T4: 1}
    assert values["ramfleet_replicas_gone_total"] == {T4: 1}


def test_an_orphaned_lease_may_still_be_done() -> None:
    """It is counted as orphaned, and its images when the replica has done them."""
    values = tally(
        started(),
        lease(),
        ("lease_orphaned", {"lease": "l", "holder": "h"}),
        ("lease_done", {"lease": "l", "replica": "r", "model_s": 1.0}),
    ).values()
    assert values["ramfleet_leases_orphaned_total"] == {(): 1}
    assert values["ramfleet_model_images_total"] == {T4: 16}


def test_a_replica_is_in_one_state_at_a_time() -> None:
    """From its start to its end; states that are empty stay, as zeros."""
    counted = tally(started("a"), started("b"), ready("b"))
    assert states(counted) == {"starting": 1, "ready": 1}
    counted.take({"event": "replica_draining", "replica": "b"})
    assert states(counted) == {"starting": 1, "draining": 1}
    for replica in ("a", "b"):
        counted.take({"event": "replica_gone", "replica": replica})
    assert set(counted.values()["ramfleet_replicas"].values()) == {0}


def test_a_new_process_of_the_fleet_has_no_replicas_yet() -> None:
    """Those of the process before died with it; what was counted stays."""
    counted = tally(started(), ready(), lease(), ("fleet_started", {}))
    assert states(counted) == {}
    assert counted.values()["ramfleet_replicas_started_total"] == {T4: 1}


def test_nodes_cost_what_their_time_costs() -> None:
    """From when they were first seen until they go, at the price of when they came; without a price they are named."""
    price = {"per_hour": "0.36", "currency": "USD"}
    counted = tally(joined("a", 1000.0, price), joined("b", 1500.0, price), joined("c", 1000.0), at=1600.0)
    counted.take({"event": "node_gone", "at": 2000.0, "node": "a", "cause": "drained"})
    values = counted.values(now=2500.0)
    assert values["ramfleet_node_seconds_total"] == {("spot-t4",): 1000 + 1000 + 1500}
    assert values["ramfleet_cost_total"][("spot-t4", "USD")] == pytest.approx(0.2)
    assert values["ramfleet_cost_per_hour"] == {("spot-t4", "USD"): 0.36}
    assert values["ramfleet_nodes"] == {("spot-t4", "spot"): 2}
    assert values["ramfleet_nodes_unpriced"] == {("spot-t4",): 1}
    assert values["ramfleet_nodes_gone_total"] == {("spot-t4", "drained"): 1}
    assert counted.values(now=2600.0)["ramfleet_node_seconds_total"] == {("spot-t4",): 3700}


def test_samples_are_means_and_sums_by_kind_of_node() -> None:
    """Shares are means, memory and power sums, of the latest of each card; nodes that are gone count no more."""
    machine = {"cpu": 50.0, "received": 100, "sent": 7}
    counted = tally(
        joined("a"),
        joined("b"),
        ("sample", {"node": "a", **machine, "cards": {"0": {"gpu": 10, "vram_mib": 1, "power_w": 70.0}}}),
        ("sample", {"node": "a", **machine, "cards": {"0": {"gpu": 100, "vram_mib": 1, "power_w": 70.0}}}),
        ("sample", {"node": "b", "cpu": 100.0, "received": 1, "sent": 0, "cards": {"0": {"vram_mib": 3}}}),
        ("sample", {"node": "never joined", "cpu": 100.0, "received": 1, "sent": 0}),
    )
    values = counted.values()
    assert values["ramfleet_cpu_utilization_ratio"] == {("spot-t4",): 0.75}
    assert values["ramfleet_gpu_utilization_ratio"] == {("spot-t4",): 1.0}
    assert values["ramfleet_gpu_memory_used_bytes"] == {("spot-t4",): 4 * 2**20}
    assert values["ramfleet_gpu_power_watts"] == {("spot-t4",): 70.0}
    assert values["ramfleet_network_received_bytes_total"] == {("spot-t4",): 201}
    counted.take({"event": "node_gone", "at": 1.0, "node": "a", "cause": "died"})
    assert counted.values()["ramfleet_cpu_utilization_ratio"] == {("spot-t4",): 1.0}
    assert counted.values()["ramfleet_gpu_utilization_ratio"] == {}


def test_the_rest_is_counted_as_it_is() -> None:
    """Chunks taken over, memory that ran out, cards at fault, bytes that went to disk; others count for nothing."""
    values = tally(
        ("taken_over", {"holder": "h", "chunks": [1, 2, 3]}),
        ("out_of_memory", {"card": "T4"}),
        ("card_fault", {"card": "A100"}),
        ("spilled", {"bytes": 5}),
        ("driver_alive", {}),
    ).values()
    assert values["ramfleet_chunks_taken_over_total"] == {(): 3}
    assert values["ramfleet_memory_exhausted_total"] == {("T4",): 1}
    assert values["ramfleet_card_faults_total"] == {("A100",): 1}
    assert values["ramfleet_spilled_bytes_total"] == {(): 5}


@given(st.integers(0, 2**32), st.integers(0, 60))
def test_counters_never_fall_and_everything_is_in_the_table(seed: int, number: int) -> None:
    """Whatever comes in whatever order: names and labels are those of METRICS, and no counter goes back."""
    dice = random.Random(seed)
    counted, before = Tally(), dict[tuple[str, tuple[str, ...]], float]()
    for at in range(number):
        counted.take({"at": float(at), "session": "s", **_any_event(dice)})
        now = {(name, labels): v for name, series in counted.values(at + 0.5).items() for labels, v in series.items()}
        for (name, labels), value in now.items():
            assert len(labels) == len(METRICS[name].labels)
            assert value >= (before.get((name, labels), 0.0) if METRICS[name].kind == "counter" else 0.0)
        assert before.keys() <= now.keys() | {key for key in before if METRICS[key[0]].kind == "gauge"}
        before = now


def _any_event(dice: random.Random) -> dict[str, Any]:
    name, fields = dice.choice(
        [
            joined(dice.choice("ab"), 0.0, dice.choice([None, {"per_hour": "3", "currency": "USD"}])),
            ("node_gone", {"node": dice.choice("ab"), "cause": "died"}),
            ("fleet_started", {}),
            started(dice.choice("rs")),
            ready(dice.choice("rs")),
            ("replica_gone", {"replica": dice.choice("rs")}),
            ("sample", {"node": dice.choice("ab"), "cpu": 3.0, "received": 1, "sent": 1, "cards": {"0": {"gpu": 5}}}),
            lease(dice.choice("xy"), dice.choice("rs")),
            ("lease_done", {"lease": dice.choice("xy"), "replica": dice.choice("rs"), "model_s": 0.1}),
            ("commit", {"images": 3, "rejects": {next(iter(ERROR_KINDS)): 1}, "commit_s": 0.1, "first": True}),
        ]
    )
    return {"event": name, **fields}
