"""Released RAM and Tag2Text checkpoints, tied tensors and other image sizes."""

import os
import subprocess
import sys
from pathlib import Path

import goldens
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import ramcore
from ramcore.bundle import bundle_hash, read_vocabulary
from ramcore.checkpoint import read_checkpoint, translate_keys
from ramcore.config import ram_plus_preset, ram_preset, swin_l, tag2text_preset
from ramcore.convert import convert_checkpoint, resize_model
from ramcore.errors import BundleError, CheckpointError
from ramcore.infer_config import infer_config
from ramcore.relative_positions import resize_table
from ramcore.weights import describe_mismatch, expected_shapes

TOKENIZER = goldens.GOLDEN / "vocab_tiny.txt"


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", ["ram", "tag2text"])
def test_converted_checkpoint_gives_the_reference_logits_and_tags(kind, request):
    """Checkpoint with released names, aliases and leftovers → bundle → the reference's logits and tags."""
    golden = goldens.load_golden(f"tiny_{kind}")
    tagger = ramcore.load(request.getfixturevalue(f"tiny_{kind}_bundle"), device="cpu")
    logits = tagger.logits(goldens.model_pixels(golden))
    assert goldens.largest_difference(logits, golden["logits"]) <= goldens.LOGIT_TOLERANCE
    for n in range(2):
        picture = goldens.as_picture(golden[f"image{n}"])
        assert list(tagger.tag(picture).tag_ids) == list(golden[f"tags{n}"])


@pytest.mark.lengthy
def test_tagger_captions_are_the_reference_ones(tiny_tag2text_bundle):
    """From pixels to text, with predicted and with given tags, batched and one by one."""
    golden, texts = goldens.load_golden("tiny_tag2text"), goldens.load_golden("tiny_tag2text_caption")
    tagger = ramcore.load(tiny_tag2text_bundle, device="cpu")
    pixels = goldens.model_pixels(golden)
    scores, captions = tagger.scores_and_captions(pixels)
    assert captions == [str(texts[f"pred_img{n}_caption"]) for n in range(2)]
    assert torch.equal(scores, tagger.scores(pixels))
    assert tagger.captions(pixels[:1], ["dog,tree,water"]) == [str(texts["user_img0_caption"])]
    assert tagger.tag(goldens.as_picture(golden["image1"]), caption=True).caption == captions[1]
    assert tagger.captions(pixels[:0]) == []


def test_model_without_captions_says_so(tiny_ram_bundle):
    """Asking RAM for a caption names the kind that writes them."""
    tagger = ramcore.load(tiny_ram_bundle, device="cpu")
    assert not tagger.can_caption
    with pytest.raises(ValueError, match="kind ram writes no captions: use a tag2text bundle"):
        tagger.captions(np.zeros((1, 128, 128, 3), np.uint8))


@pytest.mark.lengthy
@pytest.mark.parametrize(
    ("kind", "preset", "num_tags"), [("ram", ram_preset, 4585), ("tag2text", tag2text_preset, 3429)]
)
def test_released_key_list_is_the_released_preset(kind, preset, num_tags):
    """All keys and shapes of a released checkpoint map onto our full model, none is left over."""
    meta = {key: torch.empty(shape, device="meta") for key, shape in goldens.released_shapes(kind).items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in translate_keys(meta, kind).items()}
    config = infer_config(kind, shapes, num_tags)
    assert config == preset()
    assert describe_mismatch(expected_shapes(config), shapes) == ""


def test_unused_parts_of_ram_are_not_stored(tiny_ram_bundle):
    """No tensor of RAM's two BERTs reaches the bundle."""
    keys = load_file(tiny_ram_bundle / "model.safetensors")
    assert not [key for key in keys if key.startswith(("tag_encoder", "text_decoder"))]


def test_tied_tensors_are_stored_once(tiny_tag2text_bundle):
    """The bundle has the tagging head's tensors, not the tag encoder's copies."""
    keys = load_file(tiny_tag2text_bundle / "model.safetensors")
    assert "tag_encoder.encoder.layer.1.attention.self.query.weight" in keys
    assert "tag_encoder.encoder.layer.1.output.dense.weight" not in keys
    assert "tag_encoder.encoder.layer.2.output.dense.weight" in keys
    assert "text_decoder.cls.predictions.decoder.weight" not in keys


