"""The plan: identity of rows, chunks, parts, and that it is written once."""

import hashlib
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import plan
from pipeline.config import load_config
from pipeline.errors import ConfigError, InputError, PlanError
from pipeline.manifests import identity
from pipeline.plan import DUPLICATE_ID, PLAN, auto_chunk_rows, make_plan, read_plan
from pipeline.stores.local_store import LocalStore

PINNED = {"INPUT": "/images", "decode.mode": "fast", "--limit": None}


def batches(rows, size=1000, schema=None):
    """Rows (image_id, uri, kept…) as record batches of so many rows."""
    schema = schema or pa.schema([("image_id", pa.string()), ("uri", pa.string())])
    for start in range(0, len(rows), size):
        columns = zip(*rows[start : start + size], strict=True)
        yield pa.RecordBatch.from_arrays(
            [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
        )


def distinct(count):
    return [(f"id{number}", f"/{number}.jpg") for number in range(count)]


def planned_rows(store, made):
    """(image_id, uri, chunk, planned_error) of all chunks, in order."""
    tables = [made.read_chunk(store, chunk) for chunk in range(made.chunks)]
    return [tuple(row.values())[:4] for table in tables for row in table.to_pylist()]


def read_duplicates(store):
    with store.open(read_plan(store).duplicates_name) as file:
        return pq.read_table(file)


def oracle(rows):
    """What the plan must be: planned (id, uri, error) and duplicates (id, uri), one row after the other."""
    planned, duplicates, ids, pairs = [], [], set(), set()
    for key, uri in rows:
        if (key, uri) in pairs:
            duplicates.append((key, uri))
        else:
            planned.append((key, uri, DUPLICATE_ID if key in ids else None))
        ids.add(key)
        pairs.add((key, uri))
    return planned, duplicates


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "run")


odd_text = st.one_of(st.sampled_from(["a", "b", "c", "ä", "a ", ""]), st.text(st.characters(codec="utf-8"), max_size=3))


