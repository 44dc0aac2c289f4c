"""Before a run is planned in 16 bit or with a compiled model: does that compute what it should on this cluster?"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from rich.console import Console

from pipeline.cards.sizing import LARGE_MODEL
from pipeline.cards.slot_policy import Slot
from pipeline.config import Config
from pipeline.errors import ClusterError, ConfigError, StalledError, last_line
from pipeline.stores.run_store import RunStore
from ramcore.bundle import stored_parameters

PARITY = "plan/parity.json"

_TRUSTED = "fp32"
"""Needs no check: it is what the others are measured against in the project's tests."""


def checked_dtype(
    store: RunStore, config: Config, bundle: Path, dtype: str, slots: Sequence[Slot], console: Console
) -> str:
    """The number type to plan with, after it was measured on the first slot, with the outcome in the run folder.

    With fleet.mixed_dtype each number type is measured on the first slot that computes in it. An auto that turns out
    to be beyond its bound becomes fp32; one that was asked for, one of several, or a compiled model is refused with
    ConfigError, unless `model.force` is true. Raises ClusterError where the model cannot be run at all, StalledError
    where no device became free, or compiling took too long.
    """
    # A run that was refused before it was planned may have left its record.
    store.delete(PARITY)
    mixed = {slot.placement.dtype: slot for slot in reversed(slots)}
    records = []
    for asked, slot in mixed.items() if config.fleet.mixed_dtype else [(dtype, slots[0])]:
        found = _found(config, bundle, asked, slot, console)
        if found is not None:
            chosen = _judged(found, config, asked, console)
            dtype = dtype if config.fleet.mixed_dtype else chosen
            records.append(found | {"planned_dtype": chosen})
    if records:
        others = {"others": records[1:]} if records[1:] else {}
        store.replace(PARITY, json.dumps(records[0] | others, indent=2).encode())
    return dtype


def _found(config: Config, bundle: Path, dtype: str, slot: Slot, console: Console) -> dict[str, Any] | None:
    """What was measured; None for what is not."""
    backend = f"{dtype}-compiled" if config.model.compile else dtype
    if backend == _TRUSTED:
        return None
    large = stored_parameters(bundle) > LARGE_MODEL
    if large and slot.placement.device == "cpu":
        console.print(
            f"{backend} is not checked against float64: on a CPU that would take long for a model of this size"
        )
        return None
    with console.status(f"checking {backend} on {slot.card} against float64"):
        return _measured(slot, str(bundle), backend, 1 if large else None, config.fleet.stall_timeout_s)


def recorded_parity(store: RunStore) -> dict[str, Any] | None:
    """What was measured when the run was planned, if anything was."""
    if not store.exists(PARITY):
        return None
    record: dict[str, Any] = json.loads(store.read(PARITY))
    return record


def measure(bundle: str, backend: str, device: str, threads: int, pictures: int | None) -> dict[str, Any]:
    """The result of `ramcore.parity` for one backend on built-in pictures. Runs as a Ray task."""
    import torch

    import ramcore
    from ramcore.parity import builtin_pixels, check_parity

    torch.set_num_threads(max(threads, 1))
    tagger = ramcore.load(bundle, device=device, dtype="fp32")
    (result,) = check_parity(tagger, [backend], builtin_pixels(tagger.config.image_size)[:pictures])
    return result.to_dict()


def _measured(slot: Slot, bundle: str, backend: str, pictures: int | None, timeout_s: float) -> dict[str, Any]:
    place = slot.placement
    task = ray.remote(measure).options(
        num_cpus=place.num_cpus, num_gpus=place.num_gpus, label_selector={"ray.io/node-id": slot.node_id}
    )
    reference = task.remote(bundle, backend, place.device, place.threads, pictures)
    try:
        found: dict[str, Any] = ray.get(reference, timeout=timeout_s)
    except GetTimeoutError as error:
        ray.cancel(reference, force=True)
        raise StalledError(
            f"no {slot.card} became free to check {backend}, or none was done, within "
            f"fleet.stall_timeout_s={timeout_s:g}. Run the same command again when the cluster has one"
        ) from error
    except RayError as error:
        raise ClusterError(f"the model cannot be run in {backend} on {slot.card}: {last_line(error)}") from error
    return found


def _judged(found: dict[str, Any], config: Config, dtype: str, console: Console) -> str:
    if found["within_bound"]:
        return dtype
    bound = found["bound"]
    beyond = (
        f"{found['backend']} on {found['device']} is beyond its bound: logits differ from float64 by "
        f"{found['max_error']:.3g} at most and {found['mean_error']:.3g} on average, {bound['max_error']:g} and "
        f"{bound['mean_error']:g} are allowed"
    )
    if config.model.force:
        console.print(f"{beyond}; goes on, as model.force=true")
        return dtype
    if config.model.compile:
        raise ConfigError(f"model.compile=true: {beyond}. Give model.compile=false, or model.force=true to go on")
    if config.model.dtype == "auto" and not config.fleet.mixed_dtype:
        console.print(f"{beyond}; the run takes {_TRUSTED}")
        return _TRUSTED
    key = "fleet.mixed_dtype=true" if config.fleet.mixed_dtype else f"model.dtype={dtype}"
    remedy = "fleet.mixed_dtype=false" if config.fleet.mixed_dtype else f"model.dtype={_TRUSTED}"
    raise ConfigError(f"{key}: {beyond}. Give {remedy}, or model.force=true to go on")
