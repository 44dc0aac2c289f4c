"""`ramfleet look`."""

import json

import goldens
import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from jobs.look import look
from ramcore import text_tagger
from ramcore.convert import convert_checkpoint

app = typer.Typer()
app.command()(look)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    goldens.as_picture(goldens.load_golden("tiny_ram_plus")["image0"]).save(path)
    return str(path)


def _look(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in [*arguments, "--device", "cpu"]])


def test_tags_come_with_scores_and_chinese_names(tiny_bundle, picture):
    """The printed tags are those of the golden."""
    result = _look(picture, "--model", tiny_bundle)
    assert result.exit_code == 0, result.output
    tags = [goldens.load_json("tiny_vocabulary.json")["tags"][n] for n in goldens.load_golden("tiny_ram_plus")["tags0"]]
    assert all(tag in result.output for tag in tags)
    assert "建筑" in result.output


def test_json_is_sorted_by_score(tiny_bundle, picture):
    """With --json the output is a document, surest tags first."""
    (seen,) = json.loads(_look(picture, "--model", tiny_bundle, "--json").stdout)
    scores = [tag["score"] for tag in seen["tags"]]
    assert seen["picture"] == picture
    assert len(scores) == 6
    assert scores == sorted(scores, reverse=True)


@pytest.mark.lengthy
def test_bytes_that_a_run_would_store_are_shown(tiny_bundle, picture):
    """Eight for each score that is over the tag's floor."""
    (seen,) = json.loads(_look(picture, "--model", tiny_bundle, "--json").stdout)
    golden = goldens.load_golden("tiny_ram_plus")
    scores = 1 / (1 + np.exp(-golden["logits"][0]))
    expected = 8 * int((scores >= golden["class_threshold"] - 0.05).sum())
    assert seen["stored_bytes"] == expected
    assert f"a run would store {expected} bytes" in _look(picture, "--model", tiny_bundle).stdout


@pytest.mark.lengthy
def test_broken_pictures_get_a_line_each_and_exit_2(tiny_bundle, picture, tmp_path):
    """The good picture is still shown."""
    (tmp_path / "page.jpg").write_text("<html>")
    result = _look(tmp_path / "page.jpg", picture, tmp_path / "nowhere.jpg", "--model", tiny_bundle)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.splitlines() if line.startswith("ramfleet: ")]
    assert len(lines) == 2
    assert "page.jpg: not_an_image" in lines[0]
    assert "nowhere.jpg: No such file or directory" in lines[1]
    assert "building" in result.stdout


@pytest.mark.lengthy
def test_tag2text_writes_a_caption(tiny_tag2text_bundle, picture):
    """The caption is the golden's, from predicted or from given tags."""
    golden = goldens.load_golden("tiny_tag2text_caption")
    (seen,) = json.loads(_look(picture, "--model", tiny_tag2text_bundle, "--json").stdout)
    assert seen["caption"] == str(golden["pred_img0_caption"])
    arguments = ["--model", tiny_tag2text_bundle, "--given-tags", "dog,tree,water"]
    (seen,) = json.loads(_look(picture, *arguments, "--json").stdout)
    assert seen["caption"] == str(golden["user_img0_caption"])
    assert "boat food" in _look(picture, *arguments).stdout


@pytest.mark.lengthy
def test_open_tags_stand_beside_the_bundles(tiny_bundle, tiny_clip, picture, tmp_path, monkeypatch):
    """Described tags are scored by the same model."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "d.json").write_text(json.dumps([{f"tag {n}": [f"text {n}"]} for n in range(30)]))
    arguments = ["--descriptions", tmp_path / "d.json", "--text-model", tiny_clip, "--model", tiny_bundle]
    (seen,) = json.loads(_look(picture, *arguments, "--json").stdout)
    assert len(seen["tags"]) == 6
    assert {tag["tag"] for tag in seen["open_tags"]} <= {f"tag {n}" for n in range(30)}
    assert _look(picture, *arguments).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--given-tags", "dog"], "needs a tag2text bundle"),
        (["--descriptions", "d.json"], "go together"),
        (["--device", "abacus"], "give auto, cpu"),
    ],
)
def test_options_that_do_not_fit_are_exit_2(tiny_bundle, picture, arguments, message):
    """What the model cannot do is said before anything is computed."""
    result = CliRunner().invoke(app, [picture, "--model", str(tiny_bundle), *arguments], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert message in result.output


@pytest.mark.lengthy
def test_demo_bundle_is_said_to_be_one(tiny_bundle, picture, tmp_path):
    """A warning goes to standard error, so that JSON stays JSON."""
    import shutil

    demo = shutil.copytree(tiny_bundle, tmp_path / "demo")
    config = json.loads((demo / "config.json").read_text())
    (demo / "config.json").write_text(json.dumps(config | {"demo": True}))
    result = _look(picture, "--model", demo, "--json")
    assert "knows drawn scenes only" in " ".join(result.stderr.split())
    assert json.loads(result.stdout)


@pytest.mark.lengthy
def test_open_tags_run_the_image_encoder_once(tiny_bundle, tiny_clip, picture, tmp_path, monkeypatch):
    """The encoder is most of the work, and both vocabularies look at the same picture."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "d.txt").write_text("zebra\nokapi\n")
    calls = []
    visual_tokens = text_tagger.visual_tokens
    monkeypatch.setattr(text_tagger, "visual_tokens", lambda *a: calls.append(1) or visual_tokens(*a))
    _look(picture, "--descriptions", tmp_path / "d.txt", "--text-model", tiny_clip, "--model", tiny_bundle)
    assert len(calls) == 1


@pytest.mark.lengthy
def test_templates_make_the_texts_of_names(tiny_bundle, tiny_clip, picture, tmp_path, monkeypatch):
    """--templates gives the open tags that descriptions with the same texts give."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = [f"tag {n}" for n in range(30)]
    (tmp_path / "d.txt").write_text("\n".join(names))
    (tmp_path / "t.txt").write_text("one {name}\nno {name}\n")
    (tmp_path / "d.json").write_text(json.dumps([{name: [f"one {name}", f"no {name}"]} for name in names]))
    common = [picture, "--text-model", tiny_clip, "--model", tiny_bundle, "--json"]
    filled = _look(*common, "--descriptions", tmp_path / "d.txt", "--templates", tmp_path / "t.txt").stdout
    written = _look(*common, "--descriptions", tmp_path / "d.json").stdout
    assert filled == written
    # Kept under a name made of the texts: the second run found those of the first.
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


@pytest.mark.lengthy
def test_many_stored_bytes_are_warned_of(tiny_bundle, picture, monkeypatch):
    """Above 2 KB per image the remedy is named on standard error, as after a run."""
    assert "output.top_k" not in _look(picture, "--model", tiny_bundle).stderr
    monkeypatch.setattr("pipeline.tables.stored_size.HEAVY_BYTES", 8)
    assert "output.score_floor=auto and output.top_k=128" in " ".join(
        _look(picture, "--model", tiny_bundle).stderr.split()
    )


@pytest.mark.lengthy
def test_scores_that_are_not_finite_are_an_error(tiny_release, picture, tmp_path):
    """A damaged model does not look like a picture without tags."""
    state = torch.load(tiny_release.checkpoint, weights_only=True)["model"]
    torch.save(state | {"fc.weight": state["fc.weight"] * float("nan")}, tmp_path / "nan.pth")
    convert_checkpoint("ram_plus", tmp_path / "nan.pth", tiny_release.tags, tmp_path / "nan")
    result = _look(picture, "--model", tmp_path / "nan")
    assert result.exit_code == 2
    assert "scores are not finite" in result.stderr
