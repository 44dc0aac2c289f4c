"""Threads for calls that may never return: a call that hangs is left behind, and another thread takes its place."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")

_IDLE_S = 10.0
"""A thread without work ends after so long."""


class _Call:
    """A call to make, and where its result goes."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.future: Future[Any] = Future()
        self.left_behind = False
        self._function, self._arguments = function, arguments

    def make(self) -> tuple[Any, BaseException | None]:
        try:
            return self._function(*self._arguments), None
        except BaseException as error:  # noqa: BLE001 - it is raised where the call was asked for
            return None, error


class DaemonPool:
    """Runs blocking calls in daemon threads: neither a hanging one nor its thread holds up others or the process's end.

    most: calls at work at once, those left behind not counted; most_left: calls left behind at once, beyond which
    new calls fail at once with TimeoutError.
    """

    def __init__(self, most: int, most_left: int, name: str) -> None:
        self._most, self._most_left, self._name = most, most_left, name
        self._waiting: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._threads = self._idle = self._left = 0

    @property
    def left(self) -> int:
        """Calls that are left behind and have not returned yet."""
        return self._left

    async def run(self, timeout_s: float, function: Callable[..., T], *arguments: Any) -> T:
        """The call's result. Raises TimeoutError after timeout_s, or what the call raises."""
        if self._left >= self._most_left:
            raise TimeoutError(f"{self._left} earlier calls still hang")
        call = _Call(function, arguments)
        with self._changed:
            self._waiting.append(call)
            self._staff()
        try:
            async with asyncio.timeout(timeout_s):
                result: T = await asyncio.wrap_future(call.future)
                return result
        finally:
            if not call.future.cancel():
                self._leave_behind(call)

    def _staff(self) -> None:
        """Wake a thread, or start one, for work that waits; within the lock."""
        if self._idle >= len(self._waiting):
            self._changed.notify()
        elif self._waiting and self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def _work(self) -> None:
        while (call := self._next()) is not None:
            if call.future.set_running_or_notify_cancel() and not self._finish(call, *call.make()):
                return

    def _next(self) -> _Call | None:
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._waiting, _IDLE_S)
            self._idle -= 1
            if self._waiting:
                return self._waiting.popleft()
            self._threads -= 1
            return None

    def _finish(self, call: _Call, result: Any, error: BaseException | None) -> bool:
        """Hand the result over; False if nobody waits for it, as then this thread has been replaced."""
        with self._changed:
            if call.left_behind:
                self._left -= 1
                return False
            if error is None:
                call.future.set_result(result)
            else:
                call.future.set_exception(error)
            return True

    def _leave_behind(self, call: _Call) -> None:
        with self._changed:
            if not call.future.done():
                call.left_behind = True
                self._left += 1
                self._threads -= 1
                self._staff()
