"""Training: it learns, it is measured on scenes it has not seen, and the committed bundle keeps its promise."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import ramcore.bundle
from jobs.main import app
from ramcore.bundle import demo_bundle
from ramcore.config import SwinConfig
from ramcore.errors import BundleError
from ramcore.fit import TrainConfig, build_model, demo_model_config, fit, learning_rate, predict
from ramcore.loading import load
from ramcore.metrics import mean_average_precision
from ramcore.scenes.backgrounds import REGION_TAGS
from ramcore.scenes.drawing import SCENE_TAGS, TAG_NAMES, draw_batch
from ramcore.scenes.stream import scene_seeds
from ramcore.scenes.words import description_vectors
from ramcore.train import train

BUNDLE_LIMIT_BYTES = 8 * 1024**2


def _tiny(**changes):
    """A recipe of seconds: 32-pixel scenes and a network of two blocks."""
    swin = SwinConfig(image_size=32, embed_dim=24, depths=(1, 1), num_heads=(1, 2), window_size=4)
    recipe = {
        "model": dataclasses.replace(demo_model_config(), swin=swin),
        "steps": 60,
        "batch_size": 24,
        "learning_rate": 3e-3,
        "warmup_steps": 5,
        "easy_share": 1.0,
        "ema_decay": 0.9,
        "threads": 1,
        "workers": 0,
        "bf16": False,
        "validation_scenes": 50,
        "calibration_scenes": 100,
        "test_scenes": 100,
        "large_scenes": 4,
    }
    return TrainConfig(**recipe | changes)


@pytest.mark.lengthy
def test_a_short_training_learns():
    """60 small steps are enough to tell backgrounds apart on held-out scenes; shapes take thousands."""
    config, seen = _tiny(), []
    images, targets = draw_batch(scene_seeds("validation", 200), 32)
    regions = [TAG_NAMES.index(tag) for tag in REGION_TAGS if tag]

    def region_map(model):
        return mean_average_precision(predict(model, images)[:, regions], targets[:, regions]).mean

    torch.manual_seed(config.seed)
    before = region_map(build_model(config.model).eval())
    after = region_map(fit(config, lambda progress, _: seen.append(progress)))
    assert after > before + 0.15
    assert seen[-1].step == config.steps


@pytest.mark.lengthy
def test_training_writes_a_working_bundle(tmp_path):
    """The bundle loads, its card has the figures, thresholds are inside (0, 1), an old bundle is kept."""
    config, out = _tiny(steps=3), tmp_path / "bundle"
    report = train(config, out)
    tagger = load(out, device="cpu")
    assert tagger.vocabulary.tags == TAG_NAMES
    assert ((tagger.vocabulary.thresholds > 0) & (tagger.vocabulary.thresholds < 1)).all()
    assert f"{report.test.mean:.4f}" in (out / "README.md").read_text(encoding="utf-8")
    with pytest.raises(BundleError):
        train(config, out)


@pytest.mark.lengthy
def test_the_reported_figure_is_that_of_the_written_bundle(tmp_path):
    """What is measured is what is stored: half-precision weights, loaded again."""
    config, out = _tiny(steps=3), tmp_path / "bundle"
    report = train(config, out)
    images, targets = draw_batch(scene_seeds("test", config.test_scenes), 32)
    scores = load(out, device="cpu").scores(images)
    assert mean_average_precision(np.asarray(scores), targets).mean == pytest.approx(report.test.mean, abs=1e-4)


@pytest.mark.lengthy
def test_stops_when_time_is_up():
    """`minutes` ends a training whose steps would take longer."""
    seen = []
    fit(_tiny(steps=100_000, minutes=0.02), lambda progress, _: seen.append(progress))
    assert 0 < seen[-1].step < 100_000


def test_learning_rate_rises_then_falls_to_zero():
    """Linear warm-up, cosine to zero."""
    config = _tiny(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step, (step - 1) / 100) for step in range(1, 101)]
    assert max(rates) == pytest.approx(rates[9])
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert learning_rate(config, 100, 1.0) == pytest.approx(0.0)


def test_descriptions_of_a_tag_differ_and_shared_words_show():
    """Unit vectors; the descriptions of one tag are not copies of each other."""
    vectors = description_vectors([entry.descriptions for entry in SCENE_TAGS], 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    likeness = vectors @ vectors.T - np.eye(len(vectors))
    assert likeness.max() < 0.99


@pytest.mark.lengthy
def test_command_line_trains(tmp_path, monkeypatch):
    """`ramfleet train` passes its options on and prints where the card is."""
    monkeypatch.setattr("ramcore.fit.TrainConfig", lambda **changes: _tiny(**changes))
    arguments = ["train", "--recipe", "demo", "--out", str(tmp_path / "b"), "--steps", "2", "--workers", "0"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "mAP" in result.output
    assert (tmp_path / "b" / "model.safetensors").is_file()


def test_demo_bundle_is_small_and_says_what_it_is():
    """At most 8 MB, marked as demo, Chinese names for all tags, a card with the figures."""
    folder = demo_bundle()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= BUNDLE_LIMIT_BYTES
    assert ramcore.bundle.read_config(folder).demo
    vocabulary = ramcore.bundle.read_vocabulary(folder)
    assert vocabulary.tags == TAG_NAMES
    assert all(vocabulary.tags_zh)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "not finished" not in card
    assert "never seen a photograph" in card


@pytest.mark.lengthy
def test_demo_bundle_recognises_fresh_scenes():
    """mAP of at least 0.85 on scenes that no training, calibration or measurement used."""
    images, targets = draw_batch(scene_seeds("validation", 200, start=1 << 24), 96)
    scores = np.asarray(load(device="cpu").scores(images))
    assert mean_average_precision(scores, targets).mean >= 0.85


def test_demo_card_states_what_was_measured():
    """The mAP in the card is the mean of the APs in its table."""
    card = (demo_bundle() / "README.md").read_text(encoding="utf-8")
    stated = float(re.search(r"\*\*mAP\*\*, \d+ tags \| \*\*([\d.]+)\*\*", card)[1])
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| ([\d.]+|nan) \| [\d.]+ \|", card, flags=re.MULTILINE)
    assert len(rows) == len(TAG_NAMES)
    assert math.isclose(stated, float(np.nanmean([float(row) for row in rows])), abs_tol=1e-3)
    assert stated >= 0.85


def test_demo_pictures_have_their_labels():
    """Every drawn demo picture is labelled, with tags of the vocabulary."""
    demo = demo_bundle().parent
    labels = json.loads((demo / "labels.json").read_text(encoding="utf-8"))
    assert set(labels) == {path.name for path in (demo / "pictures").glob("scene_*.jpg")}
    assert len(labels) == 40
    assert {tag for tags in labels.values() for tag in tags} == set(TAG_NAMES)
