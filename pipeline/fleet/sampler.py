"""How hard a machine works: now and then, its CPUs and network, and the cards of one process."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import psutil

_MIB = 2**20


class Sampler:
    """Reads what there is to read; what a driver or the machine does not tell is left out.

    gpus: as Ray numbers them, indices or UUIDs of the driver; machine: whether to read CPUs and network as well.
    """

    def __init__(self, gpus: Sequence[str], machine: bool) -> None:
        self._cards = _handles(gpus)
        self._machine = machine
        self._bytes = _network_bytes() if machine else (0, 0)
        if machine:
            psutil.cpu_percent()  # the first answer is about nothing

    def read(self) -> dict[str, Any]:
        """cpu: % of all CPUs since the last time; received, sent: bytes since then; for each card gpu: % of the time
        since it was last asked that some kernel ran, vram_mib: memory in use, by anybody, and power_w."""
        found: dict[str, Any] = {}
        if self._machine:
            received, sent = _network_bytes()
            found |= {
                "cpu": psutil.cpu_percent(),
                "received": received - self._bytes[0],
                "sent": sent - self._bytes[1],
            }
            self._bytes = received, sent
        if self._cards:
            found["cards"] = {gpu: _card(handle) for gpu, handle in self._cards.items()}
        return found


def keep_sampling(sampler: Sampler, every_s: float, tell: Callable[[dict[str, Any]], Any]) -> None:
    """Tell what is read, every so many seconds, for as long as this process lives; nothing where nothing is known."""

    def run() -> None:
        pause = threading.Event()
        while not pause.wait(every_s):
            found = sampler.read()
            if found:
                tell(found)

    threading.Thread(target=run, name="sampler", daemon=True).start()


def _network_bytes() -> tuple[int, int]:
    """Received and sent since the machine started, without what it sends to itself."""
    counters = psutil.net_io_counters(pernic=True)
    cards = [counter for name, counter in counters.items() if name != "lo"]
    return sum(card.bytes_recv for card in cards), sum(card.bytes_sent for card in cards)


def _handles(gpus: Sequence[str]) -> dict[str, Any]:
    import pynvml

    handles: dict[str, Any] = {}
    if not gpus:
        return handles
    with suppress(pynvml.NVMLError):  # no driver, or a card that it does not know
        pynvml.nvmlInit()
        for gpu in gpus:
            by_index = gpu.isdigit()
            handles[gpu] = (
                pynvml.nvmlDeviceGetHandleByIndex(int(gpu)) if by_index else pynvml.nvmlDeviceGetHandleByUUID(gpu)
            )
    return handles


def _card(handle: Any) -> dict[str, Any]:
    """A slice of a card tells neither its use nor its power."""
    import pynvml

    found: dict[str, Any] = {}
    with suppress(pynvml.NVMLError):
        found["vram_mib"] = pynvml.nvmlDeviceGetMemoryInfo(handle).used // _MIB
    with suppress(pynvml.NVMLError):
        found["gpu"] = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
    with suppress(pynvml.NVMLError):
        found["power_w"] = round(pynvml.nvmlDeviceGetPowerUsage(handle) / 1000, 1)
    return found
