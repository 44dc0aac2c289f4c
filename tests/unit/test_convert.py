"""Released checkpoints to bundles."""

import io
import os
import pickle
import zipfile

import goldens
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ramcore
from ramcore.checkpoint import read_checkpoint, translate_keys
from ramcore.config import ram_plus_preset
from ramcore.convert import convert_checkpoint
from ramcore.errors import BundleError, CheckpointError
from ramcore.infer_config import infer_config
from ramcore.weights import describe_mismatch, expected_shapes


@pytest.fixture
def convert(tiny_release, tmp_path):
    """Convert a changed copy of the tiny release; `change` edits its state dict in place."""

    def run(change=None, **arguments):
        checkpoint = tiny_release.checkpoint
        if change is not None:
            state = read_checkpoint(checkpoint)
            change(state)
            checkpoint = tmp_path / "changed.pth"
            torch.save({"model": state}, checkpoint)
        arguments = {"kind": "ram_plus", "tags": tiny_release.tags, "out": tmp_path / "out"} | arguments
        return convert_checkpoint(checkpoint=checkpoint, **arguments)

    return run


def _rename(state, old, new):
    for key in [key for key in state if old in key]:
        state[key.replace(old, new)] = state.pop(key)


@pytest.mark.lengthy
def test_converted_checkpoint_gives_the_reference_logits(tiny_bundle, tiny_golden):
    """Checkpoint with released names, buffers and leftovers → bundle → the reference's logits and tags."""
    tagger = ramcore.load(tiny_bundle, device="cpu")
    for n, pixels in enumerate(goldens.model_pixels(tiny_golden)):
        logits = tagger.logits(pixels[None])
        assert goldens.largest_difference(logits, tiny_golden["logits"][n : n + 1]) <= goldens.LOGIT_TOLERANCE
        assert list(tagger.tag(goldens.as_picture(tiny_golden[f"image{n}"])).tag_ids) == list(tiny_golden[f"tags{n}"])


@pytest.mark.lengthy
def test_released_key_list_is_the_released_preset():
    """All 402 keys and shapes of a released RAM++ map onto our full model, none is left over."""
    meta = {key: torch.empty(shape, device="meta") for key, shape in goldens.released_shapes().items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in translate_keys(meta).items()}
    config = infer_config("ram_plus", shapes, num_tags=4585)
    assert config == ram_plus_preset("swin_l", 384)
    assert describe_mismatch(expected_shapes(config), shapes) == ""


@pytest.mark.lengthy
def test_bare_state_dict_converts(tiny_release, tmp_path, convert):
    """A file that is the state dict itself is as good as one that has it under "model"."""
    bare = tmp_path / "bare.pth"
    torch.save(read_checkpoint(tiny_release.checkpoint), bare)
    config = convert_checkpoint("ram_plus", bare, tiny_release.tags, tmp_path / "out")
    assert config == goldens.tiny_config()


@pytest.mark.lengthy
def test_file_of_old_torch_converts(tiny_release, tmp_path):
    """torch.save's format before 1.6 is read, too."""
    old = tmp_path / "old.pth"
    torch.save(read_checkpoint(tiny_release.checkpoint), old, _use_new_zipfile_serialization=False)
    config = convert_checkpoint("ram_plus", old, tiny_release.tags, tmp_path / "out")
    assert config == goldens.tiny_config()


@pytest.mark.lengthy
def test_old_name_of_the_head_is_translated(convert):
    """vision_multi is tagging_head, wherever it stands in a key."""
    assert convert(lambda state: _rename(state, "tagging_head", "vision_multi")) == goldens.tiny_config()


def test_keys_that_mean_the_same_tensor_are_refused(convert):
    """A tensor under its old and its new name is no silent choice."""

    def duplicate(state):
        key = "tagging_head.encoder.layer.0.intermediate.dense.bias"
        state[key.replace("tagging_head", "vision_multi")] = state[key]

    with pytest.raises(CheckpointError, match=r"two keys .* tagging_head\.encoder\.layer\.0\.intermediate"):
        convert(duplicate)


def test_missing_unexpected_and_misshapen_keys_are_listed(convert, tmp_path):
    """All problems are named at once, in the bundle's names, and nothing is written."""

    def damage(state):
        del state["visual_encoder.layers.0.downsample.norm.bias"]
        state["clip.visual.proj"] = torch.zeros(3)
        state["fc.weight"] = torch.zeros(2, 96)

    with pytest.raises(CheckpointError) as caught:
        convert(damage)
    message = str(caught.value)
    assert "1 missing: visual_encoder.layers.1.downsample.norm.bias" in message
    assert "1 unexpected: clip.visual.proj" in message
    assert "1 misshapen: fc.weight [2, 96] instead of [1, 96]" in message
    assert not (tmp_path / "out").exists()


def test_long_lists_of_keys_are_cut(convert):
    """Twenty keys are named, the rest is counted."""

    def damage(state):
        state.update({f"clip.{n}": torch.zeros(1) for n in range(33)})

    with pytest.raises(CheckpointError, match=r"33 unexpected: clip\.0, .*clip\.19 and 13 more"):
        convert(damage)


def test_checkpoint_of_another_model_says_what_it_lacks(convert):
    """Without the tensors that sizes are read from, their keys are the message."""
    with pytest.raises(CheckpointError, match=r"no ram_plus checkpoint: missing or misshapen label_embed, "):
        convert(lambda state: _rename(state, "", "resnet."))


