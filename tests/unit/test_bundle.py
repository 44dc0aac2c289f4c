"""Bundles: written whole, read strictly."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import goldens
import pytest
import torch
from safetensors.torch import load_file, save_file

import ramcore
from ramcore.bundle import bundle_hash, demo_bundle, read_config, read_vocabulary, save_bundle, stored_parameters
from ramcore.config import ModelConfig, SwinConfig, ram_plus_preset, ram_preset, tag2text_preset
from ramcore.describe import count_parameters
from ramcore.errors import BundleError
from ramcore.ram_plus import RamPlus


@pytest.fixture
def bundle(tiny_bundle, tmp_path):
    """A bundle of one's own to damage."""
    return shutil.copytree(tiny_bundle, tmp_path / "bundle")


def _edit_config(bundle, **changes):
    document = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps(document | changes))


def _edit_weights(bundle, change):
    state = load_file(bundle / "model.safetensors")
    change(state)
    save_file(state, bundle / "model.safetensors")


def test_config_and_vocabulary_read_back(tiny_bundle):
    """What the checkpoint and the lists said is in the bundle."""
    vocabulary = read_vocabulary(tiny_bundle)
    assert read_config(tiny_bundle) == goldens.tiny_config()
    assert vocabulary.tags[:2] == ("person", "dog")
    assert vocabulary.tags_zh[:2] == ("人", "狗")
    assert vocabulary.thresholds[18] == 1


def test_bundle_made_from_a_model_loads_with_its_weights(tmp_path, tiny_bundle, tiny_model):
    """save_bundle and load are inverse to each other."""
    save_bundle(tmp_path / "new", tiny_model, tiny_model.config, read_vocabulary(tiny_bundle), "# A card\n")
    loaded = ramcore.load(tmp_path / "new", device="cpu").model.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in tiny_model.state_dict().items())
    assert (tmp_path / "new" / "README.md").read_text() == "# A card\n"


@pytest.mark.lengthy
def test_16_bit_weights_are_cast_to_what_is_asked(tmp_path, tiny_bundle):
    """A bundle stored in fp16 runs in fp32 on a CPU, and in bf16 when told to."""
    config = goldens.tiny_config()
    torch.manual_seed(0)
    save_bundle(tmp_path / "half", RamPlus(config).half(), config, read_vocabulary(tiny_bundle), "")
    assert load_file(tmp_path / "half" / "model.safetensors")["fc.weight"].dtype == torch.float16
    for dtype, expected in {"auto": torch.float32, "bf16": torch.bfloat16}.items():
        tagger = ramcore.load(tmp_path / "half", device="cpu", dtype=dtype)
        assert tagger.dtype == expected
        assert tagger.model.visual_encoder.layers[0].blocks[1].attn_mask.dtype == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "fp64"}, "give auto, fp32, bf16, fp16"),
        ({"dtype": torch.int8}, "give auto, fp32, bf16, fp16"),
        ({"dtype": "fp16"}, "no fp16 arithmetic"),
        ({"device": "abacus"}, "give auto, cpu, cuda"),
    ],
)
def test_unknown_device_or_dtype_lists_the_choices(tiny_bundle, arguments, message):
    """A device or dtype that does not exist, or fp16 on a CPU, is refused with the choices."""
    with pytest.raises(ValueError, match=message):
        ramcore.load(tiny_bundle, **({"device": "cpu"} | arguments))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "vocabulary.csv"])
def test_folder_that_is_no_bundle_says_what_is_missing(bundle, name):
    """The missing file and the command that makes a bundle are named."""
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"is not a bundle: {name} is missing.*ramfleet model convert"):
        ramcore.load(bundle)


def test_folder_that_does_not_exist_is_said_to_be_missing(tmp_path):
    """A wrong path is not reported as a broken bundle."""
    with pytest.raises(BundleError, match="nowhere does not exist"):
        ramcore.load(tmp_path / "nowhere")


def test_missing_unexpected_and_misshapen_weights_are_listed(bundle):
    """Keys are strict, and all problems come at once."""

    def damage(state):
        del state["fc.bias"]
        state["clip.proj"] = torch.zeros(2)
        state["image_proj.bias"] = torch.zeros(7)

    _edit_weights(bundle, damage)
    message = r"1 missing: fc\.bias; 1 unexpected: clip\.proj; 1 misshapen: image_proj\.bias \[7\] instead of \[512\]"
    with pytest.raises(BundleError, match=message):
        ramcore.load(bundle)


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", ["tiny_bundle", "tiny_ram_bundle", "tiny_tag2text_bundle"])
def test_parameters_are_counted_without_reading_them(kind, request):
    """As the model has them, from the head of the file."""
    bundle = request.getfixturevalue(kind)
    assert stored_parameters(bundle) == sum(count_parameters(read_config(bundle)).values())


@pytest.mark.lengthy
def test_the_load_of_a_bundle_is_known_without_torch(tiny_bundle):
    """The driver must not wait for the import of PyTorch's model libraries."""
    program = f"import sys; from pipeline.cards.sizing import model_load; model_load({str(tiny_bundle)!r}, '')"
    code = f"{program}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_truncated_weights_are_a_bundle_error(bundle):
    """A download that broke off is not a stack trace."""
    data = (bundle / "model.safetensors").read_bytes()
    (bundle / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match=r"model\.safetensors cannot be read"):
        ramcore.load(bundle)


