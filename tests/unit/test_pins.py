"""What a run is pinned to."""

import pyarrow as pa
import pytest

from pipeline.config import load_config
from pipeline.errors import PinnedError
from pipeline.pins import check_pins, pins
from pipeline.plan import Plan, make_plan
from pipeline.stores.local_store import LocalStore


@pytest.fixture
def plan(tmp_path) -> Plan:
    rows = pa.RecordBatch.from_pydict({"image_id": ["a"], "uri": ["a"]})
    pinned = pins(load_config(), "photos", None, "hash") | {"model.dtype": "fp32"}
    return make_plan(iter([rows]), LocalStore(tmp_path), 16, None, pinned)


def test_the_same_request_is_accepted(plan: Plan) -> None:
    """Defaults stay what they were, and "auto" stands for what was resolved."""
    check_pins(plan, pins(load_config(), "photos", None, "hash"), "run")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.dtype=bf16", "model.dtype"),
        ("output.score_floor=0.2", "output.score_floor"),
        ("plan.chunk_rows=5", "plan"),
    ],
)
def test_other_results_are_refused_by_name(plan: Plan, override: str, named: str) -> None:
    """Each difference is a line with both values."""
    with pytest.raises(PinnedError, match=named):
        check_pins(plan, pins(load_config(None, [override]), "photos", None, "hash"), "run")


def test_input_limit_and_bundle_are_all_named(plan: Plan) -> None:
    """All differences are told at once."""
    with pytest.raises(PinnedError) as caught:
        check_pins(plan, pins(load_config(), "other", 5, "another hash"), "run")
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == ["INPUT", "--limit", "bundle"]


def test_a_relative_input_is_the_same_from_its_absolute_path(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory does not matter for who repeats the command."""
    from pathlib import Path

    check_pins(plan, pins(load_config(), str(Path("photos").absolute()), None, "hash"), "run")
