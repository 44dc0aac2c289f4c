"""The ledger of a run from its events and its telemetry: what was injected is found, and any stream balances."""

import json
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from committed_run import ATTEMPT, commit_all, plan_run, tagged_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.summary import cost_line
from pipeline.chunks import commit_chunk
from pipeline.costs.ledger import SPLITS, Ledger
from pipeline.costs.price_files import parse_yaml
from pipeline.costs.prices import PriceTable
from pipeline.costs.run_costs import cost_summary, ledger_of, read_ledger
from pipeline.errors import InputError
from pipeline.events.log import EventLog
from pipeline.finalize import finalize
from pipeline.stores.local_store import LocalStore
from pipeline.tables.schemas import TELEMETRY_SCHEMA, with_attempt

T0 = 1_700_000_000_000
"""Milliseconds since 1970 at which the runs of these tests begin."""
LOAD_MS = 700


def telemetry(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TELEMETRY_SCHEMA)


@dataclass
class Run:
    """Events and telemetry as a run writes them; `truth` says what each node's time went into, in milliseconds."""

    events: list[dict[str, Any]] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    truth: dict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(lambda: dict.fromkeys(SPLITS, 0)))
    session: str = "s0"
    leases: int = 0
    replicas: int = 0

    def write(self, at: int, event: str, **fields: Any) -> None:
        self.events.append({"at": (T0 + at) / 1000, "session": self.session, "event": event, **fields})

    def join(self, node: str, at: int, gpus: int = 1, price: str | None = "0.36") -> None:
        priced = None if price is None else {"per_hour": price, "currency": "USD", "source": "list"}
        more = {"gpus": gpus, "node_type": "t4-nodes", "card": "T4", "vram_gib": 16.0, "price": priced}
        self.write(at, "node_joined", node=node, since=(T0 + at) / 1000, limit_images_per_s=100.0, **more)

    def start(self, node: str, at: int, gpu: str = "0", num_gpus: float = 1.0) -> str:
        """A replica, ready after LOAD_MS."""
        self.replicas += 1
        replica = f"r{self.replicas}"
        self.write(at, "replica_started", replica=replica, node=node, lane=0, num_gpus=num_gpus)
        ready = {"node": node, "num_gpus": num_gpus, "gpus": [gpu], "load_s": LOAD_MS / 1000}
        self.write(at + LOAD_MS, "replica_ready", replica=replica, **ready)
        self.truth[node]["load"] += LOAD_MS
        return replica

    def lease(self, replica: str, at: int) -> tuple[str, int]:
        self.leases += 1
        self.write(at, "lease", lease=f"l{self.leases}", replica=replica, work=[self.leases, 0, 4, False, False])
        return f"l{self.leases}", self.leases

    def work(self, node: str, replica: str, at: int, ms: int, outcome: str) -> int:
        """A lease from `at` on, which takes so long; when it is over."""
        lease, chunk = self.lease(replica, at)
        end = at + ms
        if outcome == "failed":
            self.write(end, "lease_failed", lease=lease, replica=replica, ran_s=ms / 1000)
        else:
            done = {"lease": lease, "replica": replica, "model_s": ms / 1000, "ended_at": (T0 + end) / 1000}
            self.write(end, "lease_done", **done)
        if outcome == "committed":
            self.commit(node, replica, chunk, end, ms)
        self.truth[node]["busy" if outcome == "committed" else "retried"] += ms
        return end

    def commit(self, node: str, replica: str, chunk: int, end: int, ms: int) -> None:
        place = {"node_id": node, "node_type": "t4-nodes", "card": "T4", "replica": replica}
        figures = {"images": 4, "rejects": 1, "model_s": ms / 1000, "ended_at": T0 + end}
        self.rows.append({"chunk": chunk, "outcome": "committed", **place, **figures})

    def die(self, node: str, replica: str, at: int, ms: int, node_gone: bool) -> int:
        """The replica dies after so long in the middle of a lease."""
        lease, chunk = self.lease(replica, at)
        end = at + ms
        self.write(end, "replica_gone", replica=replica, cause="lost")
        if node_gone:
            self.write(end, "node_gone", node=node, cause="died")
        lost = {"lease": lease, "work": [chunk, 0, 4], "begun": True, "ran_s": ms / 1000, "node_gone": node_gone}
        # The verdict comes later.
        self.write(end + 3000, "lease_lost", replica=replica, died_at=(T0 + end) / 1000, **lost)
        self.truth[node]["preempted" if node_gone else "wasted"] += ms
        return end

    def ledger(self, prices: PriceTable | None = None) -> Ledger:
        order = sorted(self.events, key=lambda event: (event["session"], event["at"]))
        return ledger_of(order, telemetry(self.rows), prices)


