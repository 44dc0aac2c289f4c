"""Pixels and pictures to scores and tags."""

import io
import weakref

import goldens
import numpy as np
import pytest
import torch
from PIL import Image

import ramcore
from ramcore.bundle import read_vocabulary
from ramcore.errors import ImageError
from ramcore.ram_plus import RamPlus
from ramcore.tagger import Tagger


@pytest.fixture(scope="module")
def tagger(tiny_bundle):
    return ramcore.load(tiny_bundle, device="cpu")


@pytest.fixture(scope="module")
def picture(tiny_golden):
    return Image.fromarray(tiny_golden["image0"])


def _png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_scores_are_the_sigmoid_of_the_golden_logits(tagger, tiny_golden):
    """uint8 in, float32 scores out, one row per image."""
    scores = tagger.scores(goldens.model_pixels(tiny_golden))
    assert scores.dtype == torch.float32
    assert not scores.requires_grad
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-tiny_golden["logits_f64"])), rtol=0, atol=1.5e-5)


def test_tags_come_in_vocabulary_order_with_names_and_scores(tagger, picture, tiny_golden):
    """A picture's tags are the reference's, each with Chinese name, id and a score over its threshold."""
    result = tagger.tag(picture)
    assert result.tags == ("person", "building", "bird", "table", "plate", "mountain")
    assert result.tags_zh == ("人", "建筑", "鸟", "桌子", "盘子", "山")
    assert list(result.tag_ids) == list(tiny_golden["tags0"])
    assert all(result.scores > tagger.vocabulary.thresholds[list(result.tag_ids)])


def test_picture_path_and_bytes_give_the_same_tags(tagger, picture, tmp_path):
    """A PIL image, its file and the file's bytes are tagged alike."""
    data = _png(picture)
    (tmp_path / "picture.png").write_bytes(data)
    expected = tagger.tag(picture)
    assert tagger.tag(data) == expected
    assert tagger.tag(tmp_path / "picture.png") == expected
    assert tagger.tag(str(tmp_path / "picture.png")) == expected


def test_score_equal_to_its_threshold_does_not_fire(tiny_model, tiny_bundle, picture):
    """The comparison is strictly greater, in float32."""
    vocabulary = read_vocabulary(tiny_bundle)
    tagger = Tagger(tiny_model, vocabulary)
    scores = tagger.scores(tagger.pixels(picture)[None])[0].numpy()
    exact = type(vocabulary)(vocabulary.tags, vocabulary.tags_zh, scores)
    assert Tagger(tiny_model, exact).tag(picture).tags == ()
    below = type(vocabulary)(vocabulary.tags, vocabulary.tags_zh, np.nextafter(scores, np.float32(0)))
    assert Tagger(tiny_model, below).tag(picture).tags == vocabulary.tags


def test_no_images_give_no_rows(tagger):
    """An empty batch, all of whose rows were rejected, is no error."""
    assert tagger.scores(np.empty((0, 128, 128, 3), np.uint8)).shape == (0, 20)


def test_file_that_is_no_picture_raises_image_error(tagger):
    """Broken bytes are an ImageError with a kind, not a crash."""
    with pytest.raises(ImageError):
        tagger.tag(b"not a picture")


@pytest.mark.lengthy
def test_overflow_in_fp16_is_computed_again_in_bf16(tiny_model, tiny_bundle, picture):
    """Logits beyond fp16's range come out finite and right."""
    state = {key: value.half() if value.ndim else value for key, value in tiny_model.state_dict().items()}
    state["fc.weight"] = state["fc.weight"] * 3e4
    before = state["label_embed"].clone()
    model = RamPlus.from_state(goldens.tiny_config(), state)
    tagger = Tagger(model, read_vocabulary(tiny_bundle))
    pixels = tagger.pixels(picture)[None]
    logits = tagger.logits(pixels)
    assert logits.isfinite().all()
    assert logits.abs().max() > torch.finfo(torch.float16).max
    assert torch.equal(model.label_embed, before)
    several = np.repeat(pixels, 3, axis=0)
    assert torch.equal(tagger.begin(several).scores(), logits.sigmoid().repeat(3, 1))


def test_vocabulary_of_another_length_is_refused(tiny_model, tiny_bundle):
    """Model and vocabulary have as many tags as each other."""
    with pytest.raises(ValueError, match="19 tags in the vocabulary, 20 in the model"):
        Tagger(tiny_model, read_vocabulary(tiny_bundle).subset(range(19)))


def test_model_without_a_bundle_has_no_hash(tiny_model, tiny_bundle):
    """A tagger made in memory does not pretend to an identity."""
    assert Tagger(tiny_model, read_vocabulary(tiny_bundle)).bundle_hash == ""


def test_a_tagger_computes_without_the_model_it_was_made_from(tiny_bundle):
    """The memory of the weights in their first layout is free, and the scores are the same."""
    tagger, pixels = ramcore.load(tiny_bundle, device="cpu"), np.full((2, 128, 128, 3), 99, np.uint8)
    before, weights = tagger.scores(pixels), weakref.ref(tagger.model.wordvec_proj.weight)
    tagger.release_model()
    assert weights() is None
    assert torch.equal(tagger.scores(pixels), before)
    assert not hasattr(tagger, "model")


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 5e-5), ("fp16", 0.03), ("bf16", 0.15)])
def test_card_gives_the_reference_logits(tiny_bundle, tiny_golden, dtype, tolerance):
    """On a CUDA card every dtype stays within its documented error."""
    tagger = ramcore.load(tiny_bundle, device="cuda", dtype=dtype)
    pixels = np.stack([tagger.pixels(Image.fromarray(tiny_golden[f"image{n}"])) for n in range(2)])
    assert goldens.largest_difference(tagger.logits(pixels).cpu(), tiny_golden["logits"]) <= tolerance
