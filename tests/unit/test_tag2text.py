"""Tag2Text's tags and captions against the reference implementation's."""

import re

import goldens
import numpy as np
import pytest
import torch
from goldens import GOLDEN, LOGIT_TOLERANCE, largest_difference

from ramcore.beam import BeamRules, beam_search
from ramcore.captions import Captioner, given_tags
from ramcore.checkpoint import translate_keys
from ramcore.config import tag2text_preset
from ramcore.errors import BundleError
from ramcore.infer_config import infer_config
from ramcore.preprocess import normalise
from ramcore.tag2text import Tag2Text
from ramcore.tokenizer import Tokenizer
from ramcore.weights import expected_shapes


@pytest.fixture(scope="module")
def golden():
    return goldens.load_golden("tiny_tag2text")


@pytest.fixture(scope="module")
def captions():
    return goldens.load_golden("tiny_tag2text_caption")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(GOLDEN / "vocab_tiny.txt")


def _model(**changes):
    config = goldens.tiny_config(kind="tag2text")
    return Tag2Text.from_state(config, goldens.synth_state(config) | changes)


@pytest.fixture(scope="module")
def model():
    return _model()


@pytest.fixture(scope="module")
def image_embeds(model, golden):
    with torch.inference_mode():
        return model.image_embeds(torch.from_numpy(golden["preproc"]))


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_logits_and_tags_equal_the_reference_in_any_batch(model, golden, batch):
    """An image has the reference's logits, and but for the deleted ones exactly its tags."""
    order = [n % 2 for n in range(batch)]
    logits = model(torch.from_numpy(golden["preproc"][order]))
    assert largest_difference(logits, golden["logits"][order]) <= LOGIT_TOLERANCE
    thresholds = golden["class_threshold"].copy()
    thresholds[golden["delete_tag_index"]] = 1
    fired = [list(np.flatnonzero(row > thresholds)) for row in logits.sigmoid().numpy()]
    assert fired == [list(golden[f"tags{n}"]) for n in order]


@torch.inference_mode()
def test_subset_of_tags_has_the_same_logits(model, golden):
    """Embeddings and classifiers go with their tags."""
    pixels = torch.from_numpy(golden["preproc"])
    few = model.subset([17, 3, 0])(pixels)
    torch.testing.assert_close(few, model(pixels)[:, [17, 3, 0]], rtol=0, atol=5e-6)


@torch.inference_mode()
@pytest.mark.parametrize(("case", "image"), [("pred_img0", 0), ("pred_img1", 1), ("user_img0", 0)])
def test_tag_encoder_and_first_step_equal_the_reference(model, captions, tokenizer, image_embeds, case, image):
    """Token ids, mask, the tag encoder's output and the decoder's first logits are the reference's."""
    tokens, mask = tokenizer.tags(str(captions[f"{case}_tags"]), 40)
    assert tokens == list(captions[f"{case}_enc_ids"])
    assert mask == list(captions[f"{case}_enc_mask"])
    memory = model.encode_tags(torch.tensor([tokens]), torch.tensor([mask]), image_embeds[[image]])
    assert largest_difference(memory[0], captions[f"{case}_tag_encoder_out"]) <= 2e-5
    prompt = tokenizer.prompt("a picture of ")
    assert [prompt] == captions[f"{case}_prompt_in"].tolist()
    logits = model.text_decoder(torch.tensor([prompt]), model.text_decoder.start(memory))
    assert largest_difference(logits[0], captions[f"{case}_first_logits"]) <= LOGIT_TOLERANCE


@pytest.mark.parametrize(
    ("case", "image", "max_length"),
    [("pred_img0", 0, 50), ("pred_img1", 1, 50), ("user_img0", 0, 50), ("pred_img0_max30", 0, 30)],
)
def test_caption_equals_the_reference(model, captions, tokenizer, image_embeds, case, image, max_length):
    """Token by token, beam search writes what the reference wrote."""
    captioner, rules = Captioner(model, tokenizer), BeamRules(max_length=max_length)
    tags = [str(captions[f"{case}_tags"])]
    ids = captioner.caption_ids(image_embeds[[image]], tags, rules)
    assert ids == [captions[f"{case}_ids"].tolist()]
    assert captioner.captions(image_embeds[[image]], tags, rules) == [str(captions[f"{case}_caption"])]


@pytest.mark.parametrize(("case", "min_length"), [("eos_img1", 10), ("eos_img1_min20", 20)])
def test_caption_that_ends_early_equals_the_reference(captions, golden, tokenizer, case, min_length):
    """End marks, length scores and the shortest length follow the reference's rules."""
    bias = goldens.synth_state(goldens.tiny_config(kind="tag2text"))["text_decoder.cls.predictions.bias"]
    bias[3] = float(captions["eos_sep_bias"])
    captioner = Captioner(_model(**{"text_decoder.cls.predictions.bias": bias}), tokenizer)
    with torch.inference_mode():
        embeds = captioner.model.image_embeds(torch.from_numpy(golden["preproc"][[1]]))
    ids = captioner.caption_ids(embeds, [str(captions["pred_img1_tags"])], BeamRules(min_length=min_length))
    assert ids == [captions[f"{case}_ids"].tolist()]
    if case == "eos_img1":
        assert captioner.tokenizer.text(ids[0])[13:] == str(captions["eos_img1_caption"])