_ALIAS = "tag_encoder.encoder.layer.1.output.dense.bias"


def test_copies_that_differ_are_refused(tiny_tag2text_release):
    """Two values for one tied tensor are no silent choice."""
    state = read_checkpoint(tiny_tag2text_release.checkpoint)
    state[_ALIAS] = state[_ALIAS] + 1
    with pytest.raises(CheckpointError, match=rf"tied tensors differ: {_ALIAS} and tagging_head"):
        translate_keys(state, "tag2text")


@pytest.mark.parametrize("missing", [_ALIAS, _ALIAS.replace("tag_encoder", "tagging_head")])
def test_one_name_of_a_tied_tensor_is_enough(tiny_tag2text_release, missing):
    """Either name gives the tensor."""
    state = read_checkpoint(tiny_tag2text_release.checkpoint)
    expected = state[missing]
    del state[missing]
    assert torch.equal(translate_keys(state, "tag2text")[_ALIAS.replace("tag_encoder", "tagging_head")], expected)


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", ["ram", "tag2text"])
def test_problems_of_every_kind_are_listed(kind, request, tmp_path):
    """Missing, unexpected and misshapen keys come at once for all kinds."""
    files = request.getfixturevalue(f"tiny_{kind}_release")
    state = read_checkpoint(files.checkpoint)
    del state["visual_encoder.norm.bias"]
    state |= {"clip.proj": torch.zeros(3), "visual_encoder.norm.weight": torch.zeros(7)}
    torch.save({"model": state}, tmp_path / "changed.pth")
    tokenizer = TOKENIZER if kind == "tag2text" else None
    with pytest.raises(CheckpointError) as caught:
        convert_checkpoint(kind, tmp_path / "changed.pth", files.tags, tmp_path / "out", tokenizer=tokenizer)
    for part in ("1 missing: visual_encoder.norm.bias", "1 unexpected: clip.proj", "1 misshapen: visual_encoder.norm"):
        assert part in str(caught.value)


def test_list_of_another_length_is_refused_for_ram(tiny_ram_release, tmp_path):
    """RAM has exactly one embedding per tag, so a divisor of their number is not enough."""
    (tmp_path / "tags.txt").write_text("\n".join("abcdefghij"))
    with pytest.raises(CheckpointError, match="label_embed has 20 rows, not the 10 tags in the list"):
        convert_checkpoint("ram", tiny_ram_release.checkpoint, tmp_path / "tags.txt", tmp_path / "out")


@pytest.mark.lengthy
def test_tag2text_needs_its_tokenizer(tiny_tag2text_release, tmp_path):
    """Without the vocab.txt, or with another one, nothing is written."""
    files = tiny_tag2text_release
    with pytest.raises(CheckpointError, match=r"needs one, the vocab\.txt of bert-base-uncased"):
        convert_checkpoint("tag2text", files.checkpoint, files.tags, tmp_path / "out")
    short = tmp_path / "vocab.txt"
    short.write_text("\n".join(TOKENIZER.read_text().split("\n")[:100]))
    with pytest.raises(BundleError, match=r"makes 102 tokens .* the model has 164"):
        convert_checkpoint("tag2text", files.checkpoint, files.tags, tmp_path / "out", tokenizer=short)
    assert not (tmp_path / "out").exists()


