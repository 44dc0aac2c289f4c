"""RAM++ against the reference implementation's numbers."""

import tempfile
import zlib
from pathlib import Path

import goldens
import numpy as np
import pytest
import torch
from goldens import LOGIT_TOLERANCE, largest_difference

import ramcore
from ramcore.config import ram_plus_preset
from ramcore.convert import convert_checkpoint
from ramcore.ram_plus import RamPlus
from ramcore.swin import set_fused_window_attention, visual_tokens
from ramcore.tagger import Tagger
from ramcore.weights import expected_shapes


def _over_threshold(logits, thresholds):
    return [list(np.flatnonzero(row > thresholds)) for row in logits.sigmoid().numpy()]


@torch.inference_mode()
def test_weight_rule_still_gives_the_recorded_tensors():
    """NumPy's random stream, which all goldens rest on, is unchanged."""
    for key, recorded in goldens.load_json("synth_checksums.json").items():
        if key in goldens.released_shapes() and np.prod(recorded["shape"]) < 1e6:
            values = goldens.synth(key, recorded["shape"])
            assert zlib.crc32(np.ascontiguousarray(values).tobytes()) == recorded["crc32"], key


@torch.inference_mode()
def test_intermediate_results_equal_the_reference(tiny_model, tiny_golden):
    """Visual tokens, embeddings, reweighted tags and head output agree, so an error is easy to place."""
    visual = visual_tokens(tiny_model.visual_encoder, torch.from_numpy(tiny_golden["preproc"]))
    embeds = tiny_model.image_proj(visual)
    assert largest_difference(visual, tiny_golden["visual"]) <= 1e-5
    assert largest_difference(embeds, tiny_golden["image_embeds"]) <= 1e-5
    assert largest_difference(tiny_model.reweight(embeds[:, 0]), tiny_golden["reweighted"]) <= 1e-6
    assert largest_difference(tiny_model.tagging_hidden(embeds), tiny_golden["tagging_hidden"]) <= 2e-5


@pytest.mark.lengthy
@torch.inference_mode()
@pytest.mark.parametrize("name", ["tiny_ram_plus", "tiny_ram_plus_openset"])
def test_logits_and_tags_equal_the_reference(name):
    """Closed and open set give the reference's logits and exactly its tags."""
    golden = goldens.load_golden(name)
    config = goldens.tiny_config(num_tags=golden["logits"].shape[1])
    model = RamPlus.from_state(config, goldens.synth_state(config, golden["fc_bias_override"]))
    logits = model(torch.from_numpy(golden["preproc"]))
    assert largest_difference(logits, golden["logits"]) <= LOGIT_TOLERANCE
    expected = [list(golden["tags0"]), list(golden["tags1"])]
    assert _over_threshold(logits, golden["class_threshold"]) == expected


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_logits_do_not_depend_on_the_batch(tiny_model, tiny_golden, batch):
    """An image has the same logits alone and among others."""
    order = [n % 2 for n in range(batch)]
    logits = tiny_model(torch.from_numpy(tiny_golden["preproc"][order]))
    assert largest_difference(logits, tiny_golden["logits"][order]) <= LOGIT_TOLERANCE


@torch.inference_mode()
def test_subset_of_tags_has_the_same_logits(tiny_model, tiny_golden):
    """Tags do not see each other: fewer of them, in any order, get the logits of the full model."""
    tag_ids = [17, 3, 0]
    pixels = torch.from_numpy(tiny_golden["preproc"])
    few, all_tags = tiny_model.subset(tag_ids)(pixels), tiny_model(pixels)[:, tag_ids]
    torch.testing.assert_close(few, all_tags, rtol=0, atol=5e-6)


@pytest.mark.parametrize("tag_ids", [[], [20], [-1]])
def test_subset_refuses_ids_that_are_not_there(tiny_model, tag_ids):
    """No ids, or ids outside the vocabulary, are an error that says which are allowed."""
    with pytest.raises(ValueError, match=r"0 … 19"):
        tiny_model.subset(tag_ids)


