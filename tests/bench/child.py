"""Work in a process of its own, so that its memory is its own."""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Measured:
    """What came of it. value: returned; cpu_s: of all threads; peak: bytes at most; grown: of these, beyond imports."""

    value: Any
    wall_s: float
    cpu_s: float
    peak: int
    grown: int


def measured(work: Callable[..., Any], *arguments: Any) -> Measured:
    """Do the work in a fresh process; work: at the top of a module, whose imports count as nobody's."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (work, arguments))


def memory(field: str) -> int:
    """Bytes of this process by a line of /proc/self/status, such as VmRSS, RssAnon and VmHWM, the most that VmRSS was.

    `getrusage` would do, but its maximum begins with that of the process which started this one.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise KeyError(field)


def _measure(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Measured:
    before, start, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
    value = work(*arguments)
    wall_s, cpu_s, peak = time.perf_counter() - start, time.process_time() - cpu, memory("VmHWM")
    return Measured(value, wall_s, cpu_s, peak, peak - before)
