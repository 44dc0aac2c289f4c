"""Whether a run may be planned in 16 bit; the measuring itself is tested with ramcore.parity."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline import parity_gate
from pipeline.cards.placement import Placement
from pipeline.cards.slot_policy import Slot
from pipeline.config import load_config
from pipeline.errors import ConfigError
from pipeline.parity_gate import checked_dtype, measure, recorded_parity
from pipeline.stores.local_store import LocalStore

SLOT = Slot("n/0", "n", "cpu", "cpu", Placement("cpu", 1, 1, 0, "fp32", 4))


@pytest.fixture
def check(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def check(within_bound: bool, dtype: str, *options: str) -> tuple[str, str, dict[str, Any] | None]:
        """The dtype to plan with, what was said, and what was written down."""
        found = measure(str(tiny_bundle), "bf16", "cpu", 1, 1) | {"within_bound": within_bound}
        monkeypatch.setattr(parity_gate, "_measured", lambda slot, bundle, backend, *_: found | {"asked": backend})
        store, said = LocalStore(tmp_path), io.StringIO()
        config = load_config(None, options)
        chosen = checked_dtype(store, config, tiny_bundle, dtype, [SLOT], Console(file=said, width=400))
        return chosen, said.getvalue(), recorded_parity(store)

    return check


@pytest.mark.lengthy
def test_within_the_bound_is_taken_and_written_down(check: Any) -> None:
    """With the errors that were measured."""
    chosen, said, record = check(True, "bf16", "model.dtype=bf16")
    assert (chosen, said) == ("bf16", "")
    assert record["planned_dtype"] == record["backend"] == "bf16"
    assert 0 < record["max_error"] < 1


@pytest.mark.lengthy
def test_beyond_the_bound_is_refused(check: Any) -> None:
    """Key, errors, bounds and both remedies are named."""
    with pytest.raises(
        ConfigError, match=r"model\.dtype=bf16: .* 0\.15 and 0\.05 .*model\.dtype=fp32, or model\.force"
    ):
        check(False, "bf16", "model.dtype=bf16")


@pytest.mark.lengthy
def test_force_goes_on_and_says_so(check: Any) -> None:
    """The record keeps that it was beyond the bound."""
    chosen, said, record = check(False, "bf16", "model.dtype=bf16", "model.force=true")
    assert chosen == "bf16"
    assert "beyond its bound" in said
    assert not record["within_bound"]


@pytest.mark.lengthy
def test_auto_beyond_the_bound_becomes_fp32(check: Any) -> None:
    """Nobody asked for 16 bit, so that nobody is refused."""
    chosen, said, record = check(False, "fp16")
    assert chosen == record["planned_dtype"] == "fp32"
    assert "the run takes fp32" in said


@pytest.mark.lengthy
def test_fp32_is_not_measured(check: Any) -> None:
    """It costs nothing where it is not needed."""
    assert check(False, "fp32") == ("fp32", "", None)


@pytest.mark.lengthy
def test_a_compiled_model_is_measured_and_refused_beyond_its_bound(check: Any) -> None:
    """Whatever its number type, and the remedy is not to compile."""
    for dtype in ("fp32", "bf16"):
        record = check(True, dtype, "model.compile=true")[2]
        assert (record["planned_dtype"], record["asked"]) == (dtype, f"{dtype}-compiled")
    with pytest.raises(ConfigError, match=r"model\.compile=true: .*Give model\.compile=false, or model\.force"):
        check(False, "fp32", "model.compile=true")


@pytest.mark.lengthy
def test_large_models_are_not_measured_on_cpus(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line says so."""
    monkeypatch.setattr(parity_gate, "LARGE_MODEL", 1000)
    chosen, said, record = check(False, "bf16", "model.dtype=bf16")
    assert chosen == "bf16"
    assert "is not checked" in said
    assert record is None


@pytest.mark.lengthy
def test_the_record_is_json(check: Any) -> None:
    """As run.json takes it."""
    assert json.loads(json.dumps(check(True, "bf16")[2]))["bound"] == {"max_error": 0.15, "mean_error": 0.05}
