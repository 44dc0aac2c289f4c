"""The training loop of the demo recipe: a small RAM++ learns from nothing on drawn scenes."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from timm.models.swin_transformer import WindowAttention
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own convention
from torch.nn.attention import SDPBackend, sdpa_kernel

from ramcore.config import HeadConfig, ModelConfig, SwinConfig
from ramcore.losses import asymmetric_loss
from ramcore.metrics import mean_average_precision
from ramcore.preprocess import normalise
from ramcore.ram_plus import RamPlus
from ramcore.scenes.canvas import Pixels
from ramcore.scenes.drawing import Targets, draw_batch
from ramcore.scenes.stream import Batch, scene_seeds, stream_batches
from ramcore.scenes.tags import SCENE_TAGS
from ramcore.scenes.words import description_vectors

# Rows and columns of the eight tokens around a token, the nearer ones first.
_NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1), (-1, 1), (1, -1))


def demo_model_config() -> ModelConfig:
    """The demo model: a three-stage Swin at 96 pixels under a small two-layer head."""
    return ModelConfig(
        kind="ram_plus",
        swin=SwinConfig(
            image_size=96, patch_size=4, embed_dim=48, depths=(1, 2, 4), num_heads=(4, 8, 8), window_size=6
        ),
        head=HeadConfig(hidden_size=128, num_heads=4, intermediate_size=256, num_layers=2),
        embed_dim=128,
        num_tags=len(SCENE_TAGS),
        descriptions_per_tag=len(SCENE_TAGS[0].descriptions),
        demo=True,
    )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training recipe.

    model: what is trained. seed: of weights and scenes. steps, batch_size: updates and scenes per update.
    minutes: the schedule ends by then even if steps are left. learning_rate: its peak, after `warmup_steps`
    rising linearly; then a cosine to zero. position_rate: factor on it for the windows' position biases.
    weight_decay: on matrices only. gamma_neg, gamma_pos, loss_clip: of the asymmetric loss. place_weight: of the
    auxiliary loss (see `Trainee`). easy_share: of the steps, on scenes with mostly big single objects.
    max_norm: gradient clipping. ema_decay: of the averaged weights, which are what is kept. bf16: mixed
    precision. threads: of PyTorch (0: its default); workers: processes that draw. report_every_s: seconds
    between measurements on `validation_scenes`.
    calibration_scenes, test_scenes, large_scenes: for thresholds, for the final figures, and for the figure
    on pictures drawn large and scaled down (see `ramcore.train`).
    """

    model: ModelConfig = field(default_factory=demo_model_config)
    seed: int = 1
    steps: int = 10_000
    batch_size: int = 32
    minutes: float = 120.0
    learning_rate: float = 1e-3
    position_rate: float = 5.0
    warmup_steps: int = 300
    weight_decay: float = 0.03
    gamma_neg: float = 2.0
    gamma_pos: float = 0.0
    loss_clip: float = 0.0
    place_weight: float = 6.0
    easy_share: float = 0.1
    max_norm: float = 5.0
    ema_decay: float = 0.998
    bf16: bool = True
    threads: int = 1
    workers: int = 1
    report_every_s: float = 60.0
    validation_scenes: int = 400
    calibration_scenes: int = 4000
    test_scenes: int = 4000
    large_scenes: int = 500


@dataclass(frozen=True)
class Progress:
    """Where a training stands: steps done, minutes gone, mean loss per scene since the last, validation mAP."""

    step: int
    minutes: float
    loss: float
    validation_map: float


def fit(config: TrainConfig, progress: Callable[[Progress, RamPlus], None]) -> RamPlus:
    """Train from nothing; returns the averaged weights as a model in eval mode, float32.

    progress: called every `report_every_s` seconds and at the end, with the averaged model so far.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    trainee = Trainee(build_model(config.model))
    average = Average(trainee.model, config.ema_decay)
    optimiser = _optimiser(trainee, config)
    validation = draw_batch(scene_seeds("validation", config.validation_scenes), config.model.image_size)
    started = last = time.monotonic()
    losses: list[float] = []
    step = 0
    for step, (rate, batch) in enumerate(_schedule(config, started), 1):
        for group in optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        losses.append(_update(trainee, optimiser, batch, config))
        average.update(trainee.model)
        if time.monotonic() - last > config.report_every_s:
            last = time.monotonic()
            progress(_measure(average.model, validation, losses, step, started), average.model)
            losses = []
    progress(_measure(average.model, validation, losses, step, started), average.model)
    return average.model


def _schedule(config: TrainConfig, started: float) -> Iterator[tuple[float, Batch]]:
    """The learning rate and the scenes of every step, until steps or minutes are used up."""
    batches = stream_batches(
        config.batch_size,
        config.steps,
        config.model.image_size,
        config.model.swin.map_sizes[-1],
        run=config.seed,
        workers=config.workers,
        easy=round(config.steps * config.easy_share),
    )
    with closing(batches):
        for step, batch in enumerate(batches):
            minutes = (time.monotonic() - started) / 60
            share = max(step / config.steps, minutes / config.minutes)
            if share >= 1:
                return
            yield learning_rate(config, step + 1, share), batch


def build_model(config: ModelConfig) -> RamPlus:
    """An untrained model whose description embeddings say which words descriptions share."""
    model = RamPlus(config)
    for module in model.modules():
        # The released sizes' normal(0, 0.02) is far too small for layers as narrow as these.
        if isinstance(module, nn.Linear) and module is not model.fc:
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, WindowAttention):
            _look_around(module)
    vectors = description_vectors([entry.descriptions for entry in SCENE_TAGS[: config.num_tags]], config.embed_dim)
    with torch.no_grad():
        model.label_embed.copy_(torch.from_numpy(vectors))
    return model


def _look_around(attention: WindowAttention) -> None:
    """Let each head begin by looking at one neighbour of a token, as a convolution's taps do.

    The initialisation of ConViT (arXiv:2103.10697, eq. 8), written into Swin's position biases: for an offset
    d and the head's neighbour n the bias is −1.5 · |d − n|². From random biases near zero, a network this
    small takes many times longer to find out that shapes are made of edges side by side.
    """
    height, width = attention.window_size
    table = attention.relative_position_bias_table
    down, across = torch.meshgrid(torch.arange(1 - height, height), torch.arange(1 - width, width), indexing="ij")
    biases = []
    for head in range(attention.num_heads):
        # The index of the table counts query minus key, hence the sign.
        y, x = _NEIGHBOURS[head % len(_NEIGHBOURS)]
        biases.append(-1.5 * ((-down - y) ** 2 + (-across - x) ** 2).flatten())
    with torch.no_grad():
        table.copy_(torch.stack(biases, dim=1).to(table.dtype))


class Average:
    """A copy of a model that follows its weights as an exponential moving average."""

    def __init__(self, model: RamPlus, decay: float) -> None:
        self.model = RamPlus(model.config).eval().requires_grad_(False)
        self.model.load_state_dict(model.state_dict())
        self._decay = decay
        self._updates = 0

    @torch.no_grad()
    def update(self, model: RamPlus) -> None:
        """Move towards the model's present weights; faster in the beginning."""
        self._updates += 1
        weight = 1 - min(self._decay, (1 + self._updates) / (10 + self._updates))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), weight)


