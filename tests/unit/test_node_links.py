"""Connections to nodes' daemons: their end is told at once, and only when the daemon takes no other."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from pipeline.fleet import node_links
from pipeline.fleet.background import Background
from pipeline.fleet.node_links import NodeLinks
from pipeline.fleet.node_probe import unreachable

NEVER_S = 3600.0


class Daemon:
    """A node that takes TCP connections, as a raylet does."""

    def __init__(self) -> None:
        self.open: list[asyncio.StreamWriter] = []
        self.taken = self.left = 0

    async def start(self, node_id: str = "a") -> dict[str, Any]:
        """The node as Ray lists it."""
        self._server = await asyncio.start_server(self._take, "127.0.0.1")
        return {
            "NodeID": node_id,
            "NodeManagerAddress": "127.0.0.1",
            "NodeManagerPort": self._server.sockets[0].getsockname()[1],
        }

    async def die(self) -> None:
        """As the end of its process does."""
        self._server.close()
        self.hang_up()

    def hang_up(self) -> None:
        """Close what is open, and live on."""
        while self.open:
            self.open.pop().close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        self.open.append(writer)
        with suppress(ConnectionError):
            await reader.read()
        self.left += 1


async def until(is_so: Callable[[], bool]) -> None:
    """Wait, for ten seconds at most."""
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


def looked(scenario: Callable[[Daemon, NodeLinks, list[int]], Awaitable[None]]) -> int:
    """How often a loop that by itself would look once only has looked, at the end of the scenario."""
    looks: list[int] = []

    async def look() -> None:
        looks.append(len(looks))

    async def run() -> None:
        background, daemon = Background(), Daemon()
        background.keep(look, NEVER_S)
        await until(lambda: bool(looks))
        await scenario(daemon, NodeLinks(background), looks)
        background.check()

    asyncio.run(run())
    return len(looks)


def test_the_end_of_a_daemon_wakes_the_loop() -> None:
    """Long before its time has come."""

    async def scenario(daemon: Daemon, links: NodeLinks, looks: list[int]) -> None:
        links.keep([await daemon.start()])
        await until(lambda: bool(daemon.open))
        await daemon.die()
        await until(lambda: len(looks) > 1)

    assert looked(scenario) == 2


def test_a_daemon_that_only_hangs_up_is_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is looked at for it; its end is noticed afterwards as well."""
    monkeypatch.setattr(node_links, "_PAUSE_S", 0.01)

    async def scenario(daemon: Daemon, links: NodeLinks, looks: list[int]) -> None:
        links.keep([await daemon.start()])
        await until(lambda: bool(daemon.open))
        daemon.hang_up()
        await until(lambda: daemon.taken >= 3)  # the first, the question whether it lives, the next
        assert len(looks) == 1
        await daemon.die()
        await until(lambda: len(looks) > 1)

    assert looked(scenario) == 2


def test_a_node_that_is_not_asked_for_any_more_is_let_go() -> None:
    """Its connection is closed, and its end wakes nobody."""

    async def scenario(daemon: Daemon, links: NodeLinks, looks: list[int]) -> None:
        links.keep([await daemon.start()])
        await until(lambda: bool(daemon.open))
        links.keep([])
        await until(lambda: daemon.left == 1)
        await daemon.die()
        await asyncio.sleep(0.1)

    assert looked(scenario) == 1


def test_a_node_whose_link_has_ended_is_linked_again_when_it_is_back() -> None:
    """Kept once more, it wakes once more."""

    async def scenario(daemon: Daemon, links: NodeLinks, looks: list[int]) -> None:
        node = await daemon.start()
        links.keep([node])
        await until(lambda: bool(daemon.open))
        await daemon.die()
        await until(lambda: len(looks) > 1)
        again = Daemon()
        links.keep([await again.start()])
        await until(lambda: bool(again.open))
        await again.die()
        await until(lambda: len(looks) > 2)

    assert looked(scenario) == 3


def test_one_connection_is_held_however_often_it_is_asked_for() -> None:
    """The loop asks every second."""

    async def scenario(daemon: Daemon, links: NodeLinks, looks: list[int]) -> None:
        node = await daemon.start()
        for _ in range(5):
            links.keep([node])
            await asyncio.sleep(0.01)
        assert (daemon.taken, daemon.left) == (1, 0)
        await daemon.die()
        await until(lambda: len(looks) > 1)

    assert looked(scenario) == 2


def test_too_many_open_files_here_are_no_dead_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is refused is an answer, one that cannot be tried is none; links are tried again."""
    monkeypatch.setattr(node_links, "_PAUSE_S", 0.01)
    connect = asyncio.open_connection

    async def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def scenario(daemon: Daemon, links: NodeLinks, looks: list[int]) -> None:
        node = await daemon.start()
        monkeypatch.setattr(asyncio, "open_connection", none_left)
        links.keep([node])
        await asyncio.sleep(0.1)
        assert await unreachable([node]) == set()
        assert len(looks) == 1
        monkeypatch.setattr(asyncio, "open_connection", connect)
        await until(lambda: bool(daemon.open))
        await daemon.die()
        assert await unreachable([node]) == {"a"}
        await until(lambda: len(looks) > 1)

    assert looked(scenario) == 2
