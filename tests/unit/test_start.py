"""What a command imports before it knows what it is asked for."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "ray", "pyarrow", "pandas", "matplotlib", "numpy", "timm")


@pytest.mark.lengthy
@pytest.mark.parametrize("arguments", [["--help"], ["tag", "--help"], ["status", "--help"], ["--version"]])
def test_help_does_not_wait_for_heavy_modules(arguments: list[str]) -> None:
    """They take seconds; a command imports them when it begins to work."""
    program = (
        "import sys, jobs.main\n"
        f"jobs.main.app({arguments!r}, standalone_mode=False)\n"
        f"print('heavy:', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "heavy: []"


@pytest.mark.lengthy
def test_a_run_is_driven_without_torch() -> None:
    """It takes half a gigabyte and a second; only what decodes and tags needs it."""
    program = "import sys, pipeline.tag\nprint([name for name in ('torch', 'timm', 'ray') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "['ray']"
