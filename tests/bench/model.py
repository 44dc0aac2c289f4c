"""The model path on CPUs against a plain one, side by side: `python -m tests.bench.model`.

Full-size RAM++ (4,585 tags, 51 descriptions each) with random weights, as speed does not depend on them. All variants
run in turn in one process, on all CPUs.
"""

import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

from ramcore.config import ram_plus_preset
from ramcore.describe import count_flops
from ramcore.inference import for_inference
from ramcore.products import FixedLinear
from ramcore.ram_plus import RamPlus
from tests.bench.child import measured, memory
from tests.bench.plain_model import plain
from tests.bench.timing import Figure, alternate, figure_table, machine

MICROBATCHES = (1, 2, 4)
FEW_TAGS = 200
ROUNDS = 3
_PRODUCTS = ((4096, 1024, 4096), (9216, 768, 3072), (4585, 3072, 768))
"""Rows, inputs and outputs of products whose rate is taken for the processor's limit: the best of them counts."""


def main() -> None:
    """Measure and print."""
    Console().print(figure_table(list(figures()), machine("torch", "timm")))


def figures() -> Iterator[Figure]:
    """All of this module's figures."""
    torch.set_num_threads(os.cpu_count() or 1)
    with torch.inference_mode():
        model = full_size()
        seconds, errors = _times_and_errors(model)
    rates = {name: name[2] / each for name, each in seconds.items() if name[0] != "limit"}
    flops = sum(count_flops(model.config).values())
    for name in sorted(rates):
        yield Figure(f"{name[0]}, {name[1]:,} tags, micro-batch {name[2]}", rates[name], "images/s")
    tags = model.config.num_tags
    best = {kind: max(rates[kind, tags, size] for size in MICROBATCHES) for kind in ("plain", "fp32", "bf16")}
    yield Figure("fp32 / plain, micro-batch 4", rates["fp32", tags, 4] / rates["plain", tags, 4], "×", at_least=2.2)
    yield Figure("bf16 / plain, each at its best micro-batch", best["bf16"] / best["plain"], "×", at_least=5)
    for dtype in ("fp32", "bf16"):
        limit = max(2 * m * k * n / seconds["limit", dtype, m] for m, k, n in _PRODUCTS)
        yield Figure(f"limit of {dtype} products", limit / 1e9, "GFLOP/s")
        yield Figure(f"{dtype}, share of that limit", best[dtype] * flops / limit * 100, "%", at_least=75)
        few = rates[dtype, FEW_TAGS, 2] / rates[dtype, tags, 2]
        yield Figure(f"{dtype}, {FEW_TAGS} tags / {tags:,}, micro-batch 2", few, "×", at_least=1.45)
    yield Figure("fp32, largest difference of a logit from plain", errors["fp32"], "", at_most=5e-5)
    yield Figure("bf16, largest difference of a logit from plain", errors["bf16"], "")
    yield Figure("bf16, memory for each image in the micro-batch", _bytes_per_image() / 1e6, "MB", at_most=100)


def full_size(dtype: torch.dtype = torch.float32) -> RamPlus:
    """RAM++ with random weights."""
    torch.manual_seed(0)
    config = ram_plus_preset()
    return in_dtype(RamPlus(config).eval(), dtype)


def in_dtype(model: RamPlus, dtype: torch.dtype) -> RamPlus:
    """The same model in another number type."""
    state = {name: tensor.to(dtype) if tensor.ndim else tensor for name, tensor in model.state_dict().items()}
    return RamPlus.from_state(model.config, state)


Name = tuple[str, object, int]
"""Kind, number of tags, micro-batch; or "limit", dtype, rows."""


def _times_and_errors(model: RamPlus) -> tuple[dict[Name, float], dict[str, float]]:
    """Seconds of each variant, and the largest difference of a logit."""
    baseline = plain(model)
    fast = {"fp32": for_inference(model), "bf16": for_inference(in_dtype(model, torch.bfloat16))}
    few = model.subset(range(FEW_TAGS))
    fast_few = {"fp32": for_inference(few), "bf16": for_inference(in_dtype(few, torch.bfloat16))}
    size, tags = model.config.image_size, model.config.num_tags
    images = {"fp32": torch.randn(max(MICROBATCHES), 3, size, size)}
    images["bf16"] = images["fp32"].bfloat16()
    expected = baseline(images["fp32"][:2])
    errors = {kind: float((model(images[kind][:2]).float() - expected).abs().max()) for kind, model in fast.items()}
    variants: dict[Name, Callable[[], Tensor]] = {}
    for batch in MICROBATCHES:
        variants["plain", tags, batch] = partial(baseline, images["fp32"][:batch])
        for kind in fast:
            variants[kind, tags, batch] = partial(fast[kind], images[kind][:batch])
    for kind in fast:
        variants[kind, FEW_TAGS, 2] = partial(fast_few[kind], images[kind][:2])
    variants |= _products()
    for call in variants.values():
        call()
    return alternate(variants, ROUNDS), errors


def _products() -> dict[Name, Callable[[], Tensor]]:
    calls: dict[Name, Callable[[], Tensor]] = {}
    for dtype_name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        for rows, inputs, outputs in _PRODUCTS:
            linear = FixedLinear(torch.randn(outputs, inputs).to(dtype), None)
            calls["limit", dtype_name, rows] = partial(linear, torch.randn(rows, inputs).to(dtype))
    return calls


def _bytes_per_image() -> float:
    """How much a process of a bf16 replica grows from one image at once to eight, by image."""
    return float(measured(_growth).value)


@torch.inference_mode()
def _growth() -> float:
    fast = for_inference(full_size(torch.bfloat16))
    size = fast.config.image_size
    peaks = []
    for batch in (1, 8):
        pixels = torch.randn(batch, 3, size, size).bfloat16()
        Path("/proc/self/clear_refs").write_text("5")  # the peak is forgotten: proc(5)
        fast(pixels)
        peaks.append(memory("VmHWM"))
    return (peaks[1] - peaks[0]) / 7


if __name__ == "__main__":
    main()