@torch.inference_mode()
def test_fused_window_attention_gives_the_same_logits(tiny_golden):
    """The memory-saving attention meant for GPUs computes the same."""
    config = goldens.tiny_config()
    model = RamPlus.from_state(config, goldens.synth_state(config, tiny_golden["fc_bias_override"]))
    set_fused_window_attention(model, True)
    logits = model(torch.from_numpy(tiny_golden["preproc"]))
    assert largest_difference(logits, tiny_golden["logits"]) <= LOGIT_TOLERANCE


@torch.inference_mode()
def test_bf16_stays_within_its_documented_error(tiny_model, tiny_golden):
    """bf16 logits are within 0.15 of the reference, 0.04 on average."""
    state = {key: tensor.bfloat16() for key, tensor in tiny_model.state_dict().items()}
    model = RamPlus.from_state(goldens.tiny_config(), state)
    logits = model(torch.from_numpy(tiny_golden["preproc"]).bfloat16()).float()
    error = (logits - torch.from_numpy(tiny_golden["logits"])).abs()
    assert error.max() <= 0.15
    assert error.mean() <= 0.04


@torch.inference_mode()
def test_reweighting_an_all_zero_token_gives_the_mean_description(tiny_model):
    """A token without direction, NaN in the reference, weighs all descriptions alike."""
    mixed = tiny_model.reweight(torch.zeros(1, 512))
    mean = tiny_model.label_embed.view(20, 5, 512).mean(dim=1)
    torch.testing.assert_close(mixed[0], mean)


def test_fresh_model_learns_every_parameter(tiny_golden):
    """A loss on the logits reaches every parameter, label_embed included."""
    torch.manual_seed(0)
    model = RamPlus(goldens.tiny_config())
    model(torch.from_numpy(tiny_golden["preproc"])).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_released_preset_has_the_released_number_of_parameters():
    """RAM++ Swin-L with 4,585 tags has 329,493,046 parameters."""
    assert sum(int(np.prod(shape)) for shape in expected_shapes(ram_plus_preset()).values()) == 329_493_046


@pytest.fixture(scope="module")
def full_tagger():
    """The full-size golden model through checkpoint and bundle; 2.6 GB of disk while it is made."""
    golden = goldens.load_golden("full_ram_plus")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, tags, out = (Path(folder) / name for name in ("full.pth", "tags.txt", "bundle"))
        thresholds = Path(folder) / "thresholds.txt"
        tags.write_text("".join(f"tag {n}\n" for n in range(4585)))
        thresholds.write_text("".join(f"{value}\n" for value in golden["class_threshold"]))
        state = {key: goldens.synth(key, shape) for key, shape in goldens.released_shapes().items()}
        tensors = {key: torch.from_numpy(value) for key, value in state.items() if value is not None}
        tensors["fc.bias"] = torch.full((1,), float(golden["fc_bias_override"]))
        torch.save({"model": tensors}, checkpoint)
        del state, tensors
        convert_checkpoint("ram_plus", checkpoint, tags, out, thresholds=thresholds)
        checkpoint.unlink()
        yield ramcore.load(out, device="cpu", dtype="fp32")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_full_size_model_equals_the_reference(full_tagger: Tagger):
    """Full RAM++ from a checkpoint with the released keys and shapes gives the reference's logits and tags."""
    golden = goldens.load_golden("full_ram_plus")
    for n in range(2):
        pixels = full_tagger.pixels(goldens.as_picture(golden[f"image{n}"]))
        logits = full_tagger.logits(pixels[None])
        assert largest_difference(logits, golden["logits"][n : n + 1]) <= LOGIT_TOLERANCE
        assert _over_threshold(logits, golden["class_threshold"]) == [list(golden[f"tags{n}"])]
