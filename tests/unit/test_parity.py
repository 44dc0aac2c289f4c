"""The parity gate."""

import json

import goldens
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import ramcore
from jobs.model import app
from ramcore import parity
from ramcore.parity import Bound, builtin_pixels, check_parity


def _load(bundle):
    return ramcore.load(bundle, device="cpu", dtype="fp32")


@pytest.fixture(params=["ram_plus", "ram", "tag2text"])
def kind(request):
    return request.param


@pytest.fixture
def bundle(kind, request):
    return request.getfixturevalue("tiny_bundle" if kind == "ram_plus" else f"tiny_{kind}_bundle")


@pytest.mark.lengthy
def test_fp32_of_every_kind_is_within_its_bound(bundle):
    """All released kinds in fp32 are within 5e-5 of float64 and decide alike."""
    tagger = _load(bundle)
    (result,) = check_parity(tagger, ["fp32"], builtin_pixels(128))
    assert result.within_bound
    assert 0 < result.max_error <= 5e-5
    assert (result.flips, result.decisions, result.f1) == (0, 80, 1.0)


@pytest.mark.lengthy
def test_referee_is_the_reference_in_float64(kind, bundle):
    """Our float64 logits are those that the reference computed in float64, so the referee is no float32 in disguise."""
    golden = goldens.load_golden(f"tiny_{kind}")
    tagger = _load(bundle)
    pixels = goldens.model_pixels(golden)
    referee = parity._referee_logits(tagger, pixels)
    assert referee.dtype == torch.float64
    # The reference normalised in float64, we take the pixels as the models get them, normalised in float32.
    assert goldens.largest_difference(referee, golden["logits_f64"]) <= 1e-6


@pytest.mark.lengthy
def test_bf16_errs_more_and_is_judged_by_its_own_bound(bundle):
    """Each backend is measured separately, and bf16 of every kind is within its bound."""
    fp32, bf16 = check_parity(_load(bundle), ["fp32", "bf16"], builtin_pixels(128))
    assert bf16.within_bound
    assert bf16.max_error > 100 * fp32.max_error
    assert bf16.bound == parity.BOUNDS["bf16"]


def test_compiled_model_is_measured(tiny_ram_bundle, monkeypatch):
    """A "-compiled" backend calls what torch.compile made of both halves."""
    compiled = []

    def compile_stub(function):
        compiled.append(function.__name__)
        return lambda x: function(x) + (1e-3 if function.__name__ == "tag_logits" else 0)

    monkeypatch.setattr(torch, "compile", compile_stub)
    (result,) = check_parity(_load(tiny_ram_bundle), ["fp32-compiled"], builtin_pixels(128)[:1])
    assert compiled == ["image_embeds", "tag_logits"]
    assert result.max_error == pytest.approx(1e-3, rel=0.1)
    assert not result.within_bound


def test_decisions_that_flip_are_counted(tiny_ram_bundle):
    """A tag that fires on one side only is a flip and costs F1."""
    tagger = _load(tiny_ram_bundle)
    referee = torch.full((1, 20), -9.0, dtype=torch.float64)
    referee[0, :4] = 9
    logits = referee.clone()
    logits[0, 3] = -9
    result = parity._judge("fp32", "cpu", logits, referee, tagger.vocabulary, Bound(1, 1))
    assert (result.flips, result.f1, result.within_bound) == (1, pytest.approx(6 / 7), False)


def test_logits_that_are_not_finite_are_beyond_every_bound(tiny_ram_bundle):
    """NaN does not pass."""
    tagger = _load(tiny_ram_bundle)
    bad = torch.full((1, 20), torch.nan, dtype=torch.float64)
    result = parity._judge("fp32", "cpu", bad, torch.zeros_like(bad), tagger.vocabulary, Bound(9, 9))
    assert not result.within_bound


@pytest.mark.parametrize(
    ("backends", "pictures", "message"),
    [(["fp8"], 1, "backend is 'fp8': give fp32"), (["fp16"], 1, "no fp16 arithmetic"), (["fp32"], 0, "no picture")],
)
def test_wrong_arguments_are_refused(tiny_ram_bundle, backends, pictures, message):
    """Unknown or impossible backends and no pictures are errors."""
    with pytest.raises(ValueError, match=message):
        check_parity(_load(tiny_ram_bundle), backends, builtin_pixels(128)[:pictures])


@pytest.mark.lengthy
def test_command_prints_json(tiny_ram_bundle, tmp_path):
    """`model check --json` on a given picture exits 0 within the bounds."""
    path = tmp_path / "picture.png"
    goldens.as_picture(goldens.load_golden("tiny_ram")["image0"]).save(path)
    arguments = ["check", str(tiny_ram_bundle), "--backend", "fp32", "--pictures", str(path), "--json"]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    (document,) = json.loads(result.output)
    assert (document["backend"], document["decisions"], document["within_bound"]) == ("fp32", 20, True)


@pytest.mark.lengthy
def test_command_fails_beyond_the_bound(tiny_ram_bundle, monkeypatch):
    """`model check` exits 1, and the table says which backend."""
    monkeypatch.setattr(parity, "BOUNDS", parity.BOUNDS | {"fp32": Bound(1e-12, 1e-12)})
    result = CliRunner().invoke(
        app, ["check", str(tiny_ram_bundle), "--backend", "fp32", "--device", "cpu"], env={"COLUMNS": "160"}
    )
    assert result.exit_code == 1
    assert "beyond" in result.output


def test_command_refuses_unknown_backends(tiny_ram_bundle):
    """A bad argument is exit 2."""
    result = CliRunner().invoke(app, ["check", str(tiny_ram_bundle), "--backend", "fp8", "--device", "cpu"])
    assert result.exit_code == 2


@pytest.mark.gpu
def test_card_is_within_its_bounds(tiny_bundle):
    """On a CUDA card fp32, bf16 and fp16 are within their bounds."""
    tagger = ramcore.load(tiny_bundle, device="cuda", dtype="fp32")
    results = check_parity(tagger, parity.default_backends(tagger.device), builtin_pixels(128))
    assert [result.backend for result in results if not result.within_bound] == []


@pytest.mark.lengthy
def test_damaged_weights_do_not_pass_as_nothing(tiny_ram_bundle, tmp_path):
    """Weights that overflow fp32 in the model give no passing verdict."""
    import shutil

    copy = shutil.copytree(tiny_ram_bundle, tmp_path / "copy")
    state = load_file(copy / "model.safetensors")
    state["fc.bias"] = torch.full((1,), torch.inf)
    save_file(state, copy / "model.safetensors")
    (result,) = check_parity(_load(copy), ["fp32"], builtin_pixels(128)[:1])
    assert not result.within_bound
