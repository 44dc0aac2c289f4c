"""Before a run is planned in 16 bit: does the model still compute what it should, on a device of this cluster?"""

import json
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from rich.console import Console

from pipeline.cards import Slot
from pipeline.config import Config
from pipeline.errors import ClusterError, ConfigError, StalledError
from pipeline.store import RunStore
from ramcore.bundle import read_config
from ramcore.describe import count_parameters

PARITY = "plan/parity.json"

_LARGE = 100_000_000
"""Parameters from which on one picture has to do, and a CPU is not asked: float64 takes it a minute and gigabytes."""
_TRUSTED = "fp32"
"""Needs no check: it is what the others are measured against in the project's tests."""


def checked_dtype(store: RunStore, config: Config, bundle: Path, dtype: str, slot: Slot, console: Console) -> str:
    """The number type to plan with, after it was measured on the device of `slot`, with the outcome in the run folder.

    An auto that turns out to be beyond its bound becomes fp32; one that was asked for is refused with ConfigError,
    unless `model.force` is true. Raises ClusterError where the model cannot be run at all, StalledError where no
    device became free.
    """
    # A run that was refused before it was planned may have left its record.
    store.delete(PARITY)
    if dtype == _TRUSTED:
        return dtype
    large = sum(count_parameters(read_config(bundle)).values()) > _LARGE
    device = slot.placement.device
    if large and device == "cpu":
        console.print(f"{dtype} is not checked against float64: on a CPU that would take long for a model of this size")
        return dtype
    with console.status(f"checking {dtype} on {slot.card} against float64"):
        found = _measured(slot, str(bundle), dtype, 1 if large else None, config.fleet.stall_timeout_s)
    chosen = _judged(found, config, dtype, console)
    store.replace(PARITY, json.dumps(found | {"planned_dtype": chosen}, indent=2).encode())
    return chosen


def recorded_parity(store: RunStore) -> dict[str, Any] | None:
    """What was measured when the run was planned, if anything was."""
    if not store.exists(PARITY):
        return None
    record: dict[str, Any] = json.loads(store.read(PARITY))
    return record


def measure(bundle: str, dtype: str, device: str, threads: int, pictures: int | None) -> dict[str, Any]:
    """The result of `ramcore.parity` on built-in pictures. Runs as a Ray task."""
    import torch

    import ramcore
    from ramcore.parity import builtin_pixels, check_parity

    torch.set_num_threads(max(threads, 1))
    tagger = ramcore.load(bundle, device=device, dtype="fp32")
    (result,) = check_parity(tagger, [dtype], builtin_pixels(tagger.config.image_size)[:pictures])
    return result.to_dict()


def _measured(slot: Slot, bundle: str, dtype: str, pictures: int | None, timeout_s: float) -> dict[str, Any]:
    place = slot.placement
    task = ray.remote(measure).options(
        num_cpus=place.num_cpus, num_gpus=place.num_gpus, label_selector={"ray.io/node-id": slot.node_id}
    )
    reference = task.remote(bundle, dtype, place.device, place.threads, pictures)
    try:
        found: dict[str, Any] = ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as error:
        ray.cancel(reference, force=True)
        raise StalledError(
            f"no {slot.card} became free to check {dtype} within fleet.stall_timeout_s={timeout_s:g}. "
            "Run the same command again when the cluster has one"
        ) from error
    except RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ClusterError(f"the model cannot be run in {dtype} on {slot.card}: {reason}") from error
    return found


def _judged(found: dict[str, Any], config: Config, dtype: str, console: Console) -> str:
    if found["within_bound"]:
        return dtype
    bound = found["bound"]
    beyond = (
        f"{dtype} on {found['device']} is beyond its bound: logits differ from float64 by {found['max_error']:.3g} at "
        f"most and {found['mean_error']:.3g} on average, {bound['max_error']:g} and {bound['mean_error']:g} are allowed"
    )
    if config.model.force:
        console.print(f"{beyond}; goes on, as model.force=true")
        return dtype
    if config.model.dtype == "auto":
        console.print(f"{beyond}; the run takes {_TRUSTED}")
        return _TRUSTED
    raise ConfigError(f"model.dtype={dtype}: {beyond}. Give model.dtype={_TRUSTED}, or model.force=true to go on")
