"""What is shown while a run works."""

import io

import pytest
from rich.console import Console

from pipeline import progress
from pipeline.progress import RunProgress


def test_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """One plain line per interval: done, speed, rejects, time left."""
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    screen = io.StringIO()
    with RunProgress(Console(file=screen, width=40), total=100, done=20) as shown:
        shown.add(30, ["truncated"])
        shown.show(10, "1 replica(s)")
    line = screen.getvalue().splitlines()[0]
    assert line.startswith("60 of 100 images, ")
    assert "1 rejects" in line
    assert "left, 1 replica(s)" in line


def test_progress_never_goes_back() -> None:
    """Images under way vanish from the Fleet's count a moment before their chunk is counted."""
    with RunProgress(Console(file=io.StringIO()), total=100, done=0) as shown:
        shown.show(40, "")
        shown.show(0, "")
        assert shown._shown == 40
