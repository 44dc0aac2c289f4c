"""Calls to the Fleet that outlive the Fleet's own process: it starts again, and the call is made again."""

import asyncio
import time
from typing import Any

import ray
from ray.exceptions import RayActorError

_PATIENCE_S = 60.0
_PAUSE_S = 0.3


class _Patience:
    """Ends once calls have failed for a minute without one that was under way for longer than a pause."""

    def __init__(self) -> None:
        self._failing_since = self._called_at = time.monotonic()

    def calling(self) -> None:
        self._called_at = time.monotonic()

    def over(self) -> bool:
        now = time.monotonic()
        if now - self._called_at > _PATIENCE_S:
            self._failing_since = now
        return now - self._failing_since > _PATIENCE_S


def ask(actor: Any, method: str, *arguments: Any) -> Any:
    """The answer of an actor's method. Raises RayActorError once the actor has been dead for a minute."""
    patience = _Patience()
    while True:
        patience.calling()
        try:
            return ray.get(getattr(actor, method).remote(*arguments))
        except RayActorError:
            if patience.over():
                raise
            time.sleep(_PAUSE_S)


async def ask_async(actor: Any, method: str, *arguments: Any) -> Any:
    """As `ask`, on an event loop."""
    patience = _Patience()
    while True:
        patience.calling()
        try:
            return await getattr(actor, method).remote(*arguments)
        except RayActorError:
            if patience.over():
                raise
            await asyncio.sleep(_PAUSE_S)
