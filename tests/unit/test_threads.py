"""Calls that hang are left behind, and others go on."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from pipeline.config import FetchConfig
from pipeline.fetching import files
from pipeline.fetching.fetcher import Fetcher
from pipeline.fetching.outcome import FetchError
from pipeline.fetching.threads import DaemonPool


def test_results_and_errors_come_back() -> None:
    """Many calls on few threads, and one that raises."""

    async def check() -> None:
        pool = DaemonPool(3, 5, "test")
        results = await asyncio.gather(*(pool.run(5, divmod, number, 7) for number in range(50)))
        assert results == [divmod(number, 7) for number in range(50)]
        with pytest.raises(ZeroDivisionError):
            await pool.run(5, divmod, 1, 0)

    asyncio.run(check())


def test_a_hanging_call_is_replaced_and_counted() -> None:
    """With one thread, a call that hangs costs its own time-out only; too many stop new ones until they return."""
    released = threading.Event()

    async def check() -> None:
        pool = DaemonPool(1, 2, "test")
        for _ in range(2):
            with pytest.raises(TimeoutError):
                await pool.run(0.05, released.wait)
            if pool.left < 2:
                assert await pool.run(5, abs, -3) == 3
        with pytest.raises(TimeoutError, match="2 earlier calls still hang"):
            await pool.run(5, abs, -3)
        released.set()
        while pool.left:
            await asyncio.sleep(0.01)
        assert await pool.run(5, abs, -3) == 3

    asyncio.run(asyncio.wait_for(check(), 20))


@pytest.mark.lengthy
def test_files_that_hang_hold_up_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a mount whose server is away: each such file is a timeout after one attempt, the rest are read."""
    released = threading.Event()
    true_read = files._read

    def read(file: object, *rest: object) -> object:
        if getattr(file, "name", "").endswith("stuck"):
            released.wait(30)
        return true_read(file, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "_read", read)
    for name in ("stuck", "fine"):
        (tmp_path / name).write_bytes(b"x")
    config = FetchConfig(concurrency=4, total_timeout_s=0.3)
    start = time.monotonic()
    with Fetcher(config, roots=(str(tmp_path),)) as fetcher:
        stuck = [fetcher.begin(f"{tmp_path}/stuck") for _ in range(8)]
        fine = [fetcher.begin(f"{tmp_path}/fine") for _ in range(50)]
        assert all(future.result(20).data == b"x" for future in fine)
        results = [future.result(20) for future in stuck]
        assert [(result.attempts, result.error and result.error.kind) for result in results] == [(1, "timeout")] * 8
        with pytest.raises(FetchError, match=r"fetch\.total_timeout_s"):
            fetcher.fetch(f"{tmp_path}/stuck")
    released.set()
    assert time.monotonic() - start < 20
