"""The model card (README.md) of a bundle trained on drawn scenes."""

import importlib.metadata
import platform
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ramcore.fit import TrainConfig
from ramcore.metrics import F1, MeanAveragePrecision
from ramcore.vocabulary import Vocabulary


@dataclass(frozen=True)
class Training:
    """How long a training was: updates, scenes seen, minutes, and whether it came to its end."""

    steps: int
    scenes: int
    minutes: float
    finished: bool


_HEAD = """---
license: apache-2.0
pipeline_tag: image-classification
tags: [image-tagging, ram-plus, demo]
---
# RamFleet demo: a small RAM++ that knows drawn scenes only

**This model has never seen a photograph.** It was trained from nothing on scenes that the project draws itself
(`ramcore/scenes/`), to show and test the whole way from pictures to tags without a download. On photographs
its tags mean nothing. For real pictures use the released RAM++ weights (`ramfleet model pull ram_plus`).
"""

_HOW = """
## How it was made

`ramfleet train --recipe demo --seed {seed} --minutes {limit:g} --out DIR`

The seed fixes scenes and first weights; the order of floating-point sums and the clock are not fixed, so training
again is meant to reproduce the quality, not the bits.

| | |
|---|---|
| scenes seen in training | {scenes:,}, each drawn once, with labels that follow from what is visible |
| updates | {steps:,} of {batch} scenes{state} |
| time | {minutes:.0f} minutes on {threads} training thread{plural} and {workers} drawing process(es), CPU only |
| seed | {seed} |
| loss | asymmetric loss, gamma_neg {gamma_neg:g}, gamma_pos {gamma_pos:g}, clip {clip:g} |
| beside it | a linear layer per visual token learns what is drawn there (weight {places:g}); not kept |
| optimiser | AdamW, peak learning rate {rate:g}, {warmup} steps of warm-up, cosine to zero, weight decay {decay:g} |
| kept weights | exponential average (decay {ema:g}), stored as float16 |
| network | Swin {image} px, patch {patch}, {dim} channels, depths {depths}, window {window}; head {layers} × {hidden} |
| start | random; window attention heads start by looking at neighbouring tokens (ConViT, arXiv:2103.10697) |
| descriptions | {descriptions} per tag; start as hashed bags of words, then learned (no text encoder) |
| versions | {versions} |

The first {easy:.0%} of the schedule's updates see mostly single, big objects.
Scenes show 1 to 8 shapes or things (18 to 85 % of the side) on landscapes, plain sheets, patterns or brick walls,
with noise, blur, changed exposure, rain and JPEG artefacts. Objects hide parts of others, but a scene in which
less than 60 % of an object is visible, or a colour covers 0.35 to 1 % of the picture, is drawn anew: there two
people could disagree about the label.
"""

_FIGURES = """
## Held-out figures

Thresholds maximise F1 on {calibration:,} calibration scenes; the figures are from {test:,} other test scenes. Neither
were used in training. Average precision is not interpolated.

| | |
|---|---|
| **mAP**, {tags} tags | **{mean:.4f}** |
| lowest tag | {worst} ({worst_ap:.3f}) |
| mean F1 at the thresholds | {f1:.4f} |
| mAP on {large} other scenes drawn at 400 px and scaled down | {large_map:.4f} |

| tag | 中文 | AP | F1 | precision | recall | threshold | in test scenes |
|---|---|---|---|---|---|---|---|
"""


def model_card(
    config: TrainConfig,
    training: Training,
    vocabulary: Vocabulary,
    test: MeanAveragePrecision,
    f1: F1,
    large_map: float,
    targets: npt.NDArray[np.float32],
) -> str:
    """The card as Markdown. targets: [test scenes, tags], 0 or 1."""
    rows = [
        f"| {tag} | {vocabulary.tags_zh[i]} | {test.average_precision[i]:.3f} | {f1.f1[i]:.3f} "
        f"| {f1.precision[i]:.3f} | {f1.recall[i]:.3f} | {vocabulary.thresholds[i]:.3f} | {int(targets[:, i].sum())} |"
        for i, tag in enumerate(vocabulary.tags)
    ]
    figures = _figures(config, training, vocabulary, test, f1, large_map, len(targets))
    return _HEAD + _how(config, training) + figures + "\n".join(rows) + "\n"


def _how(config: TrainConfig, training: Training) -> str:
    swin, head = config.model.swin, config.model.head
    packages = ("torch", "timm", "numpy", "pillow")
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return _HOW.format(
        seed=config.seed,
        easy=config.easy_share,
        limit=config.minutes,
        scenes=training.scenes,
        steps=training.steps,
        batch=config.batch_size,
        state="" if training.finished else " (**training not finished: an intermediate state**)",
        minutes=training.minutes,
        threads=config.threads or "all",
        plural="" if config.threads == 1 else "s",
        workers=config.workers,
        gamma_neg=config.gamma_neg,
        gamma_pos=config.gamma_pos,
        clip=config.loss_clip,
        places=config.place_weight,
        rate=config.learning_rate,
        warmup=config.warmup_steps,
        decay=config.weight_decay,
        ema=config.ema_decay,
        image=swin.image_size,
        patch=swin.patch_size,
        dim=swin.embed_dim,
        depths="/".join(map(str, swin.depths)),
        window=swin.window_size,
        layers=head.num_layers,
        hidden=head.hidden_size,
        descriptions=config.model.descriptions_per_tag,
        versions=", ".join([f"Python {platform.python_version()}", *versions]),
    )


def _figures(
    config: TrainConfig,
    training: Training,
    vocabulary: Vocabulary,
    test: MeanAveragePrecision,
    f1: F1,
    large_map: float,
    num_test: int,
) -> str:
    worst = int(np.nanargmin(test.average_precision))
    finished = training.finished
    return _FIGURES.format(
        calibration=config.calibration_scenes if finished else num_test,
        test=num_test,
        tags=len(vocabulary) - len(test.without_positives),
        mean=test.mean,
        worst=vocabulary.tags[worst],
        worst_ap=test.average_precision[worst],
        f1=float(np.nanmean(f1.f1)),
        large=config.large_scenes if finished else num_test // 10,
        large_map=large_map,
    )
