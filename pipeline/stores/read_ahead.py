"""Many small objects, read in order with several reads under way: a bucket answers late, but to many at once."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_UNDER_WAY = 16

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(read: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map(read, items)` on threads; no more results than are under way are held in memory."""
    with ThreadPoolExecutor(_UNDER_WAY, thread_name_prefix="read") as pool:
        coming = iter(items)
        futures: deque[Future[Result]] = deque(pool.submit(read, item) for item in islice(coming, _UNDER_WAY))
        try:
            while futures:
                result = futures.popleft().result()
                futures.extend(pool.submit(read, item) for item in islice(coming, 1))
                yield result
        finally:
            for future in futures:
                future.cancel()
