"""A run in 16 bit is measured on the cluster before it is planned."""

import json
import shutil
from pathlib import Path

import pytest
from runs import Run, assert_adds_up, draw_pictures, finish
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.integration


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    draw_pictures(tmp_path / "pictures", 3)
    return tmp_path / "pictures"


def test_what_was_measured_is_in_the_run_document(pictures: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Backend, errors and bound; the run goes on in bf16."""
    run = Run(pictures, tmp_path / "run", tiny_bundle, ["model.dtype=bf16"])
    run.finish()
    assert_adds_up(run.out, 3)
    document = json.loads((run.out / "run.json").read_text())
    assert document["pinned"]["model.dtype"] == "bf16"
    assert document["parity"]["backend"] == document["parity"]["planned_dtype"] == "bf16"
    assert document["parity"]["max_error"] <= document["parity"]["bound"]["max_error"]


def test_a_model_that_errs_too_much_in_bf16_is_refused(pictures: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """Logits fifty times as large err fifty times as much; exit code 2, and nothing is planned."""
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    weights = load_file(bundle / "model.safetensors")
    save_file(weights | {"fc.weight": weights["fc.weight"] * 50}, bundle / "model.safetensors")
    output = finish(Run(pictures, tmp_path / "run", bundle, ["model.dtype=bf16"]).start(), 120, code=2)
    assert "model.dtype=bf16: bf16 on cpu is beyond its bound" in output.replace("\n", " ")
    assert not (tmp_path / "run/plan/plan.json").exists()
