"""Measure a device: images/s and peak memory over micro-batch, replicas, dtype, compiled or not.

Also a command of its own, which needs nothing but this package: `python -m ramcore.calibrate --out profiles.yaml`.
Several replicas are several processes, as in a run. The result is the smallest point within 3 % of the best.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

from ramcore.bundle import bundle_hash, demo_bundle, read_config
from ramcore.cpu import read_cpu
from ramcore.errors import RamcoreError
from ramcore.replica_processes import ask_all, receive, replica_processes

_KNEE = 0.97
_FALLING = 2
"""Micro-batches in a row that are slower than the best of their series by more than 3 %, after which it ends."""
CARD_MICROBATCHES = (1, 2, 4, 8, 16, 32, 64)
CPU_MICROBATCHES = (1, 2, 4, 8, 16)
CARD_REPLICAS = (1, 2, 3, 4)


@dataclass(frozen=True, order=True)
class Point:
    """One way to use a device. threads: CPU threads of each replica."""

    dtype: str
    compiled: bool
    replicas: int
    threads: int
    microbatch: int


@dataclass(frozen=True)
class Measurement:
    """What a point does.

    images_per_s: of all replicas together, 0 where it failed; peak_bytes: of the one replica that needs most, on a
    card what PyTorch allocated, on a CPU the process's resident memory; failed: why there is no figure.
    """

    point: Point
    images_per_s: float
    peak_bytes: int
    failed: str | None = None


@dataclass(frozen=True)
class Sweep:
    """What is tried. seconds: of measuring at each point, after one micro-batch to warm up."""

    bundle: Path
    device: str
    dtypes: Sequence[str]
    compiled: Sequence[bool]
    layouts: Sequence[tuple[int, int]]
    microbatches: Sequence[int]
    seconds: float

    def series(self) -> Iterator[list[Point]]:
        """Points that differ in their micro-batch only, in rising order."""
        for dtype in self.dtypes:
            for compiled in self.compiled:
                for replicas, threads in self.layouts:
                    yield [Point(dtype, compiled, replicas, threads, size) for size in sorted(self.microbatches)]


def default_sweep(
    bundle: Path,
    device: str,
    seconds: float,
    dtypes: Sequence[str] = (),
    replicas: Sequence[int] = (),
    microbatches: Sequence[int] = (),
    compiled: bool = False,
) -> Sweep:
    """A sweep that suits the device; what is empty is chosen: on a card fp16 and bf16, on CPUs threads × replicas.

    compiled: also try torch.compile, which takes minutes. Raises ValueError for a device or dtype that is not there.
    """
    import torch

    from ramcore.tagger import resolve_device, resolve_dtype

    chosen = resolve_device(device)
    for dtype in dtypes:
        resolve_dtype(dtype, chosen)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if chosen.type == "cuda":
        bf16 = torch.cuda.get_device_capability(chosen) >= (8, 0)
        defaults = ("fp16", "bf16") if bf16 else ("fp16",)
        layouts = [(count, 1) for count in replicas or CARD_REPLICAS]
    else:
        defaults = ("fp32", "bf16") if read_cpu()[1] else ("fp32",)
        counts = replicas or [count for count in range(1, cpus + 1) if cpus % count == 0]
        layouts = [(count, max(1, cpus // count)) for count in counts]
    sizes = microbatches or (CARD_MICROBATCHES if chosen.type == "cuda" else CPU_MICROBATCHES)
    ways = (False, True) if compiled else (False,)
    return Sweep(bundle, str(chosen), dtypes or defaults, ways, layouts, sizes, seconds)


def measure(sweep: Sweep, report: Callable[[Measurement], None]) -> list[Measurement]:
    """Measure all points of a sweep; each is reported as it comes.

    A series ends where memory does, or where larger micro-batches only get slower. An interrupt (Ctrl-C) ends the
    measuring, and what there is is returned.
    """
    measured: list[Measurement] = []
    try:
        for series in sweep.series():
            with _replicas_of(sweep, series[0]) as replicas:
                for found in _series(replicas, series, sweep.seconds):
                    measured.append(found)
                    report(found)
    except KeyboardInterrupt:
        pass
    return measured


def knee(measurements: Iterable[Measurement]) -> Measurement | None:
    """The one that takes least memory among those within 3 % of the best; None where none worked."""
    worked = [found for found in measurements if found.failed is None]
    if not worked:
        return None
    best = max(found.images_per_s for found in worked)
    near = [found for found in worked if found.images_per_s >= _KNEE * best]
    return min(near, key=lambda found: (found.point.replicas * found.peak_bytes, found.point))


def profiles(sweep: Sweep, measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """A profile for each dtype, compiled and not: the knee, with the device, versions and today's date."""
    device = _device_facts(sweep.device)
    model = {"model": bundle_hash(sweep.bundle), "tags": read_config(sweep.bundle).num_tags}
    found = []
    for way in sorted({(each.point.dtype, each.point.compiled) for each in measurements}):
        best = knee(each for each in measurements if (each.point.dtype, each.point.compiled) == way)
        if best is not None:
            point = {"dtype": way[0], "compiled": way[1], "microbatch": best.point.microbatch}
            point |= {"replicas": best.point.replicas, "threads": best.point.threads}
            figures = {"images_per_s": round(best.images_per_s, 2), "peak_bytes": best.peak_bytes}
            found.append(device | {"torch": version("torch")} | model | point | figures | {"date": _today()})
    return found