def test_tokenizer_belongs_to_the_bundle_and_its_hash(tiny_tag2text_bundle, tmp_path):
    """Another tokenizer is another model; a bundle without one does not load."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_tag2text_bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert bundle_hash(copy) == bundle_hash(tiny_tag2text_bundle)
    (copy / "vocab.txt").write_text((copy / "vocab.txt").read_text().replace("dog", "cow"))
    assert bundle_hash(copy) != bundle_hash(tiny_tag2text_bundle)
    (copy / "vocab.txt").unlink()
    with pytest.raises(BundleError, match=r"vocab\.txt is missing"):
        ramcore.load(copy, device="cpu")


@pytest.mark.lengthy
def test_tag2text_rules_follow_the_tag_names(tiny_tag2text_release, tmp_path):
    """Only a list that has the released names at the released places gets the released exceptions."""
    out = tmp_path / "out"
    files = tiny_tag2text_release
    convert_checkpoint("tag2text", files.checkpoint, files.tags, out, tokenizer=TOKENIZER)
    assert set(read_vocabulary(out).thresholds.tolist()) == {np.float32(0.68)}


@pytest.mark.skipif("RAMFLEET_UPSTREAM" not in os.environ, reason="RAMFLEET_UPSTREAM names no copy of the lists")
def test_released_tag2text_list_gets_the_released_exceptions():
    """The seven deleted tags never fire, person, man and woman take 0.7, the rest 0.68."""
    from ramcore import convert
    from ramcore.vocabulary import Vocabulary

    names = Path(os.environ["RAMFLEET_UPSTREAM"]) / "vocab" / "tag2text_ori_tag_list.txt"
    vocabulary = convert._with_tag2text_rules(Vocabulary.from_lists(names), thresholds_given=False)
    golden = goldens.load_golden("full_tag2text")
    expected = golden["class_threshold"].copy()
    expected[golden["delete_tag_index"]] = 1
    assert np.array_equal(vocabulary.thresholds, expected)


@pytest.mark.parametrize(("source", "window"), [(13, 12), (23, 7), (7, 12), (23, 12)])
def test_tables_of_another_window_equal_the_reference(source, window):
    """Relative positions between windows 4, 7 and 12 are the reference's to 1e-6."""
    golden = goldens.load_golden("relpos_interp")
    target = 2 * window - 1
    resized = resize_table(torch.from_numpy(golden[f"in_{source}_{target}"]), window)
    assert goldens.largest_difference(resized, golden[f"out_{source}_{target}"]) <= 1e-6


@pytest.mark.parametrize(("rows", "message"), [(50, "50 rows"), (9, "window 2 cannot be resized")])
def test_table_that_cannot_be_resized_is_refused(rows, message):
    """What is no square of distances, or too small for a cubic spline, is an error."""
    with pytest.raises(CheckpointError, match=message):
        resize_table(torch.zeros(rows, 2), 4)


@pytest.mark.lengthy
def test_checkpoint_converts_to_another_image_size(tiny_release, tmp_path):
    """A checkpoint for 128 pixels becomes a bundle for 224 that runs, its tables interpolated."""
    files, out = tiny_release, tmp_path / "out"
    config = convert_checkpoint("ram_plus", files.checkpoint, files.tags, out, image_size=224)
    assert (config.image_size, config.swin.window_size) == (224, 7)
    key = "visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table"
    state = read_checkpoint(files.checkpoint)
    assert torch.equal(load_file(out / "model.safetensors")[key], resize_table(state[key], 7))
    assert ramcore.load(out, device="cpu").scores(np.zeros((1, 224, 224, 3), np.uint8)).isfinite().all()


def test_full_model_resizes_between_its_released_sizes():
    """384 pixels and window 12 become 224 and window 7, which is the other preset."""
    config = ram_plus_preset()
    key = "visual_encoder.layers.0.blocks.0.attn.relative_position_bias_table"
    resized, state = resize_model(config, {key: torch.zeros(529, 6)}, 224)
    assert resized.swin == swin_l(224)
    assert state[key].shape == (169, 6)


_MEASURE = """
import re, sys
from pathlib import Path
from ramcore.convert import convert_checkpoint
folder = Path(sys.argv[1])
convert_checkpoint("ram_plus", folder / "x.pth", folder / "tags.txt", folder / "out")
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_conversion_needs_no_more_memory_than_the_checkpoint_and_one_gib(tmp_path):
    """Converting a full-size RAM++ peaks under its file size + 1 GiB, interpreter and libraries included."""
    state = {key: torch.zeros(shape) for key, shape in goldens.released_shapes().items()}
    torch.save({"model": state}, tmp_path / "x.pth")
    del state
    (tmp_path / "tags.txt").write_text("".join(f"tag {n}\n" for n in range(4585)))
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _MEASURE, str(tmp_path)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    peak, size = int(result.stdout) * 1024, (tmp_path / "x.pth").stat().st_size
    assert peak <= size + 2**30
