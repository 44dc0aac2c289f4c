"""What a report gathers: quantiles, time without pauses, throughput, tags, rejects, life, numbers as text."""

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import FLEET, START_S, Cards, write_run

from pipeline.errors import InputError
from pipeline.finished_run import FinishedRun
from pipeline.report.attempts import gather_attempts
from pipeline.report.document import Options, Report, as_dict, make_report
from pipeline.report.life import Life
from pipeline.report.numbers import counted, duration, money, plain, share, size
from pipeline.report.rejects import gather_rejects
from pipeline.report.sketch import ACCURACY, Sketch
from pipeline.report.tag_stats import gather_tags
from pipeline.report.time_axis import time_axis
from pipeline.stores.local_store import LocalStore
from ramcore.vocabulary import Vocabulary

NO_PICTURES = Options(pictures=0)
ONE_TYPE = (Cards("t4", "T4", 2, 10.0, Decimal("0.5"), 8 << 30),)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "run")


def report_of(store: LocalStore) -> Report:
    return make_report(FinishedRun(store), NO_PICTURES)


# ---- quantiles ----


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_as_near_as_promised(values: list[float], part: float) -> None:
    """Whatever the values, a quantile is within the promised share of the value of that rank."""
    sketch = Sketch()
    sketch.add(values[: len(values) // 2])
    other = Sketch()
    other.add(values[len(values) // 2 :])
    sketch.merge(other)
    rank = max(1, int(np.ceil(part * len(values))))
    assert sketch.quantiles([part])[0] == pytest.approx(sorted(values)[rank - 1], rel=1.01 * ACCURACY)


def test_a_sketch_counts_what_lies_between_edges() -> None:
    """All values are in the histogram once; without values there are no quantiles."""
    sketch = Sketch()
    sketch.add([0.011, 0.012, 0.2])
    assert sketch.histogram([0.01, 0.1, 1.0]).tolist() == [2, 1]
    with pytest.raises(ValueError, match="no values"):
        Sketch().quantiles([0.5])


# ---- time ----


def test_pauses_are_cut_out() -> None:
    """Two stretches of work with hours between them follow each other on the axis."""
    starts, ends = np.array([1000.0, 9000.0]), np.array([1100.0, 9200.0])
    axis = time_axis([(starts, ends)], 1000.0, 9200.0)
    assert axis.length == pytest.approx(300, abs=10)
    assert axis.cuts == [(pytest.approx(100, abs=5), pytest.approx(7900, abs=10))]
    assert axis.place(np.array([900.0, 5000.0, 9999.0])) == pytest.approx([0, 100, axis.length], abs=5)


@given(st.lists(st.tuples(st.floats(0, 1e5), st.floats(0, 1e4)), min_size=1, max_size=30))
def test_the_axis_keeps_the_order_of_time(work: list[tuple[float, float]]) -> None:
    """Whatever the work, later moments are never further left, and all lie on the axis."""
    starts = np.array([start for start, _ in work])
    ends = starts + np.array([length for _, length in work])
    first, last = float(starts.min()), float(ends.max())
    axis = time_axis([(starts, ends)], first, last)
    placed = axis.place(np.linspace(first, last, 50))
    assert (np.diff(placed) >= 0).all()
    assert placed[0] == 0
    assert placed[-1] == pytest.approx(axis.length)
    assert axis.length <= last - first + 1e-6


def test_throughput_adds_up_to_the_images(store: LocalStore) -> None:
    """Images per second times seconds, over all bins and cards, are the images of the telemetry."""
    write_run(store, 5_000, 400, pause_s=3_000)
    found = gather_attempts(FinishedRun(store))
    throughput = found.throughput
    assert throughput is not None
    width = np.diff(throughput.edges)
    done = sum(float((rates * width).sum()) for rates in throughput.by_card.values())
    assert done == pytest.approx(5_000, rel=1e-3)
    assert throughput.axis.length < 3_000
    assert len(throughput.axis.cuts) == 1


# ---- cards ----


def test_images_per_second_are_those_that_the_cards_were_set_to(store: LocalStore) -> None:
    """Of one busy card, by node type, within 3 %."""
    write_run(store, 40_000, 4_000)
    made = report_of(store)
    assert made.ledger is not None
    rates = {row.key: row.images_per_s for row in made.ledger.rows_by_type}
    assert rates == {cards.node_type: pytest.approx(cards.rate, rel=0.03) for cards in FLEET}


def test_latency_and_memory_by_card(store: LocalStore) -> None:
    """The median time for an image is that of the card; its micro-batch, dtype and peak memory are kept."""
    write_run(store, 20_000, 2_000)
    cards = as_dict(report_of(store))["cards"]
    assert cards["A100"]["seconds_per_image"]["p50"] == pytest.approx(1 / 118, rel=0.03)
    assert cards["A100"]["microbatches"] == {"64": cards["A100"]["images"]}
    assert cards["A100"]["dtypes"] == {"fp16": cards["A100"]["images"]}
    assert cards["T4"]["peak_vram_bytes"] == 11 << 30
    assert sum(card["images"] for card in cards.values()) == 20_000


def test_attempts_that_came_to_nothing_are_no_work(store: LocalStore) -> None:
    """They are counted by outcome; images, latency and throughput are of what was committed."""
    write_run(store, 100, 10, ONE_TYPE)
    run = FinishedRun(store)
    table = run.table("telemetry")
    outcomes = ["committed"] * 5 + ["died"] * 3 + ["beaten"] * 2
    table = table.set_column(table.schema.get_field_index("outcome"), "outcome", [outcomes])
    rewrite_telemetry(store, table)
    found = gather_attempts(FinishedRun(store))
    assert found.outcomes == {"committed": 5, "died": 3, "beaten": 2}
    assert found.images == 50
    assert found.cards["T4"].images == 50


def rewrite_telemetry(store: LocalStore, table: object) -> None:
    from pipeline.tables.parts import create_part
    from pipeline.tables.schemas import to_parquet

    document = json.loads(store.read("run.json"))
    document["parts"]["telemetry"] = [create_part(store, "telemetry/", 1, to_parquet(table))]
    store.replace("run.json", json.dumps(document).encode())


# ---- life ----


def test_what_came_and_went() -> None:
    """Nodes that join, leave, drain and die; replicas that die on their own, but not those that go with their node."""
    life = Life()
    events = [
        {"at": 10.0, "event": "node_joined", "node": "n1", "since": 5.0, "card": "T4"},
        {"at": 11.0, "event": "replica_ready", "replica": "r1", "load_s": 4.0},
        {"at": 20.0, "event": "node_gone", "node": "n1", "cause": "drained"},
        {"at": 20.0, "event": "replica_gone", "replica": "r1", "cause": "its node is gone"},
        {"at": 21.0, "event": "replica_gone", "replica": "r2", "cause": "killed"},
        {"at": 22.0, "event": "node_gone", "node": "n2", "cause": "died"},
        {"at": 23.0, "event": "strike", "replica": "r2"},
        {"at": 24.0, "event": "sample", "node": "n1", "cpu": 50.0, "cards": {"0": {"gpu": 90, "power_w": 60.0}}},
    ]
    assert list(life.watch(iter(events))) == events
    assert [(mark.at, mark.kind, mark.what) for mark in life.marks] == [
        (5.0, "joined", "n1"),
        (20.0, "drained", "n1"),
        (21.0, "replica_died", "r2"),
        (22.0, "died", "n2"),
    ]
    assert life.counts["strike"] == 1
    assert life.loads.quantiles([0.5])[0] == pytest.approx(4, rel=ACCURACY)
    assert (life.samples["T4"].count, life.samples["T4"].gpu, life.samples["T4"].power_w) == (1, 90, 60.0)


# ---- tags and rejects ----


def test_tags_are_counted_by_id(store: LocalStore) -> None:
    """A score equal to the threshold is no tag; names that repeat are two tags; a threshold of 1 never counts as
    never fired."""
    names = Vocabulary(("dog", "dog", "cat", "off"), ("",) * 4, np.array([0.5, 0.5, 0.5, 1.0], np.float32))
    write_run(store, 0, 0, names=names)
    put_tags(store, [([0, 1], [0.9, 0.5]), ([1], [0.6]), ([0], [0.45])])
    stats = gather_tags(FinishedRun(store), 5)
    assert stats.images == 3
    assert stats.fired.tolist() == [1, 1, 0, 0]
    assert stats.never.tolist() == [2]
    assert stats.per_image[:3].tolist() == [1, 2, 0]
    assert stats.scores.sum(axis=1).tolist() == [2, 2, 0, 0]
    assert stats.over.sum() == 2
    assert [sample["tags"] for sample in stats.samples] == [
        [("dog", pytest.approx(0.9))],
        [("dog", pytest.approx(0.6))],
        [],
    ]


def test_a_run_that_keeps_few_tags_counts_those(store: LocalStore) -> None:
    """`ramfleet threshold --top-k` leaves scores over the threshold that are no tags."""
    names = Vocabulary(("dog", "cat"), ("",) * 2, np.array([0.5, 0.5], np.float32))
    write_run(store, 0, 0, names=names)
    put_tags(store, [([0, 1], [0.9, 0.8])])
    document = json.loads(store.read("run.json"))
    store.replace("run.json", json.dumps({**document, "derived_from": {"top_k": 1}}).encode())
    assert gather_tags(FinishedRun(store), 0).fired.tolist() == [1, 0]


def put_tags(store: LocalStore, rows: list[tuple[list[int], list[float]]]) -> None:
    import pyarrow as pa

    from pipeline.tables.parts import create_part
    from pipeline.tables.schemas import to_parquet

    table = pa.table(
        {
            "image_id": [f"i{number}" for number in range(len(rows))],
            "uri": [f"/nowhere/{number}" for number in range(len(rows))],
            "sha256": ["00"] * len(rows),
            "tag_ids": pa.array([ids for ids, _ in rows], pa.list_(pa.int32())),
            "scores": pa.array([scores for _, scores in rows], pa.list_(pa.float32())),
        }
    )
    document = json.loads(store.read("run.json"))
    document["parts"]["tags"] = [create_part(store, "tags/", 1, to_parquet(table))]
    store.replace("run.json", json.dumps(document).encode())


def test_rejects_by_kind_with_a_few_examples(store: LocalStore) -> None:
    """The most frequent kind first, three examples at most, cause and remedy from the closed set."""
    rows = [(f"i{number}", f"/p/{number}", "truncated", "ends early") for number in range(5)]
    write_run(store, 1, 1, ONE_TYPE, rejects=[("a", "/a", "timeout", ""), *rows])
    first, second = gather_rejects(FinishedRun(store))
    assert (first.kind, first.images, len(first.examples), first.retriable) == ("truncated", 5, 3, False)
    assert first.examples[0] == ("i0", "/p/0", "ends early")
    assert (second.kind, second.images, second.retriable) == ("timeout", 1, True)
    assert first.cause == "the file ends before the picture does"


# ---- folders ----


def test_a_folder_without_a_run_is_refused(store: LocalStore) -> None:
    """The error names the command that publishes an unfinished run."""
    with pytest.raises(InputError, match=r"there is no run\.json in it; `ramfleet finalize "):
        FinishedRun(store)


def test_a_part_that_is_gone_is_named(store: LocalStore) -> None:
    """So is the command that writes it again."""
    write_run(store, 10, 1, ONE_TYPE)
    name = json.loads(store.read("run.json"))["parts"]["tags"][0]
    store.delete(name)
    with pytest.raises(InputError, match=f"{name} is missing or damaged; `ramfleet finalize"):
        gather_tags(FinishedRun(store), 1)


def test_a_damaged_run_json_is_named(store: LocalStore) -> None:
    """So is one of another format version."""
    store.replace("run.json", b"{")
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        FinishedRun(store)
    store.replace("run.json", b'{"format_version": 99}')
    with pytest.raises(InputError, match="has format_version 99, not 1"):
        FinishedRun(store)


# ---- numbers ----


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (plain(0), "0"), (plain(1234.5), "1,234"), (plain(4.567), "4.57"), (plain(0.00000162), "0.00000162"),
        (plain(Fraction(1, 3)), "0.333"), (share(0.004), "0.4 %"), (share(1e-5), "< 0.1 %"),
        (share(0.5), "50 %"), (share(0), "0 %"),
        (duration(0.0123), "12.3 ms"), (duration(59.4), "59.4 s"), (duration(190), "3 min 10 s"),
        (duration(7200), "2 h"), (duration(86400 * 4 + 3600 * 3), "4 d 3 h"), (duration(59.999), "60 s"),
        (money(Decimal("0.1"), "USD"), "$0.10"), (money(1234.5, "EUR"), "€1,234.50"), (money(0, "USD"), "$0.00"),
        (money(2, "CHF"), "2.00 CHF"), (money(0.0000016, "USD"), "$0.0000016"), (size(512), "512 B"),
        (size(21 << 30), "21 GiB"), (counted(1, "node"), "1 node"), (counted(1200, "node"), "1,200 nodes"),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(made: str, text: str) -> None:
    """Digits that matter, units, no exponents."""
    assert made == text


@given(st.floats(0, 1e15))
def test_numbers_have_no_exponent(value: float) -> None:
    """Whatever the value, of all forms."""
    for text in (plain(value), duration(value), money(value, "USD"), share(value), size(int(value))):
        assert "e-" not in text
        assert "e+" not in text
        assert "nan" not in text


def test_the_first_second_is_that_of_the_work(store: LocalStore) -> None:
    """The axis begins with the first attempt."""
    write_run(store, 100, 10, ONE_TYPE)
    found = gather_attempts(FinishedRun(store))
    assert found.first_at is not None
    assert found.first_at == pytest.approx(START_S, abs=0.1)
