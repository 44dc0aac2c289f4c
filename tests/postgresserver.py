"""A real PostgreSQL for tests: Debian's, started by the project's own script."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "infra/services/postgres.sh"
_MISSING = "is not installed"


def serve(folder: Path) -> Iterator[str]:
    """Its address while the generator is open; skips the test where it cannot be had, which is a failure in CI."""
    run = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
    if run.returncode:
        if _MISSING in run.stderr and os.environ.get("CI") != "true":
            pytest.skip("needs PostgreSQL: `make services` as root installs it")
        pytest.fail(f"{SCRIPT} start: exit {run.returncode}\n{run.stderr}")
    try:
        yield run.stdout.strip().removeprefix("DATABASE_URL=")
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True)