def test_captions_of_a_batch_are_those_of_single_images(model, captions, tokenizer, image_embeds):
    """Unlike in the reference, the second image does not get the first one's caption."""
    tags = [str(captions[f"pred_img{n}_tags"]) for n in range(2)]
    ids = Captioner(model, tokenizer).caption_ids(image_embeds[[1, 0, 1]], [tags[1], tags[0], tags[1]])
    assert ids == [captions[f"pred_img{n}_ids"].tolist() for n in (1, 0, 1)]


@pytest.mark.lengthy
def test_images_that_end_at_different_times_do_not_disturb_each_other(captions, golden, tokenizer):
    """In a batch with early and late ends every image gets its own caption."""
    bias = goldens.synth_state(goldens.tiny_config(kind="tag2text"))["text_decoder.cls.predictions.bias"]
    bias[3] = float(captions["eos_sep_bias"])
    captioner = Captioner(_model(**{"text_decoder.cls.predictions.bias": bias}), tokenizer)
    with torch.inference_mode():
        embeds = captioner.model.image_embeds(torch.from_numpy(golden["preproc"]))
    tags = ["dog", "w001 | bird"]
    alone = [captioner.caption_ids(embeds[[n]], [tags[n]])[0] for n in range(2)]
    assert captioner.caption_ids(embeds, tags) == alone


def test_given_tags_are_one_text():
    """Commas become the bar that the model was trained with."""
    assert given_tags("dog,tree,water") == "dog | tree | water"


@pytest.mark.parametrize(("text", "ids"), [("a dog", [6, 16]), ("Dogs!", [16, 35, 1]), ("café", [1]), ("", [])])
def test_tokenizer_lowers_and_splits(tokenizer, text, ids):
    """Word pieces are uncased; what the vocabulary lacks is [UNK]."""
    assert tokenizer.prompt(text)[1:] == ids


def test_long_tags_are_cut(tokenizer):
    """Forty tokens at most, the end mark included."""
    ids, mask = tokenizer.tags(" | ".join(["dog"] * 60), 40)
    assert (len(ids), ids[0], ids[-1], sum(mask)) == (40, tokenizer.tags_id, tokenizer.end_id, 40)


def test_text_joins_what_the_tokenizer_set_apart(tmp_path):
    """Pieces and punctuation are put together again, special tokens left out."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "##s", ",", "don", "n't", ".", "'"]
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(words), encoding="utf-8")
    assert Tokenizer(path).text([12, 5, 6, 7, 8, 9, 10, 3]) == "dogs, donn't."


@pytest.mark.parametrize(
    ("text", "why"), [("a\nb\n", r"\[PAD\], .* missing"), ("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na", "occurs twice")]
)
def test_file_that_is_no_vocabulary_is_refused(tmp_path, text, why):
    """A wrong tokenizer file is named with what it lacks."""
    (tmp_path / "vocab.txt").write_text(text)
    with pytest.raises(BundleError, match=why):
        Tokenizer(tmp_path / "vocab.txt")


@pytest.mark.parametrize(
    ("arguments", "message"), [({"beams": 0}, "beams is 0"), ({"min_length": 60}, "min_length is 60: give at most")]
)
def test_impossible_beam_rules_are_refused(arguments, message):
    """Rules that cannot be met are an error at once."""
    with pytest.raises(ValueError, match=message):
        BeamRules(**arguments)


def test_prompt_that_leaves_no_room_is_refused():
    """A prompt of the longest length cannot be continued."""
    with pytest.raises(ValueError, match="give more than the prompt's 4 tokens"):
        beam_search(lambda *_: None, torch.zeros(1, 4, dtype=torch.int64), 3, BeamRules(min_length=1, max_length=4))


@pytest.mark.lengthy
def test_released_preset_has_the_released_number_of_parameters():
    """Tag2Text Swin-B has 372,007,193 parameters, tied ones counted once."""
    shapes = expected_shapes(tag2text_preset())
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 372_007_193
    released = {goldens.canonical(key): shape for key, shape in goldens.released_shapes("tag2text").items()}
    buffers = re.compile("relative_position_index|attn_mask|position_ids")
    kept = {key: shape for key, shape in released.items() if not buffers.search(key)}
    assert {goldens.released_key(key): shape for key, shape in shapes.items()} == kept


@pytest.mark.slow
@pytest.mark.timeout(900)
@torch.inference_mode()
def test_full_size_model_equals_the_reference():
    """Full Tag2Text with the released keys, aliases and shapes gives the reference's logits and tags."""
    golden = goldens.load_golden("full_tag2text")
    released = goldens.released_shapes("tag2text")
    values = {key: goldens.synth(key, released[key]) for key in {goldens.canonical(key) for key in released}}
    tensors = {key: torch.from_numpy(value) for key, value in values.items() if value is not None}
    checkpoint = {key: tensors[goldens.canonical(key)] for key in released if goldens.canonical(key) in tensors}
    state = translate_keys(checkpoint, "tag2text")
    config = infer_config("tag2text", {key: tuple(tensor.shape) for key, tensor in state.items()}, 3429)
    model = Tag2Text.from_state(config, state)
    pixels = [np.array(goldens.as_picture(golden[f"image{n}"]).resize((384, 384), 2)) for n in range(2)]
    logits = model(normalise(np.stack(pixels), 384, config.image_mean, config.image_std))
    assert largest_difference(logits, golden["logits"]) <= LOGIT_TOLERANCE
    thresholds = golden["class_threshold"].copy()
    thresholds[golden["delete_tag_index"]] = 1
    fired = [list(np.flatnonzero(row > thresholds)) for row in logits.sigmoid().numpy()]
    assert fired == [list(golden[f"tags{n}"]) for n in range(2)]
