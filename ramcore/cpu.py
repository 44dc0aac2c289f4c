"""The CPU of this machine, as the operating system describes it."""

import platform
from pathlib import Path

_NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
"""Flags of instructions that multiply bf16: Cooper Lake and Zen 4 on, Sapphire Rapids on, Armv8.6 on."""


def read_cpu() -> tuple[str, bool]:
    """Name of the CPU, and whether it has instructions for bf16 (False where that cannot be read)."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # no Linux
        return platform.processor() or platform.machine(), False
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((values.get("flags") or values.get("Features") or "").split())
    return values.get("model name") or platform.machine(), bool(_NATIVE_BF16 & flags)
