"""When a source is asked: how many at once in all and of one host, and how long to wait before asking again."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from pipeline.config import FetchConfig
from pipeline.fetching.outcome import FetchError


class _Host:
    """One host's share. open_at: time of the loop before which it asked not to be asked."""

    def __init__(self, most: int) -> None:
        self.slots = asyncio.Semaphore(most)
        self.open_at = 0.0


class Pace:
    """Slots for attempts; a row that waits for its host, or for its next attempt, holds no slot of the others."""

    def __init__(self, config: FetchConfig) -> None:
        self._config = config
        self._slots = asyncio.Semaphore(config.concurrency)
        self._hosts: WeakValueDictionary[str, _Host] = WeakValueDictionary()

    @asynccontextmanager
    async def turn(self, host: str | None) -> AsyncIterator[None]:
        """Within: one attempt may be made. host: of http(s) uris, else None."""
        if host is None:
            async with self._slots:
                yield
            return
        share = self._share(host)
        async with share.slots:
            while (wait := share.open_at - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(wait)
            async with self._slots:
                yield

    def wait_s(self, host: str | None, attempt: int, error: FetchError) -> float | None:
        """Seconds until the next attempt after the attempt-th (from 1) failed; None if there is to be none.

        Exponential back-off with equal jitter (half fixed, half random). A host's Retry-After holds for all its rows.
        """
        config = self._config
        if attempt > config.retries or not error.repeated:
            return None
        longest: float = min(config.max_backoff_s, config.backoff_s * 2 ** (attempt - 1))
        wait: float = longest * (0.5 + random.random() / 2)
        asked = error.retry_after_s
        if asked is None:
            return wait
        if asked > config.max_backoff_s:
            return None
        if host is not None:
            share = self._share(host)
            share.open_at = max(share.open_at, asyncio.get_running_loop().time() + asked)
        return max(wait, asked)

    def _share(self, host: str) -> _Host:
        share = self._hosts.get(host)
        if share is None:
            share = self._hosts[host] = _Host(self._config.concurrency_per_host)
        return share
