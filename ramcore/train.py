"""From a recipe to a finished bundle: train, round to half precision, calibrate thresholds, measure, write.

Four sets of scenes that share no seed: training, validation (watched while training), calibration (thresholds)
and test (the figures in the model card; no choice depends on them).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ramcore.bundle import check_target, save_bundle
from ramcore.fit import Progress, TrainConfig, fit, predict
from ramcore.metrics import F1, MeanAveragePrecision, best_f1_thresholds, f1_scores, mean_average_precision
from ramcore.model_card import Training, model_card
from ramcore.ram_plus import RamPlus
from ramcore.scenes.canvas import Pixels
from ramcore.scenes.drawing import SCENE_TAGS, Targets, draw_batch
from ramcore.scenes.stream import scene_seeds
from ramcore.vocabulary import Vocabulary

__all__ = ["Progress", "Report", "TrainConfig", "train"]

LARGE_SIZE = 400
_CHECKPOINT_EVERY_S = 600.0
_CHECKPOINT_SCENES = 500


@dataclass(frozen=True)
class Report:
    """What a finished bundle reached on test scenes: average precision, F1 at the calibrated thresholds, and
    the mean average precision on scenes drawn at 400 pixels and scaled down."""

    test: MeanAveragePrecision
    f1: F1
    large_map: float


def train(
    config: TrainConfig,
    out: Path,
    progress: Callable[[Progress], None] | None = None,
    *,
    overwrite: bool = False,
) -> Report:
    """Train by the recipe and write the bundle to `out`.

    progress: called about every `report_every_s` seconds. Every ten minutes the weights so far are written to
    `out` as a working bundle, so that an interrupted training leaves something. Raises `BundleError` at once
    when `out` cannot be written (see `ramcore.bundle.save_bundle`).
    """
    check_target(out, overwrite)
    last_saved = time.monotonic()
    latest = Progress(0, 0.0, float("nan"), float("nan"))

    def on_progress(now: Progress, model: RamPlus) -> None:
        nonlocal last_saved, latest
        latest = now
        if progress is not None:
            progress(now)
        if time.monotonic() - last_saved > _CHECKPOINT_EVERY_S:
            finish(model, config, out, training_facts(config, now, finished=False))
            last_saved = time.monotonic()

    model = fit(config, on_progress)
    return finish(model, config, out, training_facts(config, latest, finished=True))


def training_facts(config: TrainConfig, progress: Progress, *, finished: bool) -> Training:
    """How far a training came, for the model card."""
    return Training(
        steps=progress.step,
        scenes=progress.step * config.batch_size,
        minutes=progress.minutes,
        finished=finished,
    )


def finish(model: RamPlus, config: TrainConfig, out: Path, training: Training) -> Report:
    """Round weights to float16, calibrate, measure and write the bundle (an older one is replaced).

    An unfinished training is measured on few scenes only.
    """
    calibration, test, large = (
        (config.calibration_scenes, config.test_scenes, config.large_scenes)
        if training.finished
        else (_CHECKPOINT_SCENES, _CHECKPOINT_SCENES, _CHECKPOINT_SCENES // 10)
    )
    stored = {name: tensor.half() for name, tensor in model.state_dict().items()}
    rounded = RamPlus.from_state(config.model, {name: tensor.float() for name, tensor in stored.items()})
    thresholds = best_f1_thresholds(*_scores(rounded, "calibration", calibration))
    scores, targets = _scores(rounded, "test", test)
    report = Report(
        mean_average_precision(scores, targets),
        f1_scores(scores, targets, thresholds),
        _large_map(rounded, large),
    )
    vocabulary = vocabulary_of(config.model.num_tags, thresholds)
    card = model_card(config, training, vocabulary, report.test, report.f1, report.large_map, targets)
    save_bundle(out, RamPlus.from_state(config.model, stored), config.model, vocabulary, card, overwrite=True)
    return report


def vocabulary_of(num_tags: int, thresholds: npt.NDArray[np.float32]) -> Vocabulary:
    """The first tags of drawn scenes with these thresholds."""
    entries = SCENE_TAGS[:num_tags]
    return Vocabulary(tuple(e.tag for e in entries), tuple(e.tag_zh for e in entries), thresholds)


def _scores(model: RamPlus, split: str, count: int) -> tuple[npt.NDArray[np.float32], Targets]:
    images, targets = draw_batch(scene_seeds(split, count), model.config.image_size)
    return predict(model, images), targets[:, : model.config.num_tags]


def _large_map(model: RamPlus, count: int) -> float:
    """mAP on test scenes (other ones) drawn at 400 pixels and scaled down as any other picture is."""
    start = 1 << 20
    images, targets = draw_batch(scene_seeds("test", count, start), LARGE_SIZE)
    small = np.stack([_scale(image, model.config.image_size) for image in images])
    return mean_average_precision(predict(model, small), targets[:, : model.config.num_tags]).mean


def _scale(image: Pixels, size: int) -> Pixels:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
