"""`ramfleet model convert` and `show`, and the numbers behind them."""

import json

import goldens
import pytest
from typer.testing import CliRunner

from jobs.model import app
from ramcore.config import ram_plus_preset, ram_preset, tag2text_preset
from ramcore.describe import caption_flops, count_flops, count_parameters, describe_bundle, vram_bytes

GIB = 2**30


def test_work_per_image_of_the_released_model():
    """Full RAM++ takes 324.9 GFLOP per image: Swin 207.8, head 112.7, the rest little."""
    flops = count_flops(ram_plus_preset())
    assert sum(flops.values()) / 1e9 == pytest.approx(324.9, rel=1e-3)
    assert flops["visual_encoder"] / 1e9 == pytest.approx(207.8, rel=1e-3)
    assert flops["tagging_head"] / 1e9 == pytest.approx(112.7, rel=1e-3)


@pytest.mark.lengthy
def test_parameters_of_the_released_model_by_part():
    """Swin-L and label_embed are nearly all of RAM++."""
    parameters = count_parameters(ram_plus_preset())
    assert parameters["visual_encoder"] == 195_198_516
    assert parameters["label_embed"] == 119_723_520


def test_memory_of_the_released_model():
    """In 16 bit: 0.6 GiB weights, 0.6 GiB context, 0.13 GiB per image."""
    config = ram_plus_preset()
    assert vram_bytes(config, 0, 2) / GIB == pytest.approx(0.61 + 0.59, abs=0.03)
    per_image = vram_bytes(config, 101, 2) - vram_bytes(config, 1, 2)
    assert per_image / 100 / GIB == pytest.approx(0.13, abs=0.01)


def test_work_of_the_other_released_models():
    """RAM saves reweighting, projection and the first query; Tag2Text has a smaller encoder and captions."""
    plus, ram, tag2text = (count_flops(preset()) for preset in (ram_plus_preset, ram_preset, tag2text_preset))
    assert set(plus) - set(ram) == {"reweighting", "wordvec_proj"}
    assert set(ram) - set(tag2text) == {"image_proj"}
    assert (plus["tagging_head"] - ram["tagging_head"]) == 2 * 4585 * 768 * 768
    assert tag2text["visual_encoder"] / 1e9 == pytest.approx(94, rel=0.02)
    assert caption_flops(ram_preset()) == 0
    # 12 layers of about 9.4 million weights, 50 tokens and 3 beams, and the words' 23 million each time.
    assert caption_flops(tag2text_preset()) / 1e9 == pytest.approx(50, rel=0.2)


@pytest.mark.lengthy
@pytest.mark.parametrize("kind", ["ram", "tag2text"])
def test_show_describes_every_kind(kind, request):
    """Sizes, work, memory and tags that never fire come for all kinds of bundles."""
    bundle = request.getfixturevalue(f"tiny_{kind}_bundle")
    document = json.loads(CliRunner().invoke(app, ["show", str(bundle), "--json"]).output)
    assert document["config"]["kind"] == kind
    assert document["never_fire"] == (["snow"] if kind == "ram" else ["car", "water"])
    assert document["parameters_total"] == sum(document["parameters"].values()) > 0
    assert (document["caption_flops"] > 0) == (kind == "tag2text")
    table = CliRunner().invoke(app, ["show", str(bundle)], env={"COLUMNS": "160"})
    assert table.exit_code == 0
    assert ("one caption" in table.output) == (kind == "tag2text")


def test_tags_that_never_fire_are_listed(tiny_bundle):
    """A threshold of 1 switches a tag off, and the description says which."""
    description = describe_bundle(tiny_bundle)
    assert description.never_fire == ["snow"]
    assert description.thresholds["max"] == 1
    assert description.config == goldens.tiny_config()


def test_show_prints_tables(tiny_bundle):
    """`model show` names architecture, thresholds and totals."""
    result = CliRunner().invoke(app, ["show", str(tiny_bundle)], env={"COLUMNS": "160"})
    assert result.exit_code == 0, result.output
    assert "depths 2/2/4/2" in result.output
    assert "snow" in result.output


def test_show_prints_json(tiny_bundle):
    """`model show --json` is for programs."""
    result = CliRunner().invoke(app, ["show", str(tiny_bundle), "--json"])
    document = json.loads(result.output)
    assert document["never_fire"] == ["snow"]
    assert document["flops_total"] == sum(count_flops(goldens.tiny_config()).values())


def test_convert_makes_a_bundle(tiny_release, tmp_path):
    """`model convert` with the options of the documentation writes a bundle and says what it is."""
    files = tiny_release
    arguments = ["convert", "--kind", "ram_plus", "--checkpoint", files.checkpoint, "--tags", files.tags]
    arguments += ["--tags-zh", files.tags_zh, "--thresholds", files.thresholds, "--out", tmp_path / "bundle"]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "20 tags × 5 descriptions, 128 pixels" in result.output
    assert describe_bundle(tmp_path / "bundle").without_chinese == 0