def write_profiles(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """Write profiles into a YAML file; those that it has of the same device, model and dtype are replaced."""
    document = read_profiles(path)
    replaced = [_identity(profile) for profile in found]
    kept = [profile for profile in document.get("measured", []) if _identity(profile) not in replaced]
    document["measured"] = [*kept, *found]
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    temporary.replace(path)


def read_profiles(path: Path) -> dict[str, Any]:
    """What a file of profiles holds; empty where there is none. Raises ValueError for something else than that."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"--out {path}: not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return {}
    if not isinstance(document, dict) or not isinstance(document.get("measured", []), list):
        raise ValueError(f"--out {path}: holds something else than card profiles; name another file")
    return document


def _identity(profile: Any) -> Any:
    keys = ("name", "vram_gib", "model", "dtype", "compiled")
    return tuple(profile.get(key) for key in keys) if isinstance(profile, dict) else profile


def _today() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d}"


def _device_facts(device: str) -> dict[str, Any]:
    import torch

    if not device.startswith("cuda"):
        return {"name": read_cpu()[0]}
    properties = torch.cuda.get_device_properties(device)
    vram = round(properties.total_memory / 2**30, 2)
    return {"name": properties.name, "vram_gib": vram, "driver": _driver_version()}


def _driver_version() -> str:
    import pynvml

    pynvml.nvmlInit()
    try:
        driver = pynvml.nvmlSystemGetDriverVersion()
    finally:
        pynvml.nvmlShutdown()
    return driver.decode() if isinstance(driver, bytes) else str(driver)


def _replicas_of(sweep: Sweep, point: Point) -> AbstractContextManager[list[Connection]]:
    model = str(sweep.bundle), sweep.device, point.dtype, point.compiled
    return replica_processes(point.replicas, *model, point.threads)


def _series(replicas: list[Connection], series: Sequence[Point], seconds: float) -> Iterator[Measurement]:
    problem = next((answer for answer in map(receive, replicas) if isinstance(answer, str)), None)
    if problem is not None:
        yield Measurement(series[0], 0.0, 0, problem)
        return
    best, falling = 0.0, 0
    for point in series:
        found = _measure_point(replicas, point, seconds)
        yield found
        falling = falling + 1 if found.images_per_s < _KNEE * best else 0
        best = max(best, found.images_per_s)
        if found.failed is not None or falling >= _FALLING:
            return


def _measure_point(replicas: list[Connection], point: Point, seconds: float) -> Measurement:
    """Warm all replicas up, then let them run at the same time."""
    for step in (("warm up", point.microbatch), ("run", seconds)):
        answers = ask_all(replicas, step)
        problem = next((answer for answer in answers if isinstance(answer, str)), None)
        if problem is not None:
            return Measurement(point, 0.0, 0, problem)
    rates, peaks = zip(*answers, strict=True)
    return Measurement(point, float(sum(rates)), max(peaks))


# ---- the command ----


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ramcore.calibrate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=None, help="folder of the bundle (default: the demo bundle)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring at each point")
    parser.add_argument("--dtype", action="append", default=[], help="fp32, bf16 or fp16; repeatable")
    parser.add_argument("--replicas", action="append", default=[], type=int, help="processes on it; repeatable")
    parser.add_argument("--microbatch", action="append", default=[], type=int, help="repeatable")
    parser.add_argument("--compiled", action="store_true", help="also try torch.compile")
    parser.add_argument("--out", type=Path, required=True, help="YAML file of profiles; others in it stay")
    options = parser.parse_args(arguments)
    if options.seconds <= 0 or min([1, *options.replicas, *options.microbatch]) < 1:
        parser.error("--seconds, --replicas and --microbatch have to be above 0")
    bundle = options.model or demo_bundle()
    try:
        # What cannot be used is refused before minutes of measuring.
        read_profiles(options.out)
        read_config(bundle)
        sweep = default_sweep(
            bundle,
            options.device,
            options.seconds,
            options.dtype,
            options.replicas,
            options.microbatch,
            options.compiled,
        )
        found = profiles(sweep, measure(sweep, _say))
        write_profiles(options.out, found)
    except (ValueError, OSError, RamcoreError) as error:
        print(f"ramcore.calibrate: {error}", file=sys.stderr)  # noqa: T201 - the command line's own voice
        return 2
    for profile in found:
        print(_profile_line(profile))  # noqa: T201
    return 0 if found else 1


def describe(found: Measurement) -> str:
    """A measurement in one line."""
    point = found.point
    dtype = f"{point.dtype} compiled" if point.compiled else point.dtype
    way = f"{dtype}, {point.replicas} replica(s) of {point.threads} thread(s)"
    what = found.failed or f"{found.images_per_s:.1f} images/s, {found.peak_bytes / 2**20:.0f} MiB each"
    return f"{way}, micro-batch {point.microbatch}: {what}"


def _say(found: Measurement) -> None:
    print(describe(found), flush=True)  # noqa: T201


def _profile_line(profile: dict[str, Any]) -> str:
    return (
        f"{profile['name']}, {profile['dtype']}{' compiled' if profile['compiled'] else ''}: {profile['images_per_s']} "
        f"images/s with {profile['replicas']} replica(s), micro-batch {profile['microbatch']}"
    )


if __name__ == "__main__":
    sys.exit(main())
