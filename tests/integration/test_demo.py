"""The demo pictures with the demo bundle, as `make demo` tags them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from runs import Run, assert_adds_up

import ramcore
from ramcore.bundle import demo_bundle
from ramcore.metrics import mean_average_precision

pytestmark = pytest.mark.integration

DEMO = demo_bundle().parent
PICTURES = DEMO / "pictures"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """With all scores stored, which `make demo` does not need."""
    options = ["output.score_floor=0", "output.top_k=0"]
    run = Run(PICTURES, tmp_path_factory.mktemp("demo") / "run", demo_bundle(), options)
    run.output = run.finish()
    return run


@pytest.fixture(scope="module")
def labels() -> dict[str, list[str]]:
    return json.loads((DEMO / "labels.json").read_text())


def truth(labels: dict[str, list[str]], names: list[str], tags: list[str]) -> np.ndarray:
    return np.array([[tag in labels[name] for tag in tags] for name in names])


def test_map_through_the_pipeline_equals_map_in_process(run: Run, labels: dict[str, list[str]]) -> None:
    """The same figure to 1e-6 from the Parquet and from `ramcore` alone, and the scenes are recognised."""
    tagger = ramcore.load()
    tags = list(tagger.vocabulary.tags)
    table = pd.read_parquet(run.out / "tags").set_index("image_id").loc[list(labels)]
    pixels = np.stack([tagger.pixels((PICTURES / name).read_bytes(), "fast") for name in labels])
    in_process = mean_average_precision(tagger.scores(pixels).numpy(), truth(labels, list(labels), tags))
    through = mean_average_precision(np.stack(table["scores"].tolist()), truth(labels, list(labels), tags))
    assert through.mean == pytest.approx(in_process.mean, abs=1e-6)
    assert through.mean >= 0.85


def test_tags_match_the_labels(run: Run, labels: dict[str, list[str]]) -> None:
    """Thresholded tags agree with what was drawn: micro F1 over all scenes of at least 0.8."""
    tags = pd.read_parquet(run.out / "tags").set_index("image_id")["tags"]
    right = sum(len(set(tags[name]) & set(labels[name])) for name in labels)
    named = sum(len(tags[name]) for name in labels)
    drawn = sum(len(labels[name]) for name in labels)
    assert 2 * right / (named + drawn) >= 0.8


def test_every_broken_file_is_a_reject_of_its_kind(run: Run) -> None:
    """All broken files are in rejects, each with the right reason, and nothing else is."""
    rejects = pd.read_parquet(run.out / "rejects").set_index("image_id")["error_kind"].to_dict()
    assert rejects == {
        "broken_empty.jpg": "empty",
        "broken_header.png": "truncated",
        "broken_html.jpg": "not_an_image",
        "broken_text.png": "not_an_image",
        "broken_truncated.jpg": "truncated",
    }
    assert_adds_up(run.out, sum(path.suffix in (".jpg", ".png") for path in PICTURES.iterdir()))


def test_it_says_that_it_knows_drawn_scenes_only(run: Run) -> None:
    """On the screen and in run.json."""
    assert "it knows drawn scenes only" in run.output
    assert json.loads((run.out / "run.json").read_text())["demo"] is True


def test_the_screen_is_free_of_library_noise(run: Run) -> None:
    """What Ray and PyTorch say is in the log, not on the screen; no traceback, no warning of theirs."""
    for noise in ("WARNING", "INFO", "Traceback", "Ray instance", "Dataset"):
        assert noise not in run.output
    assert (run.out / "logs/driver.log").stat().st_size > 0


def test_progress_is_lines_where_there_is_no_terminal(run: Run) -> None:
    """The summary names the counts, the rejects by kind and the most frequent tags."""
    for text in ("images in the input", "tagged", "truncated", "images/s", "Most frequent tags", " → "):
        assert text in run.output
    assert "\x1b" not in run.output


def test_the_bundle_is_small() -> None:
    """Package data of at most 8 MB."""
    assert sum(path.stat().st_size for path in Path(demo_bundle()).iterdir()) <= 8_000_000
