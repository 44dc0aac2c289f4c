"""What the driver shows while a run works: a bar on a terminal, a line per interval elsewhere."""

import time
from collections import Counter
from collections.abc import Iterable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

_LINE_EVERY_S = 10.0


class RunProgress:
    """Images done, images/s, rejects and time left; use as a context manager.

    total: planned rows of the run; done: of these, rows that were committed before.
    """

    def __init__(self, console: Console, total: int, done: int) -> None:
        self._console = console
        self._total = total
        self._before = done
        self._finished = 0
        self._shown = 0
        self._rejects: Counter[str] = Counter()
        self._started = time.monotonic()
        self._line_at = self._started + _LINE_EVERY_S
        self._note = "starting replicas"
        self._bar = Progress(
            TextColumn("[bold]tagging"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("tagging", total=total, completed=done, state=self._note)

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.show(0, "")
        self._bar.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first replica could have begun."""
        return time.monotonic() - self._started

    @property
    def total(self) -> int:
        """Planned rows of the run."""
        return self._total

    @property
    def finished(self) -> int:
        """Rows that this driver has finished."""
        return self._finished

    @property
    def left(self) -> int:
        """Rows that are not finished."""
        return self._total - self._before - self._finished

    def add(self, rows: int, rejects: Iterable[str]) -> None:
        """A chunk is done."""
        self._finished += rows
        self._rejects.update(rejects)

    def say(self, notice: str) -> None:
        """Print a line above the bar."""
        self._console.print(notice, soft_wrap=True, highlight=False, markup=False)

    def show(self, under_way: int, note: str) -> None:
        """Draw. under_way: images of unfinished chunks that the replicas have done; note: what is waited for."""
        self._note = note
        # What is under way falls back to zero when a lease ends, a moment before its chunk counts as finished.
        self._shown = min(self._total - self._before, max(self._shown, self._finished + under_way))
        self._bar.update(self._task, completed=self._before + self._shown, state=self._state())
        if not self._console.is_terminal and time.monotonic() >= self._line_at:
            self._line_at = time.monotonic() + _LINE_EVERY_S
            self._console.print(
                f"{self._before + self._shown} of {self._total} images, {self._state()}", soft_wrap=True
            )

    def _state(self) -> str:
        rate = self._shown / max(self.elapsed_s, 1e-9)
        left = self._total - self._before - self._shown
        parts = [f"{rate:.1f} images/s" if self._shown else "", f"{self._rejects.total()} rejects"]
        if self._shown and left:
            parts.append(f"{_duration(left / rate)} left")
        return ", ".join(filter(None, [*parts, self._note]))


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
