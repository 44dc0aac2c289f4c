"""A disk that is full behind what a command writes to."""

import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_run import Cards, write_run

from pipeline.stores.local_store import LocalStore

FULL = Path("/dev/full")


@pytest.mark.lengthy
@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_standard_output_without_room_is_one_line(tmp_path: Path) -> None:
    """And exit code 1: what was written is not the whole report."""
    write_run(LocalStore(tmp_path), images=10, attempts=2, fleet=[Cards("t4", "T4", 1, 20.0)])
    with FULL.open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "jobs.main", "report", str(tmp_path), "--json"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 1
    said = "ramfleet: standard output: No space left on device: make room, then run the same command again\n"
    assert ended.stderr == said