def learning_rate(config: TrainConfig, step: int, share: float) -> float:
    """Linear warm-up, then a cosine to zero. share: of the whole training that is done, in [0, 1]."""
    warm = min(1.0, step / max(1, config.warmup_steps))
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))


class Trainee(nn.Module):
    """A model and, for training only, a linear layer that says per visual token what is drawn there.

    The scenes know where everything is. Being told so, the image encoder learns shapes several times sooner
    than from tags of the whole picture alone; the layer is thrown away afterwards.
    """

    def __init__(self, model: RamPlus) -> None:
        super().__init__()
        self.model = model
        self.places = nn.Linear(model.config.embed_dim, model.config.num_tags)
        nn.init.constant_(self.places.bias, -4.0)  # most things are in few cells

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """pixels: float [B, 3, S, S]. Returns logits [B, N] and per token [B, T, N]."""
        embeds = self.model.image_embeds(pixels)
        return self.model.tag_logits(embeds), self.places(embeds[:, 1:])


def _optimiser(trainee: Trainee, config: TrainConfig) -> torch.optim.Optimizer:
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in trainee.named_parameters():
        decays = parameter.ndim > 1 and "relative_position" not in name and "label_embed" not in name
        factor = config.position_rate if "relative_position" in name else 1.0
        groups.setdefault((decays, factor), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": config.weight_decay if decays else 0.0,
                "factor": factor,
            }
            for (decays, factor), parameters in groups.items()
        ],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        foreach=True,
    )


def _update(
    trainee: Trainee,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    config: TrainConfig,
) -> float:
    """One step of the optimiser; returns the tagging loss per scene."""
    images, *truths = batch
    targets, places = (torch.from_numpy(truth[..., : config.model.num_tags]) for truth in truths)
    pixels = normalise(images, config.model.image_size, config.model.image_mean, config.model.image_std)
    # The fused attention's backward pass takes a third of the whole step on a CPU.
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bf16),
        sdpa_kernel(SDPBackend.MATH),
    ):
        logits, place_logits = trainee(pixels)
    loss = asymmetric_loss(
        logits, targets, gamma_neg=config.gamma_neg, gamma_pos=config.gamma_pos, clip=config.loss_clip
    ) / len(images)
    place_loss = F.binary_cross_entropy_with_logits(place_logits.float(), places) * config.model.num_tags
    optimiser.zero_grad(set_to_none=True)
    (loss + config.place_weight * place_loss).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(trainee.parameters(), config.max_norm)
    optimiser.step()
    return float(loss.detach())


@torch.inference_mode()
def predict(model: RamPlus, images: Pixels, batch_size: int = 100) -> npt.NDArray[np.float32]:
    """Scores of pictures, float32 [B, tags]. images: uint8 [B, S, S, 3] of the model's size."""
    config = model.config
    scores: list[Tensor] = []
    for start in range(0, len(images), batch_size):
        chunk = images[start : start + batch_size]
        pixels = normalise(chunk, config.image_size, config.image_mean, config.image_std)
        scores.append(torch.sigmoid(model(pixels).float()))
    return torch.cat(scores).numpy()


def _measure(
    model: RamPlus, validation: tuple[Pixels, Targets], losses: list[float], step: int, started: float
) -> Progress:
    images, targets = validation
    result = mean_average_precision(predict(model, images), targets[:, : model.config.num_tags])
    loss = sum(losses) / len(losses) if losses else float("nan")
    return Progress(step, (time.monotonic() - started) / 60, loss, result.mean)