@pytest.mark.lengthy
@given(
    rows=st.lists(st.tuples(odd_text, odd_text), min_size=1, max_size=60),
    rows_per_chunk=st.integers(1, 20),
    batch=st.integers(1, 30),
    partition=st.sampled_from([3, 10, 1000]),
    part=st.sampled_from([1, 7, 1000]),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_plan_is_that_of_a_simple_loop(tmp_path_factory, monkeypatch, rows, rows_per_chunk, batch, partition, part):
    """Whatever the rows, batches, partitions and parts, the plan is what a loop over the rows would make."""
    monkeypatch.setattr(identity, "_PARTITION_ROWS", partition)
    monkeypatch.setattr(plan, "_PART_ROWS", part)
    store = LocalStore(tmp_path_factory.mktemp("run"))
    made = make_plan(batches(rows, batch), store, rows_per_chunk, None, PINNED)
    planned, duplicates = oracle(rows)
    found = planned_rows(store, made)
    assert [(key, uri, error) for key, uri, _, error in found] == planned
    assert [chunk for _, _, chunk, _ in found] == [index // rows_per_chunk for index in range(len(planned))]
    assert [tuple(row.values()) for row in read_duplicates(store).to_pylist()] == duplicates
    assert made.counts == {
        "input": len(rows),
        "duplicates": len(duplicates),
        "carried": 0,
        "rejected_ids": sum(error is not None for _, _, error in planned),
        "planned": len(planned),
        "chunks": -(-len(planned) // rows_per_chunk),
    }
    assert [made.chunk_rows(chunk) for chunk in range(made.chunks)] == [
        made.read_chunk(store, chunk).num_rows for chunk in range(made.chunks)
    ]
    assert read_plan(store) == made


def test_identity_by_example(store):
    """A repeated row is listed, a reused id is a reject, a shared uri is no matter."""
    rows = [("a", "/1"), ("b", "/1"), ("a", "/1"), ("a", "/2"), ("a", "/2"), ("c", "/3")]
    made = make_plan(batches(rows), store, 10, None, {})
    assert planned_rows(store, made) == [
        ("a", "/1", 0, None),
        ("b", "/1", 0, None),
        ("a", "/2", 0, "duplicate_id"),
        ("c", "/3", 0, None),
    ]
    assert read_duplicates(store).to_pydict() == {"image_id": ["a", "a"], "uri": ["/1", "/2"]}
    assert made.counts == {"input": 6, "duplicates": 2, "carried": 0, "rejected_ids": 1, "planned": 4, "chunks": 1}


def test_one_row_group_for_each_chunk(store, monkeypatch):
    """Parts hold whole chunks, one row group each; the last chunk may be smaller."""
    monkeypatch.setattr(plan, "_PART_CHUNKS", 4)
    made = make_plan(batches(distinct(103)), store, 10, None, {})
    assert [(part.first_chunk, part.chunks, part.rows) for part in made.parts] == [(0, 4, 40), (4, 4, 40), (8, 3, 23)]
    for part in made.parts:
        with store.open(part.name) as file:
            parquet = pq.ParquetFile(file)
            assert parquet.num_row_groups == part.chunks
            assert parquet.schema_arrow.names == ["image_id", "uri", "chunk", "planned_error"]
    assert [made.locate(chunk) for chunk in (0, 3, 4, 10)] == [
        (made.parts[0].name, 0),
        (made.parts[0].name, 3),
        (made.parts[1].name, 0),
        (made.parts[2].name, 2),
    ]
    assert [made.chunk_rows(chunk) for chunk in (0, 9, 10)] == [10, 10, 3]
    for wrong in (-1, 11):
        with pytest.raises(IndexError, match="chunks 0 to 10"):
            made.read_chunk(store, wrong)


def test_parts_are_bounded_in_rows(store, monkeypatch):
    """Large chunks make small parts, so that memory stays bounded."""
    monkeypatch.setattr(plan, "_PART_ROWS", 50)
    assert [part.rows for part in make_plan(batches(distinct(100)), store, 30, None, {}).parts] == [30, 30, 30, 10]


def test_the_same_rows_give_the_same_objects(tmp_path):
    """Names, bytes and hash depend on the rows alone, not on how they came; other rows give another hash."""
    rows = [*distinct(500), *distinct(20), ("id3", "/other")]
    hashes = set()
    contents = []
    for number, size in enumerate((1000, 7, 64)):
        store = LocalStore(tmp_path / str(number))
        hashes.add(make_plan(batches(rows, size), store, 16, None, PINNED).hash)
        contents.append({name: store.read(name) for name in store.list("plan/")})
    assert contents[0] == contents[1] == contents[2]
    assert len(hashes) == 1
    for number, other in enumerate(([*rows, ("x", "/x")], rows[::-1], [*rows, ("id0", "/0.jpg")]), 10):
        hashes.add(make_plan(batches(other), LocalStore(tmp_path / str(number)), 16, None, PINNED).hash)
    hashes.add(make_plan(batches(rows), LocalStore(tmp_path / "chunks"), 17, None, PINNED).hash)
    assert len(hashes) == 5


def test_parts_are_named_by_their_content(store):
    """The name of a part holds the start of its sha256, and plan.json all of it."""
    made = make_plan(batches(distinct(10)), store, 4, None, {})
    for part in made.parts:
        assert hashlib.sha256(store.read(part.name)).hexdigest() == part.sha256
        assert part.name == f"plan/part-00000-{part.sha256[:8]}.parquet"
    assert hashlib.sha256(store.read(made.duplicates_name)).hexdigest() == made.duplicates_sha256
    assert made.duplicates_name == f"plan/duplicates-{made.duplicates_sha256[:8]}.parquet"


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (7, 7), (8, 8), (25, 25), (26, 25), (None, 25)])
def test_limit_is_the_first_rows_of_the_input(tmp_path, limit, expected):
    """The limit counts input rows, duplicates among them, and nothing behind it is read."""
    rows = [("same", "/same"), *distinct(24)]
    store = LocalStore(tmp_path)
    made = make_plan(batches(rows, 8), store, 4, limit, {})
    assert made.counts["input"] == expected
    assert [row[0] for row in planned_rows(store, made)] == [key for key, _ in rows[:expected]]

    def endless():
        yield from batches(rows, 8)
        pytest.fail("read behind the limit")

    assert make_plan(endless(), LocalStore(tmp_path / "other"), 4, 20, {}).counts["input"] == 20


def test_rows_of_a_chunk_may_depend_on_the_number_of_planned_rows(store):
    """A function is asked with the rows that are left without the duplicates."""
    asked = []
    rows = [*distinct(30), *distinct(5)]
    made = make_plan(batches(rows), store, lambda count: asked.append(count) or 7, None, {})
    assert asked == [30]
    assert (made.rows_per_chunk, made.chunks, made.chunk_rows(4)) == (7, 5, 2)


def test_kept_columns_keep_their_types(store):
    """Kept columns follow the plan's own, with types and nulls as they came."""
    kept = [
        pa.field("n", pa.int16()),
        pa.field("when", pa.timestamp("us", tz="UTC")),
        pa.field("list", pa.list_(pa.float32())),
        pa.field("large", pa.large_string()),
        pa.field("deep", pa.struct([("x", pa.bool_())])),
    ]
    schema = pa.schema([("image_id", pa.string()), ("uri", pa.string()), *kept])
    rows = [("a", "/a", 1, 0, [1.5], "x", {"x": True}), ("b", "/b", None, None, None, None, None)]
    made = make_plan(batches(rows, schema=schema), store, 1, None, {})
    table = pa.concat_tables(made.read_chunk(store, chunk) for chunk in (0, 1))
    assert made.column_names == ("image_id", "uri", "chunk", "planned_error", "n", "when", "list", "large", "deep")
    assert tuple(table.column_names) == made.column_names
    assert list(table.schema)[4:] == kept
    assert table["list"].to_pylist() == [[1.5], None]
    assert table.schema.field("chunk").type == pa.int64()
    assert table["planned_error"].null_count == 2


@pytest.mark.lengthy
def test_plan_is_small_and_can_be_sent(store):
    """Twenty thousand chunks are a few numbers; a copy in another process finds the same."""
    made = make_plan(batches(distinct(20_000), 5_000), store, 1, None, {})
    copy = pickle.loads(pickle.dumps(made))
    assert len(pickle.dumps(made)) < 10_000
    assert (copy.chunks, copy.hash, copy.locate(12_345)) == (20_000, made.hash, made.locate(12_345))
    assert copy.read_chunk(store, 12_345)["uri"].to_pylist() == ["/12345.jpg"]


def test_read_plan(store):
    """There is no plan, or the one that was made, with what was pinned."""
    assert read_plan(store) is None
    made = make_plan(batches(distinct(10)), store, 4, None, {"keep": ("a",), "floor": 0.1, "bild": "ü"})
    assert read_plan(store) == made
    assert made.pinned == {"keep": ["a"], "floor": 0.1, "bild": "ü"}
    document = json.loads(store.read(PLAN))
    assert document["counts"]["input"] == 10
    assert document["hash"] == made.hash


def damage(change):
    def apply(store):
        document = json.loads(store.read(PLAN))
        change(document)
        store.replace(PLAN, json.dumps(document).encode())

    return apply


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda store: store.replace(PLAN, store.read(PLAN)[:-40]), "damaged"),
        (lambda store: store.replace(PLAN, b"[]"), "damaged"),
        (
            lambda store: store.delete(read_plan(store).duplicates_name),
            "1 parts of the plan are missing, plan/duplicates",
        ),
        (lambda store: store.delete(next(name for name in store.list("plan/") if "part-" in name)), "plan/part-00000-"),
        (damage(lambda document: document.update(format_version=99)), "format version 99, this program reads 1"),
        (damage(lambda document: document.pop("counts")), "damaged"),
        (damage(lambda document: document["counts"].update(planned=9)), "do not fit"),
        (damage(lambda document: document["parts"][0].update(rows=9)), "do not fit"),
        (damage(lambda document: document["parts"][0].update(sha256="0" * 64)), "do not fit"),
        (damage(lambda document: document.update(parts=[])), "do not fit"),
        (damage(lambda document: document.update(rows_per_chunk=0)), "damaged"),
        (damage(lambda document: document["parts"][0].update(size=1)), "damaged"),
    ],
)
def test_a_damaged_plan_is_refused(store, break_it, words):
    """A plan that was cut, changed or lost a part is an error in one line, never another plan."""
    make_plan(batches(distinct(10)), store, 4, None, {})
    break_it(store)
    with pytest.raises(PlanError, match=words) as caught:
        read_plan(store)
    assert "\n" not in str(caught.value)
    assert store.root in str(caught.value)