def test_tag_list_of_another_length_is_refused(convert, tmp_path):
    """Rows of label_embed and tags of the list are both named."""
    tags = tmp_path / "tags.txt"
    tags.write_text("dog\ncat\ncar\n")
    with pytest.raises(CheckpointError, match="label_embed has 100 rows, not a multiple of the 3 tags"):
        convert(tags=tags)


def test_image_size_that_the_stages_do_not_divide_is_refused(convert):
    """A size without whole windows is refused with the sizes that have some."""
    with pytest.raises(CheckpointError, match=r"image size 100 asked for: .*give a multiple of 32"):
        convert(image_size=100)


def test_image_size_of_the_window_is_accepted(convert):
    """Naming the checkpoint's own size changes nothing."""
    assert convert(image_size=128).image_size == 128


class _RunsCode:
    def __reduce__(self):
        return (eval, ("1 + 1",))


def test_pickle_that_would_run_code_is_refused(tiny_release, tmp_path):
    """A checkpoint with arbitrary objects is not loaded, and the message says what to do."""
    path = tmp_path / "evil.pth"
    torch.save({"model": {"fc.bias": torch.zeros(1)}, "args": _RunsCode()}, path)
    with pytest.raises(CheckpointError, match=r"was refused: .*eval.*torch\.save\("):
        convert_checkpoint("ram_plus", path, tiny_release.tags, tmp_path / "out")


@pytest.mark.parametrize(
    "data",
    [b"", b"hello there", b"<!DOCTYPE html><html></html>", b"PK\x03\x04" + bytes(50), pickle.dumps({"a": 1})],
    ids=["empty", "text", "html", "zip", "pickle"],
)
def test_file_that_is_no_checkpoint_is_named(tiny_release, tmp_path, data):
    """Broken downloads and other files are a CheckpointError with the path."""
    path = tmp_path / "broken.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"broken\.pth is not a complete file of torch\.save"):
        convert_checkpoint("ram_plus", path, tiny_release.tags, tmp_path / "out")


def test_truncated_checkpoint_is_named(tiny_release, tmp_path):
    """Half a checkpoint is an error, not half a model."""
    path = tmp_path / "half.pth"
    path.write_bytes(tiny_release.checkpoint.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"half\.pth is not a complete file"):
        convert_checkpoint("ram_plus", path, tiny_release.tags, tmp_path / "out")


@pytest.mark.parametrize(("document", "message"), [([1], "no state dict"), ({"a": 1}, "a are no tensors")])
def test_file_without_tensors_is_refused(tmp_path, document, message):
    """A torch.save file of something else is said to be that."""
    torch.save(document, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "other.pth")


def test_missing_checkpoint_is_named(tiny_release, tmp_path):
    """A path without a file is said to be that."""
    with pytest.raises(CheckpointError, match=r"nowhere\.pth is not a file"):
        convert_checkpoint("ram_plus", tmp_path / "nowhere.pth", tiny_release.tags, tmp_path / "out")


def test_folder_in_use_is_refused_before_any_work(convert, tmp_path):
    """An existing bundle or other folder is not overwritten."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(BundleError, match="out is not empty"):
        convert()


def test_unknown_kind_is_refused(convert):
    """A kind that does not exist is named with those that do."""
    with pytest.raises(CheckpointError, match="this version runs ram_plus, ram, tag2text"):
        convert(kind="yolo")


def test_damaged_checkpoint_is_refused(tiny_release, tmp_path):
    """One flipped byte among the weights, which torch.load would take, is found by its checksum."""
    data = bytearray(tiny_release.checkpoint.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / "flipped.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"flipped\.pth is damaged \(checksum of .*\): fetch it again"):
        convert_checkpoint("ram_plus", path, tiny_release.tags, tmp_path / "out")


@pytest.mark.lengthy
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@settings(max_examples=100, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_any_damage_to_an_archive_is_a_checkpoint_error(tmp_path_factory, method, changes):
    """However the archive was packed and wherever its bytes have changed, no other error comes out."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("archive/data.pkl", b"weights " * 40)
        archive.writestr("archive/data/0", bytes(range(256)))
    data = bytearray(packed.getvalue())
    for position, value in changes:
        data[position % len(data)] = value
    path = tmp_path_factory.mktemp("damaged") / "x.pth"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"fetch it again|was refused|holds no state dict"):
        read_checkpoint(path)


def test_function_of_a_blocked_module_is_said_to_be_refused(tiny_release, tmp_path):
    """os.system gets the same words as any other object, not those of a broken download."""

    class RunsShell:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path}/ran",))

    torch.save({"model": {"fc.bias": RunsShell()}}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"was refused: .*system"):
        convert_checkpoint("ram_plus", tmp_path / "evil.pth", tiny_release.tags, tmp_path / "out")
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_no_floats_are_named(tiny_release, tmp_path):
    """A quantised checkpoint is refused by key and dtype."""
    state = torch.load(tiny_release.checkpoint, weights_only=True)["model"]
    torch.save(state | {"fc.weight": state["fc.weight"].to(torch.int8)}, tmp_path / "int.pth")
    with pytest.raises(CheckpointError, match=r"fc\.weight \(torch\.int8\) hold no floats"):
        convert_checkpoint("ram_plus", tmp_path / "int.pth", tiny_release.tags, tmp_path / "out")


def test_folder_that_cannot_be_made_is_named(tiny_release, tmp_path):
    """A target below a file is one clear line."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match=r"file/out cannot be made: .*; name a folder that you may write to"):
        convert_checkpoint("ram_plus", tiny_release.checkpoint, tiny_release.tags, tmp_path / "file" / "out")