def test_vocabulary_of_another_length_is_refused(bundle):
    """Tags must not shift against the model's outputs."""
    lines = (bundle / "vocabulary.csv").read_text().splitlines(keepends=True)
    (bundle / "vocabulary.csv").write_text("".join(lines[:-1]))
    with pytest.raises(BundleError, match=r"num_tags 20, vocabulary\.csv has 19 tags"):
        ramcore.load(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "yolo"}, "kind is 'yolo': give one of ram_plus, ram, tag2text"),
        ({"num_tag": 3}, "num_tag is 3: unknown key, remove it"),
        ({"num_tags": "20"}, "num_tags is '20': give a whole number"),
        ({"image_std": [0.2, 0.2, 0]}, "image_std .* above 0"),
        ({"image_mean": [0.5]}, "image_mean .* three numbers"),
        ({"demo": 1}, "demo is 1: give true or false"),
        ({"swin": []}, r"swin is \[\]: give a JSON object"),
        ({"swin": {"image_size": 128}}, r"missing: embed_dim, depths, num_heads, window_size"),
        ({"head": {"num_heads": 5}}, r"head\.num_heads is 5: give a divisor of hidden_size 768"),
    ],
)
def test_bad_config_names_field_value_and_remedy(bundle, changes, message):
    """config.json is validated key by key."""
    _edit_config(bundle, **changes)
    with pytest.raises(BundleError, match=message):
        read_config(bundle)


def test_config_that_is_not_json_is_refused(bundle):
    """A broken config.json is named with its path."""
    (bundle / "config.json").write_text("{")
    with pytest.raises(BundleError, match=r"config\.json is not JSON"):
        read_config(bundle)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 100}, r"swin\.image_size is 100: give a multiple of 32"),
        ({"window_size": 5}, r"swin\.window_size is 5: give a divisor of 32"),
        ({"num_heads": (1, 2, 4)}, r"swin\.num_heads .* give 4 numbers"),
        ({"num_heads": (3, 3, 3, 3)}, "must divide the 32 channels"),
        ({"drop_path_rate": 1.0}, r"swin\.drop_path_rate is 1\.0"),
    ],
)
def test_impossible_geometry_is_refused(changes, message):
    """Sizes, windows and heads that do not fit each other never reach timm."""
    with pytest.raises(BundleError, match=message):
        dataclasses.replace(goldens.tiny_config().swin, **changes)


def test_presets_survive_json():
    """A released preset reads back equal, tuples included."""
    for config in (ram_plus_preset("swin_b", 224), ram_preset(), tag2text_preset()):
        assert ModelConfig.from_json(config.to_json()) == config
        assert isinstance(config.swin, SwinConfig)


def test_bundle_hash_covers_everything_but_the_card(bundle):
    """The hash is that of sha256sum's lines; the model card may change."""
    names = ("config.json", "model.safetensors", "vocabulary.csv")
    lines = [f"{hashlib.sha256((bundle / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    (bundle / "README.md").write_text("another card")
    assert bundle_hash(bundle) == ramcore.load(bundle, device="cpu").bundle_hash == expected
    (bundle / "vocabulary.csv").write_text("")
    assert bundle_hash(bundle) != expected


def test_folder_in_use_is_not_overwritten(tmp_path, tiny_bundle, tiny_model):
    """Files of the user stay; only a bundle is replaced, and only when asked."""
    vocabulary = read_vocabulary(tiny_bundle)
    (tmp_path / "thesis.tex").write_text("years of work")
    for overwrite, message in ((False, "is not empty"), (True, "something else than a bundle")):
        with pytest.raises(BundleError, match=message):
            save_bundle(tmp_path, tiny_model, tiny_model.config, vocabulary, "", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_overwrite_replaces_a_bundle_whole(bundle, tiny_bundle, tiny_model):
    """A bundle written over another leaves nothing of the old one."""
    (bundle / "leftover.txt").write_text("old")
    save_bundle(bundle, tiny_model, tiny_model.config, read_vocabulary(tiny_bundle), "new card", overwrite=True)
    assert sorted(path.name for path in bundle.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "vocabulary.csv",
    ]
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_failed_save_leaves_nothing(tmp_path, tiny_bundle):
    """A bundle appears whole or not at all."""

    class Broken(torch.nn.Module):
        def state_dict(self, *args, **kwargs):
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        save_bundle(tmp_path / "new", Broken(), goldens.tiny_config(), read_vocabulary(tiny_bundle), "")
    assert list(tmp_path.iterdir()) == []


def test_demo_bundle_belongs_to_the_package():
    """Without an argument `load` reads the package's own data."""
    assert demo_bundle().parts[-3:] == ("ramcore", "demo", "bundle")


def test_importing_ramcore_does_not_import_torch():
    """The command line's --help must not wait for PyTorch."""
    code = "import sys, ramcore, ramcore.bundle; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