def test_a_damaged_part_is_refused(store):
    """A part that cannot be read, or holds other rows, is an error that names it."""
    made = make_plan(batches(distinct(10)), store, 4, None, {})
    name = made.parts[0].name
    store.replace(name, b"PAR1 nonsense")
    with pytest.raises(PlanError, match=name):
        made.read_chunk(store, 0)
    store.delete(name)
    with pytest.raises(PlanError, match=name):
        made.read_chunk(store, 0)


def test_wrong_arguments(store):
    """What cannot be planned is refused before anything is written."""
    with pytest.raises(InputError, match="no rows"):
        make_plan(iter(()), store, 4, None, {})
    with pytest.raises(ValueError, match="limit=0"):
        make_plan(batches(distinct(1)), store, 4, 0, {})
    for wrong in (0, lambda rows: -1):
        with pytest.raises(ValueError, match="chunk_rows="):
            make_plan(batches(distinct(1)), store, wrong, None, {})
    with pytest.raises(ValueError, match="null"):
        make_plan(batches([(None, "/a")]), store, 4, None, {})
    with pytest.raises(TypeError):
        make_plan(batches(distinct(1)), store, 4, None, {"key": object()})
    assert list(store.list("plan/")) == []


def test_chunks_have_a_largest_size():
    """plan.chunk_rows is bounded: a chunk is what one process holds in memory."""
    assert load_config(None, ["plan.chunk_rows=4096"]).plan.chunk_rows == 4096
    for wrong in (0, 4097):
        with pytest.raises(ConfigError, match=f"plan.chunk_rows={wrong}:"):
            load_config(None, [f"plan.chunk_rows={wrong}"])


