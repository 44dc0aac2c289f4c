"""The server of the page: on this machine's own address, until it is interrupted."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from pipeline.errors import InputError
from pipeline.explore.app import HOST, make_app
from pipeline.explore.browse import Browser


@contextmanager
def listening(port: int) -> Iterator[socket.socket]:
    """A socket of this machine only. port: 0 = one that is free. Raises InputError for one that cannot be had."""
    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            own.bind((HOST, port))
            own.listen()
        except OSError as error:
            raise InputError(
                f"--port {port}: {error.strerror}; give another one, or none for one that is free"
            ) from error
        yield own


def serve(browser: Browser, own: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer at a socket until Ctrl-C. ready: called with the address when it can be opened."""
    # A browser that keeps a connection open does not keep the command from ending.
    settings = uvicorn.Config(
        make_app(browser), log_level="warning", access_log=False, timeout_graceful_shutdown=1, lifespan="off"
    )
    ready(f"http://{HOST}:{own.getsockname()[1]}/")
    try:
        uvicorn.Server(settings).run(sockets=[own])
    except KeyboardInterrupt:
        return