def assert_balances(ledger: Ledger) -> None:
    """Exactly, in every row, and nothing is negative."""
    for row in (*ledger.rows_by_node, *ledger.rows_by_type, ledger.run):
        assert sum(row.seconds.values()) == row.node_seconds
        assert min(row.seconds.values()) >= 0
        if row.cost is not None:
            assert min(row.cost.values()) >= 0
    for row in ledger.rows_by_node:
        if row.price_per_hour is not None:
            assert row.total_cost == row.node_seconds * Fraction(row.price_per_hour) / 3600


# ---- runs whose truth is known ----


@st.composite
def runs(draw: st.DrawFn) -> tuple[Run, dict[str, int]]:
    """Sessions on nodes with one card, where every kind of thing happens; the end of each node's stays, summed."""
    run, there = Run(), dict[str, int]()
    sessions, session_end = draw(st.integers(1, 3)), 0
    for number in range(sessions):
        run.session, begin = f"s{number}", session_end + draw(st.integers(0, 500))
        killed = draw(st.booleans())
        ends = []
        for node in (f"n{index}" for index in range(draw(st.integers(1, 3)))):
            ends.append(_node_in_session(draw, run, there, f"{node}-{number if draw(st.booleans()) else 'x'}", begin))
        # The last that is heard of a session.
        session_end = max(end for _, end, _ in ends) + 5000
        run.write(session_end, "driver_alive" if killed else "driver_ended")
        for node, _, joined in ends:
            if joined is not None:
                there[node] += session_end - joined
        for node, replica, since in [(n, *run.truth[n].pop("open")) for n, _, _ in ends if "open" in run.truth[n]]:
            del replica
            run.truth[node]["wasted"] += session_end - since
    return run, there


def _node_in_session(
    draw: st.DrawFn, run: Run, there: dict[str, int], node: str, begin: int
) -> tuple[str, int, int | None]:
    """One node's time in a session: its name, when nothing more happens, and when it joined if it is still there."""
    there.setdefault(node, 0)
    joined = at = begin + draw(st.integers(0, 300))
    run.join(node, joined)
    replica = run.start(node, at)
    at += LOAD_MS
    for _ in range(draw(st.integers(0, 5))):
        at += draw(st.integers(0, 200))
        ms = draw(st.integers(1, 900))
        match draw(st.sampled_from(["committed", "committed", "beaten", "failed", "crash", "node", "open"])):
            case "crash":
                at = run.die(node, replica, at, ms, node_gone=False)
                replica = run.start(node, at)
                at += LOAD_MS
            case "node":
                at = run.die(node, replica, at, ms, node_gone=True)
                there[node] += at - joined
                return node, at, None
            case "open":  # the driver ends before the lease does
                run.lease(replica, at)
                run.truth[node]["open"] = (replica, at)  # type: ignore[assignment]
                return node, at, joined
            case outcome:
                at = run.work(node, replica, at, ms, outcome)
    return node, at, joined


@pytest.mark.lengthy
@settings(deadline=None)
@given(runs())
def test_what_was_injected_is_found(built: tuple[Run, dict[str, int]]) -> None:
    """Deaths, retries, losses, killed drivers, several sessions: each millisecond is where it was put."""
    run, there = built
    ledger = run.ledger()
    assert_balances(ledger)
    for row in ledger.rows_by_node:
        truth = run.truth[row.key]
        truth["idle"] = there[row.key] - sum(ms for split, ms in truth.items() if split != "idle")
        assert row.seconds == {split: Fraction(truth[split], 1000) for split in SPLITS}


# ---- any stream at all ----

