"""RAM against the reference implementation's numbers."""

import goldens
import numpy as np
import pytest
import torch
from goldens import LOGIT_TOLERANCE, largest_difference

from ramcore.config import ModelConfig, ram_preset
from ramcore.errors import BundleError
from ramcore.ram import Ram
from ramcore.swin import visual_tokens
from ramcore.weights import expected_shapes


@pytest.fixture(scope="module")
def golden():
    return goldens.load_golden("tiny_ram")


@pytest.fixture(scope="module")
def model(golden):
    config = goldens.tiny_config(kind="ram")
    return Ram.from_state(config, goldens.synth_state(config, golden["fc_bias_override"]))


@torch.inference_mode()
def test_intermediate_results_equal_the_reference(model, golden):
    """Visual tokens, embeddings and head output agree, so an error is easy to place."""
    visual = visual_tokens(model.visual_encoder, torch.from_numpy(golden["preproc"]))
    embeds = model.image_proj(visual)
    assert largest_difference(visual, golden["visual"]) <= 1e-5
    assert largest_difference(embeds, golden["image_embeds"]) <= 1e-5
    assert largest_difference(model.tagging_hidden(embeds), golden["tagging_hidden"]) <= 2e-5


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_logits_and_tags_equal_the_reference_in_any_batch(model, golden, batch):
    """Alone and among others, an image has the reference's logits and exactly its tags."""
    order = [n % 2 for n in range(batch)]
    logits = model(torch.from_numpy(golden["preproc"][order]))
    assert largest_difference(logits, golden["logits"][order]) <= LOGIT_TOLERANCE
    fired = [list(np.flatnonzero(row > golden["class_threshold"])) for row in logits.sigmoid().numpy()]
    assert fired == [list(golden[f"tags{n}"]) for n in order]


@torch.inference_mode()
def test_subset_of_tags_has_the_same_logits(model, golden):
    """Fewer tags, in any order, get the logits of the full model."""
    pixels = torch.from_numpy(golden["preproc"])
    few = model.subset([17, 3, 0])(pixels)
    torch.testing.assert_close(few, model(pixels)[:, [17, 3, 0]], rtol=0, atol=5e-6)


@torch.inference_mode()
def test_tags_are_projected_once_at_load(model, golden, monkeypatch):
    """No call of a loaded model projects label_embed again."""
    monkeypatch.setattr(model.wordvec_proj, "forward", None)
    monkeypatch.setattr(model.tagging_head.layers[0].crossattention.self.query, "forward", None)
    logits = model(torch.from_numpy(golden["preproc"]))
    assert largest_difference(logits, golden["logits"]) <= LOGIT_TOLERANCE


def test_training_forgets_what_was_computed_at_load(golden):
    """Changed weights change the logits once the model was in training mode, and every parameter learns."""
    config = goldens.tiny_config(kind="ram")
    model = Ram.from_state(config, goldens.synth_state(config, golden["fc_bias_override"])).train()
    pixels = torch.from_numpy(golden["preproc"])
    model(pixels).sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    before = model.eval()(pixels)
    with torch.no_grad():
        model.label_embed.mul_(2)
    assert (model(pixels) - before).abs().max() > 0.1


def test_released_preset_has_the_released_sizes():
    """RAM Swin-L without its unused BERTs is its visual encoder, head and 4,585 embeddings."""
    shapes = expected_shapes(ram_preset())
    unused = ("tag_encoder.", "text_decoder.")
    released = {k: s for k, s in goldens.released_shapes("ram").items() if not k.startswith(unused)}
    buffers = ("relative_position_index", "attn_mask")
    kept = {key: shape for key, shape in released.items() if not key.endswith(buffers)}
    assert {goldens.released_key(key): shape for key, shape in shapes.items()} == kept


def test_ram_has_one_embedding_per_tag():
    """Several descriptions per tag are RAM++'s and are refused for RAM."""
    with pytest.raises(BundleError, match="descriptions_per_tag is 5: give 1 for kind ram"):
        ModelConfig(**(vars(goldens.tiny_config(kind="ram")) | {"descriptions_per_tag": 5}))
