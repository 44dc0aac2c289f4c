"""What the benchmarks of the model compare with, and the one for cards."""

import json
from pathlib import Path

import goldens
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ramcore.describe import count_flops
from ramcore.ram_plus import RamPlus
from tests.bench import gpu
from tests.bench.plain_model import plain


@torch.inference_mode()
def test_the_baseline_computes_the_same_numbers(tiny_model: RamPlus) -> None:
    """As the reference does, and so do ours."""
    golden = goldens.load_golden("tiny_ram_plus")
    logits = plain(tiny_model)(torch.from_numpy(golden["preproc"]))
    assert goldens.largest_difference(logits, golden["logits"]) <= 5e-5


@pytest.mark.lengthy
@torch.inference_mode()
def test_the_baseline_has_the_same_operations(tiny_model: RamPlus) -> None:
    """As many as are counted for the model, but for the sum of descriptions, which it does without a matrix product."""
    config = tiny_model.config
    with FlopCounterMode(display=False) as counter:
        plain(tiny_model)(torch.zeros(1, 3, config.image_size, config.image_size))
    summed = 2 * config.num_descriptions * config.embed_dim
    assert counter.get_total_flops() == pytest.approx(sum(count_flops(config).values()) - summed, rel=1e-3)


@pytest.mark.lengthy
def test_the_script_for_cards_runs_on_a_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All ways with a small model: the table is printed, every way has a rate, and 16 bits have their error."""
    options = "--device cpu --small --dtypes bf16 --seconds 0.01 --microbatches 1 2 --no-compiled"
    gpu.main([*options.split(), "--out", str(tmp_path)])
    document = json.loads((tmp_path / "gpu.json").read_text())
    assert {row["path"] for row in document["rows"]} == {"plain", "fast", "unfused", "tagger"}
    assert all(row["images_per_s"] > 0 and row["failed"] is None for row in document["rows"])
    assert document["parity"]["fp32"]["max"] < 5e-5 < document["parity"]["bf16"]["max"] < 0.15
    assert "images/s" in capsys.readouterr().out