_NODES, _REPLICAS, _LEASES = ("n1", "n2"), ("r1", "r2", "r3"), ("l1", "l2", "l3")
_moments = st.integers(0, 5000).map(lambda ms: (T0 + ms) / 1000)
_seconds = st.integers(0, 2000).map(lambda ms: ms / 1000)
_work = st.tuples(st.integers(0, 3), st.just(0), st.just(4)).map(list)
_price = st.none() | st.fixed_dictionaries(
    {"per_hour": st.sampled_from(["0.1", "3"]), "currency": st.sampled_from(["USD", "EUR"]), "source": st.just("list")}
)
_of_replica = {"replica": st.sampled_from(_REPLICAS), "lease": st.sampled_from(_LEASES)}
_start = {"replica": st.sampled_from(_REPLICAS), "node": st.sampled_from(_NODES)}
_fields: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "driver_started": {},
    "driver_ended": {},
    "fleet_started": {},
    "node_joined": {
        "node": st.sampled_from(_NODES),
        "since": _moments,
        "gpus": st.integers(0, 2),
        "node_type": st.sampled_from(["a", "b"]),
        "card": st.just("T4"),
        "vram_gib": st.none(),
        "price": _price,
    },
    "node_gone": {"node": st.sampled_from(_NODES), "cause": st.just("died")},
    "replica_started": _start | {"lane": st.integers(0, 3), "num_gpus": st.sampled_from([0, 0.5, 1.0])},
    "replica_ready": _start
    | {
        "num_gpus": st.sampled_from([0, 0.5, 1.0]),
        "gpus": st.sampled_from([[], ["0"], ["1"], ["7"], ["GPU-x"]]),
        "load_s": _seconds,
    },
    "replica_gone": {"replica": st.sampled_from(_REPLICAS)},
    "lease": _of_replica | {"work": _work},
    "lease_done": _of_replica | {"model_s": _seconds, "ended_at": _moments},
    "lease_failed": _of_replica | {"ran_s": _seconds},
    "lease_lost": _of_replica | {"work": _work, "ran_s": _seconds, "died_at": _moments, "node_gone": st.booleans()},
}
_event = st.sampled_from(sorted(_fields)).flatmap(
    lambda kind: st.fixed_dictionaries(
        {"event": st.just(kind), "at": _moments, "session": st.sampled_from(["s1", "s2"]), **_fields[kind]}
    )
)
_row = st.fixed_dictionaries(
    {
        "chunk": st.integers(0, 3),
        "outcome": st.sampled_from(["committed", "shared", "beaten", "died"]),
        "node_id": st.sampled_from([*_NODES, "n3", None]),
        "node_type": st.just("a"),
        "card": st.just("T4"),
        "replica": st.sampled_from([*_REPLICAS, None]),
        "images": st.integers(4, 8),
        "rejects": st.sampled_from([None, 0, 4]),
        "model_s": st.none() | _seconds,
        "ended_at": st.integers(T0, T0 + 5000),
    }
)


