"""Tasks beside an actor's methods, none of which may fail without being noticed."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any


class Background:
    """Tasks of one event loop. The first that fails ends the loop of `keep`, and `check` raises its error."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._broken: BaseException | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something once. The task may be cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # asyncio itself keeps no strong reference
        task.add_done_callback(self._on_done)
        return task

    def keep(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Run something again and again from now on; once for each `Background`, further calls do nothing."""
        if self._loop is None:
            self._loop = asyncio.create_task(self._again(work, every_s))

    def wake(self) -> None:
        """What `keep` was given runs as soon as it can, instead of when its time has come."""
        self._woken.set()

    def check(self) -> None:
        """Raise what ended the loop, if anything did."""
        if self._loop is not None and self._loop.done():
            self._loop.result()

    async def _again(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        while self._broken is None:
            self._woken.clear()
            await work()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), every_s)
        raise self._broken

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and self._broken is None:
            self._broken = task.exception()