def test_the_second_planner_takes_the_plan_of_the_first(store):
    """Of two plans the first stays; the second planner gets it, and leaves nothing of its own behind."""
    first = make_plan(batches(distinct(50)), store, 4, None, {"who": "first"})
    objects = {name: store.read(name) for name in store.list("plan/")}
    rows = [*distinct(60), *distinct(3)]
    assert make_plan(batches(rows), store, 5, None, {"who": "second"}) == first
    assert {name: store.read(name) for name in store.list("plan/")} == objects


def test_planning_at_the_same_time(store):
    """Many planners of the same rows end with one and the same plan."""
    barrier = threading.Barrier(6)

    def race(number):
        barrier.wait()
        return make_plan(batches(distinct(300), 50), store, 7, None, {"who": number})

    with ThreadPoolExecutor(6) as pool:
        plans = list(pool.map(race, range(6)))
    assert all(one == plans[0] for one in plans)
    assert read_plan(store) == plans[0]
    assert len(planned_rows(store, plans[0])) == 300


def test_a_planner_that_is_overtaken_does_not_change_the_plan(store, monkeypatch):
    """Another planner that writes its plan at any moment keeps its duplicates; the loser's are removed."""
    upload = store.upload
    winner = LocalStore(store.root)
    first = []

    def overtaken(name, path):
        if not first:
            first.append(make_plan(batches([*distinct(30), *distinct(5)]), winner, 4, None, {"who": "first"}))
        return upload(name, path)

    monkeypatch.setattr(store, "upload", overtaken)
    made = make_plan(batches([*distinct(40), *distinct(7)]), store, 5, None, {"who": "second"})
    assert made == first[0]
    assert read_duplicates(store).num_rows == 5
    assert hashlib.sha256(store.read(made.duplicates_name)).hexdigest() == made.duplicates_sha256
    assert set(store.list("plan/")) == {PLAN, made.duplicates_name, *(part.name for part in made.parts)}


def test_planning_that_was_broken_off_is_begun_again(store):
    """Objects of planning that never ended, of the same or other rows, do not end up in the plan."""

    def broken_off(*_):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "_to_json", broken_off)
        for rows in (distinct(40), [*distinct(30), *distinct(5)]):
            with pytest.raises(KeyboardInterrupt):
                make_plan(batches(rows), store, 4, None, {})
    assert read_plan(store) is None
    rows = [*distinct(40), ("id7", "/7.jpg")]
    made = make_plan(batches(rows), store, 4, None, {})
    assert [row[:2] for row in planned_rows(store, made)] == rows[:40]
    assert read_duplicates(store).to_pydict() == {"image_id": ["id7"], "uri": ["/7.jpg"]}


def test_nothing_is_left_in_the_scratch_folder(store, tmp_path):
    """Temporary files go when the plan is made."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    make_plan(batches(distinct(100)), store, 4, None, {}, scratch)
    assert list(scratch.iterdir()) == []


@pytest.mark.lengthy
def test_a_million_rows(store):
    """A million rows with repeats are planned in their order, and add up."""
    numbers = pc.cast(pa.array([(number * 7919) % 900_000 for number in range(1_000_000)]), pa.string())
    table = pa.table({"image_id": numbers, "uri": numbers})
    made = make_plan(iter(table.to_batches(65_536)), store, 256, None, {})
    assert made.counts == {
        "input": 1_000_000,
        "duplicates": 100_000,
        "carried": 0,
        "rejected_ids": 0,
        "planned": 900_000,
        "chunks": 3516,
    }
    assert made.read_chunk(store, 0)["image_id"].to_pylist() == numbers[:256].to_pylist()
    assert made.read_chunk(store, 3515)["image_id"].to_pylist() == numbers[900_000 - 160 : 900_000].to_pylist()


@pytest.mark.parametrize(("rows", "replicas", "each"), [(5, 1, 16), (16_000, 10, 200), (10**8, 10, 256)])
def test_rows_of_a_chunk_by_the_work_of_a_replica(rows: int, replicas: int, each: int) -> None:
    """Eight chunks for each replica, neither tiny nor huge."""
    assert auto_chunk_rows(rows, replicas) == each