@pytest.mark.lengthy
@settings(deadline=None, max_examples=150)
@given(st.lists(_event, max_size=40), st.lists(_row, max_size=8))
def test_any_stream_balances(events: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """However absurd: in order or not by what they mean, with parts missing, in two currencies."""
    events.sort(key=lambda event: (event["session"], event["at"]))
    ledger = ledger_of(events, telemetry(rows))
    assert_balances(ledger)
    counted = [row for row in rows if row["outcome"] in ("committed", "shared")]
    assert ledger.run.images == sum(row["images"] for row in counted)
    assert ledger.run.rejected == sum(row["rejects"] or 0 for row in counted)
    json.dumps(cost_summary(ledger), allow_nan=False)


# ---- one thing each ----


def only_row(run: Run) -> dict[str, float]:
    (row,) = run.ledger().rows_by_node
    return {split: float(row.seconds[split]) for split in SPLITS if row.seconds[split]}


def test_two_replicas_on_two_cards() -> None:
    """By Ray's numbers of the cards: each is half of the node."""
    run = Run()
    run.join("n", 0, gpus=2)
    for gpu in ("0", "1"):
        run.work("n", run.start("n", 0, gpu), LOAD_MS, 1000, "committed")
    run.write(2700, "driver_ended")
    assert only_row(run) == {"load": 0.7, "busy": 1.0, "idle": 1.0}


def test_two_replicas_on_one_card() -> None:
    """What both do at the same time counts once; Ray may number one card of two by its own number, or by name."""
    run = Run()
    run.join("n", 0)
    for _ in range(2):
        run.work("n", run.start("n", 0, "GPU-5", num_gpus=0.5), LOAD_MS, 1000, "committed")
    run.write(2000, "driver_ended")
    assert only_row(run) == {"load": 0.7, "busy": 1.0, "idle": 0.3}


def test_a_node_with_cards_that_works_on_its_cpus() -> None:
    """It is busy as a whole."""
    run = Run()
    run.join("n", 0, gpus=4)
    run.work("n", run.start("n", 0, num_gpus=0), LOAD_MS, 1000, "committed")
    run.write(1700, "driver_ended")
    assert only_row(run) == {"load": 0.7, "busy": 1.0}


def test_a_fleet_that_starts_again() -> None:
    """What its replicas had in hand is lost, and what were loading too; the nodes were there all the while."""
    run = Run()
    run.join("n", 0)
    replica = run.start("n", 0)
    run.lease(replica, 1000)
    run.write(1500, "fleet_started")
    run.join("n", 1600)
    run.write(1600, "replica_started", replica="again", node="n", lane=0, num_gpus=1.0)
    run.write(2000, "driver_ended")
    assert only_row(run) == {"load": 1.1, "wasted": 0.5, "idle": 0.4}


def test_the_end_of_a_lease_may_be_missing() -> None:
    """A driver that ends does not wait for the Fleet's log: what was committed is known from the chunk."""
    run = Run()
    run.join("n", 0)
    replica = run.start("n", 0)
    _, chunk = run.lease(replica, 1000)
    run.commit("n", replica, chunk, 1500, 500)
    run.write(2000, "driver_ended")
    assert only_row(run) == {"load": 0.7, "busy": 0.5, "idle": 0.8}


def test_work_that_nobody_was_left_to_commit() -> None:
    """Done after its holder died: for nothing, although its replica lives."""
    run = Run()
    run.join("n", 0)
    run.work("n", run.start("n", 0), 1000, 400, "orphaned")
    run.write(2000, "driver_ended")
    assert only_row(run) == {"load": 0.7, "retried": 0.4, "idle": 0.9}


def test_a_node_that_goes_just_before_the_driver_ends() -> None:
    """No verdict on its lease is in the events any more: the node's own end says what it was."""
    run = Run()
    run.join("n", 0)
    replica = run.start("n", 0)
    run.lease(replica, 1000)
    run.write(1500, "replica_gone", replica=replica, cause="lost")
    run.write(1600, "node_gone", node="n", cause="died")
    run.write(1700, "driver_ended")
    assert only_row(run) == {"load": 0.7, "preempted": 0.5, "idle": 0.4}


def test_two_drivers_at_once() -> None:
    """On one node, their events mixed: it is paid for once, and its card is busy for either."""
    run = Run()
    for session in ("s1", "s2"):
        run.session = session
        run.join("n", 0)
        run.work("n", run.start("n", 0), LOAD_MS, 1000, "committed")
        run.write(2000, "driver_ended")
    run.events.sort(key=lambda event: event["at"])
    (row,) = ledger_of(run.events, telemetry(run.rows)).rows_by_node
    assert (row.node_seconds, row.seconds["busy"], row.seconds["load"]) == (2, 1, Fraction(7, 10))


def test_a_replica_that_cannot_start() -> None:
    """Its time goes into loading."""
    run = Run()
    run.join("n", 0)
    run.write(100, "replica_started", replica="r", node="n", lane=0, num_gpus=1.0)
    run.write(600, "replica_gone", replica="r", cause="could not start")
    run.write(1000, "driver_ended")
    assert only_row(run) == {"load": 0.5, "idle": 0.5}


def test_nodes_that_only_the_telemetry_knows() -> None:
    """Without the events, a node was there while it worked, and has no price."""
    run = Run()
    run.commit("n", "r", 1, 2000, 500)
    ledger = run.ledger()
    assert only_row(run) == {"busy": 0.5}
    assert "do not tell" in ledger.unpriced[0]


def test_other_prices_afterwards() -> None:
    """A price table takes the place of what was written down; without one the last price of a node holds."""
    run = Run()
    run.join("n", 0, gpus=2, price=None)
    run.write(3_600_000, "driver_ended")
    assert run.ledger().run.total_cost is None
    prices = PriceTable((parse_yaml("T4: 0.5 €/h", "own.yaml"),))
    ledger = run.ledger(prices)
    assert (ledger.currency, ledger.run.total_dollars) == ("EUR", Decimal(1))
    run.session = "s1"
    run.join("n", 4_000_000, gpus=2, price="0.36")
    assert run.ledger().rows_by_node[0].price_per_hour == Decimal("0.36")


# ---- the run folder ----


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


def test_run_json_says_what_it_cost(store: LocalStore, tiny_bundle: Path) -> None:
    """From events and chunks to the summary, and the same ledger read back."""
    plan = plan_run(store, tiny_bundle, ["a", "b", "c"])
    piece = {"images": 3, "node_id": "n", "node_type": "t4", "card": "T4", "replica": "r", "dtype": "fp32"}
    piece |= {"microbatch": 4, "peak_vram_bytes": None, "wait_s": 0.0, "transfer_s": 0.0, "model_s": 900.0}
    piece |= {"instance_type": "box", "market": "spot", "zone": "z", "started_at": 1000.0, "ended_at": 2000.0}
    rows = tagged_rows(plan, plan.read_chunk(store, 0), {})
    commit_chunk(store, 0, with_attempt(rows, {**ATTEMPT, "plan_hash": plan.hash, "pieces": [piece]}))
    joined = {"at": 200.0, "session": "s", "event": "node_joined", "node": "n", "since": 200.0, "gpus": 1}
    joined |= {"node_type": "t4", "card": "T4", "price": {"per_hour": "1", "currency": "USD", "source": "list"}}
    lines = [joined, {"at": 2000.0, "session": "s", "event": "driver_ended"}]
    store.create("events/s-x.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    finalize(store)
    cost = json.loads(store.read("run.json"))["cost"]
    assert (cost["currency"], cost["total"], cost["tagged"], cost["gpu_hours"]) == ("USD", 0.5, 3, 0.5)
    assert cost["cost"] == {"busy": 0.25, "idle": 0.25} | dict.fromkeys(("load", "retried", "preempted", "wasted"), 0)
    assert cost["by_node_type"]["t4"]["images_per_s"] == pytest.approx(3 / 900)
    assert cost["price_sources"] == ["list"]
    assert cost_summary(read_ledger(store)) == cost


def test_the_summary_of_a_run_has_a_line_for_its_cost() -> None:
    """With what is missing in it; none where there is no price at all."""
    run = Run()
    run.join("n", 0, price=None)
    run.write(3_600_000, "driver_ended")
    assert cost_line(cost_summary(run.ledger())) is None
    run.join("m", 0)
    run.commit("m", "r", 1, 2000, 500)
    assert cost_line(cost_summary(run.ledger())) == "0.36 USD, 90 per 1,000 images  (without 1 × t4-nodes)"


def test_a_run_without_events_costs_nothing_that_is_known(store: LocalStore, tiny_bundle: Path) -> None:
    """No node: no amount, and run.json is written all the same."""
    commit_all(store, plan_run(store, tiny_bundle, ["a", "b"]))
    finalize(store)
    cost = json.loads(store.read("run.json"))["cost"]
    assert (cost["total"], cost["by_node_type"], cost["tagged"]) == (None, {}, 2)


def test_events_of_an_older_version_do_not_stop_a_run(store: LocalStore, tiny_bundle: Path) -> None:
    """They have less in them: its rows are all there, its money is said to be unknown."""
    commit_all(store, plan_run(store, tiny_bundle, ["a"]))
    log = EventLog(store, "s", "fleet")
    log.write("node_joined", node="n")
    log.write("replica_ready", replica="r")
    log.write("lease", lease="l", replica="r", work=[0, 0, 1, False, False])
    log.write("lease_lost", replica="r", work=[0, 0, 1, False, False], granted_s=1.0, begun=True)
    log.close()
    finalize(store)
    document = json.loads(store.read("run.json"))
    assert document["counts"]["tagged"] == 1
    assert (document["cost"]["tagged"], document["cost"]["total"]) == (1, None)
    assert document["cost"]["unpriced"] == ["1 × unknown: no price was known when it joined"]


def test_a_clock_that_was_set_back_loses_no_time() -> None:
    """The driver's last event seems to be before its first: what is known of its time counts."""
    run = Run()
    run.join("n", 0)
    run.write(60_000, "driver_alive")
    run.events.append({"at": (T0 - 5000) / 1000, "session": "s0", "event": "driver_ended"})
    ledger = ledger_of(run.events, telemetry([]))
    assert ledger.run.node_seconds == 60


@pytest.mark.parametrize("off_ms", [-3_600_000, 3_600_000])
def test_a_node_was_not_there_before_its_session_nor_after_it_joined(off_ms: int) -> None:
    """`since` is of another process: its clock may be an hour off, or years."""
    run = Run()
    run.write(0, "driver_started")
    run.join("n", 1000)
    run.events[-1]["since"] += off_ms / 1000
    run.write(61_000, "driver_ended")
    assert run.ledger().run.node_seconds == (61 if off_ms < 0 else 60)


def test_the_first_price_of_a_node_stays() -> None:
    """A later session on the same nodes, begun with another price file, does not change what they cost."""
    run = Run()
    run.join("n", 0, price=None)
    run.write(1000, "driver_ended")
    for number, price in enumerate(("0.36", "0.72", None), start=1):
        run.session = f"s{number}"
        run.join("n", 10_000 * number, price=price)
        run.write(10_000 * number + 1000, "driver_ended")
    ledger = run.ledger()
    assert ledger.run.price_per_hour == Decimal("0.36")
    assert ledger.run.total_cost == Fraction("0.36") * 4 / 3600


def test_a_folder_without_a_finished_run(store: LocalStore) -> None:
    """The remedy is in the line."""
    with pytest.raises(InputError, match="ramfleet finalize"):
        read_ledger(store)
