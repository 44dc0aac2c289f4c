"""The model path on one card: `python -m tests.bench.gpu --out DIR`. Needs ramcore only; no Ray.

Full-size RAM++ with random weights: images/s by micro-batch, number type, compiled or not, attention fused or not, 200
and 4,585 tags; the plain baseline beside it; shares of the card's measured product rate and memory bandwidth; peak
memory; parity. It is meant to take under 8 minutes on one card (`--seconds`, `--no-compiled`). `--device cpu --small`
proves the script where there is no card.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ramcore.config import HeadConfig, ModelConfig, SwinConfig, ram_plus_preset
from ramcore.cpu import read_cpu
from ramcore.describe import count_flops, traffic_bytes
from ramcore.inference import for_inference
from ramcore.ram_plus import RamPlus
from ramcore.tagger import DTYPES, Tagger
from ramcore.vocabulary import Vocabulary
from ramcore.window_order import WindowOrderSwin
from tests.bench.plain_model import plain

FEW_TAGS = 200
GOAL_IMAGES_PER_S = 1450  # on an H200, at 4,585 tags
_PRODUCT_SIDE = {"cuda": 8192, "cpu": 512}
_COPIED_BYTES = {"cuda": 2**30, "cpu": 2**24}


@dataclass(frozen=True)
class Row:
    """One way to run the model. path: plain, fast, unfused, compiled or tagger (bytes in, scores out).

    images_per_s: None where it failed, for the reason in `failed`; compute_share, traffic_share: of the card's measured
    product rate and of its measured bandwidth; peak_bytes: memory while it ran, weights of all variants included.
    """

    path: str
    dtype: str
    tags: int
    microbatch: int
    images_per_s: float | None = None
    compute_share: float | None = None
    traffic_share: float | None = None
    peak_bytes: int | None = None
    failed: str | None = None


class Card:
    """The device that is measured."""

    def __init__(self, device: str, seconds: float) -> None:
        self.device = torch.device(device)
        self._seconds = seconds
        self.name = torch.cuda.get_device_name(self.device) if self.is_cuda else read_cpu()[0]

    @property
    def is_cuda(self) -> bool:
        """Whether it is a card at all."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Until all that was asked of it is done."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)

    def per_second(self, call: Callable[[], object]) -> float:
        """Calls per second, after three that do not count."""
        for _ in range(3):
            call()
        self.wait()
        start, calls = time.perf_counter(), 0
        while time.perf_counter() - start < self._seconds or calls < 3:
            call()
            calls += 1
            if calls % 8 == 0:  # so that the queue does not run minutes ahead of the clock
                self.wait()
        self.wait()
        return calls / (time.perf_counter() - start)

    def peak_bytes(self) -> int | None:
        """Since the last call; None where there is no card."""
        if not self.is_cuda:
            return None
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak

    def product_rate(self, dtype: torch.dtype) -> float:
        """Operations per second of one large square product."""
        side = _PRODUCT_SIDE[self.device.type]
        left, right = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
        return self.per_second(partial(torch.matmul, left, right)) * 2 * side**3

    def bandwidth(self) -> float:
        """Bytes per second that a copy reads and writes."""
        source = torch.empty(_COPIED_BYTES[self.device.type], dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return self.per_second(partial(target.copy_, source)) * 2 * len(source)


class Bench:
    """All measurements of one card."""

    def __init__(self, card: Card, config: ModelConfig, microbatches: list[int], dtypes: list[str]) -> None:
        self._card, self._config = card, config
        self._microbatches, self._dtypes = microbatches, dtypes
        torch.manual_seed(0)
        self._model = RamPlus(config).eval().to(card.device)
        self._limits = {name: card.product_rate(DTYPES[name]) for name in ("fp32", *dtypes)}
        self._bandwidth = card.bandwidth()

    def document(self, compiled: bool) -> dict[str, Any]:
        """Measure all: what is written down. Parity comes first, as without it the rest is worth nothing."""
        versions = {name: version(name) for name in ("torch", "timm")}
        return {
            "card": self._card.name,
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "versions": versions | {"cuda": torch.version.cuda},
            "product_rate": self._limits,
            "bandwidth": self._bandwidth,
            "flops_per_image": sum(count_flops(self._config).values()),
            "goal_images_per_s": GOAL_IMAGES_PER_S,
            "parity": self.parity(),
            "rows": [asdict(row) for row in self.rows(compiled)],
        }

    def rows(self, compiled: bool) -> Iterator[Row]:
        """All ways, one after the other."""
        middle = self._microbatches[len(self._microbatches) // 2]
        tags = self._config.num_tags
        few = self._model.subset(range(min(FEW_TAGS, tags - 1)))
        baseline = plain(self._model)
        for size in self._microbatches[: len(self._microbatches) // 2 + 1]:
            yield self._row("plain", "fp32", tags, size, baseline)
        for name in self._dtypes:
            model = cast(self._model, DTYPES[name])
            fast = for_inference(model)
            for size in self._microbatches:
                yield self._row("fast", name, tags, size, fast)
                yield self._row("tagger", name, tags, size, Tagger(model, _vocabulary(tags)))
            unfused = for_inference(model)
            unfused.visual_encoder = WindowOrderSwin(model.visual_encoder, fused=False)
            yield self._row("unfused", name, tags, middle, unfused)
            fast_few = for_inference(cast(few, DTYPES[name]))
            for size in self._microbatches:
                yield self._row("fast", name, few.config.num_tags, size, fast_few)
            if compiled:
                yield self._row("compiled", name, tags, middle, torch.compile(fast))

    def parity(self) -> dict[str, dict[str, float]]:
        """Largest and mean difference of the logits from the plain model's, by number type."""
        pixels = self._pixels(4, torch.float32)
        # In float32 as it is, not in TF32 as cuDNN would by default.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            expected = plain(self._model)(pixels)
            found = {
                name: for_inference(cast(self._model, DTYPES[name]))(pixels.to(DTYPES[name])).float()
                for name in ("fp32", *self._dtypes)
            }
        errors = {name: (logits - expected).abs() for name, logits in found.items()}
        return {name: {"max": float(error.max()), "mean": float(error.mean())} for name, error in errors.items()}

    def _row(self, path: str, dtype: str, tags: int, size: int, model: Any) -> Row:
        row = Row(path, dtype, tags, size)
        self._card.peak_bytes()
        try:
            with torch.inference_mode():
                rate = self._card.per_second(self._call(path, dtype, size, model)) * size
        except (RuntimeError, torch.OutOfMemoryError) as error:
            return dataclasses.replace(row, failed=str(error).strip().partition("\n")[0] or type(error).__name__)
        config = dataclasses.replace(self._config, num_tags=tags)
        flops, value_bytes = sum(count_flops(config).values()), DTYPES[dtype].itemsize
        traffic = traffic_bytes(config, value_bytes, fused=path == "compiled")
        return dataclasses.replace(
            row,
            images_per_s=rate,
            compute_share=rate * flops / self._limits[dtype],
            traffic_share=rate * traffic / self._bandwidth,
            peak_bytes=self._card.peak_bytes(),
        )

    def _call(self, path: str, dtype: str, size: int, model: Any) -> Callable[[], object]:
        if path != "tagger":
            return partial(model, self._pixels(size, DTYPES[dtype]))
        side = self._config.image_size
        pixels = np.random.default_rng(0).integers(0, 256, (size, side, side, 3), dtype=np.uint8)
        return _ahead(model, pixels)

    def _pixels(self, size: int, dtype: torch.dtype) -> Tensor:
        side = self._config.image_size
        generator = torch.Generator().manual_seed(1)
        return torch.randn(size, 3, side, side, generator=generator).to(self._card.device, dtype)


def _ahead(tagger: Tagger, pixels: Any) -> Callable[[], None]:
    """As a replica does it: the next micro-batch is begun before the last one's scores are waited for."""
    begun = [tagger.begin(pixels)]

    def step() -> None:
        following = tagger.begin(pixels)
        begun.pop().scores()
        begun.append(following)

    return step


def cast(model: RamPlus, dtype: torch.dtype) -> RamPlus:
    """The same weights in another number type; the scalar keeps float32."""
    state = {name: tensor.to(dtype) if tensor.ndim else tensor for name, tensor in model.state_dict().items()}
    return RamPlus.from_state(model.config, state)


def small_config() -> ModelConfig:
    """A model of the same make, which a processor computes in no time."""
    swin = SwinConfig(image_size=128, embed_dim=32, depths=(2, 2, 4, 2), num_heads=(1, 2, 4, 8), window_size=4)
    head = HeadConfig(hidden_size=96, intermediate_size=192)
    return ModelConfig(kind="ram_plus", swin=swin, head=head, num_tags=220, descriptions_per_tag=5)


def _vocabulary(tags: int) -> Vocabulary:
    return Vocabulary(tuple(f"tag {tag}" for tag in range(tags)), ("",) * tags, np.full(tags, 0.68, np.float32))


def _table(document: dict[str, Any]) -> Table:
    columns = "path", "dtype", "tags", "micro-batch", "images/s", "compute %", "bandwidth %", "peak MiB"
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    table = Table(*columns, title=f"{document['card']}, {versions}, {document['date']}")
    for row in document["rows"]:
        head = row["path"], row["dtype"], f"{row['tags']:,}", str(row["microbatch"])
        if row["failed"]:
            table.add_row(*head, row["failed"][:40])
            continue
        shares = (f"{100 * row[name]:.0f}" for name in ("compute_share", "traffic_share"))
        peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f}"
        table.add_row(*head, f"{row['images_per_s']:,.1f}", *shares, peak)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write gpu.json."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.gpu", description="Figures of one card.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", default=".", help="folder for gpu.json")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each way to run the model")
    parser.add_argument("--microbatches", type=int, nargs="+", default=[1, 8, 32, 64, 128])
    parser.add_argument("--dtypes", nargs="+", choices=["bf16", "fp16"], default=["fp16", "bf16"])
    parser.add_argument("--no-compiled", action="store_true")
    parser.add_argument("--small", action="store_true", help="a small model, to try this script")
    options = parser.parse_args(arguments)
    config = small_config() if options.small else ram_plus_preset()
    bench = Bench(Card(options.device, options.seconds), config, options.microbatches, options.dtypes)
    document = bench.document(not options.no_compiled)
    Console().print(_table(document))
    (Path(options.out) / "gpu.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
